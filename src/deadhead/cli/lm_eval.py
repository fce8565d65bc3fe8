"""The options of lm-eval, for the commands that judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LM_EVAL = "lm-eval"

LmEvalOption = Annotated[
    str | None,
    typer.Option(
        "--lm-eval",
        help="Tasks and groups of lm-evaluation-harness that judge as well, as hellaswag,arc_easy"
        " (needs deadhead\\[eval]).",
        rich_help_panel=LM_EVAL,
    ),
]
IncludePathOption = Annotated[
    Path | None,
    typer.Option(help="Folder of lm-eval task files of your own.", rich_help_panel=LM_EVAL),
]
FewshotOption = Annotated[
    int | None,
    typer.Option("--num-fewshot", help="Solved examples in each prompt.", rich_help_panel=LM_EVAL),
]
LimitOption = Annotated[
    int | None, typer.Option(help="Examples per task at most.", rich_help_panel=LM_EVAL)
]
