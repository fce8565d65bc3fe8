"""Headings of the help; options without one come first: a newcomer needs no others."""

METHOD = "Method"
LIMITS = "How much, and where to stop"
DATA = "Data"
CLUSTERS = "Strategy clusters"
PROMPTS = "Prompts"
DISTILL = "Repair distill"
LM_EVAL = "lm-eval"
MODEL = "Model and device"
OUTPUT = "Output"
PANELS = (METHOD, LIMITS, DATA, PROMPTS, CLUSTERS, DISTILL, LM_EVAL, MODEL, OUTPUT)
