"""Studies: many runs compared: baselines, sweeps, explanations."""
