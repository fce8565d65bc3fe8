"""What `deadhead sweep` and `deadhead compare` were asked to do, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.display.brief import Brief
from deadhead.options.amounts import parse_names
from deadhead.options.distillation import Distillation
from deadhead.options.fields import option, settings
from deadhead.options.flags import batch_size_option, seed_option, trust_option
from deadhead.options.panels import LM_EVAL
from deadhead.runs.prune_settings import header_of
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid


@settings
class LmEvalSettings:
    """Which tasks of lm-eval judge as well; see `run_lm_eval`."""

    tasks: tuple[str, ...] = option(
        flags=("--lm-eval",),
        help="Tasks and groups of lm-evaluation-harness that judge as well, as hellaswag,arc_easy"
        " (needs deadhead[eval]).",
        panel=LM_EVAL,
        parse=parse_names,
        kw_only=False,
    )
    include_path: Path | None = option(
        default=None,
        help="Folder of lm-eval task files of your own.",
        panel=LM_EVAL,
        group="lm-eval",
    )
    num_fewshot: int | None = option(
        default=None, help="Solved examples in each prompt.", panel=LM_EVAL, group="lm-eval"
    )
    limit: int | None = option(
        default=None, help="Examples per task at most.", panel=LM_EVAL, group="lm-eval"
    )
    batch_size: int | None = batch_size_option()
    seed: int = seed_option()
    trust_remote_code: bool = trust_option()


@dataclass(frozen=True, repr=False)
class SweepSettings(Brief):
    """A whole `deadhead sweep`.

    Attributes:
        model, data, sweep: see there.
        output: the folder.
        prompts: what heads are compared on; None: the calibration data.
        also: further test sets, read by the same kind and columns as `data`: where it names none,
            each as its own columns say.
        lm_eval: tasks and groups of lm-eval that judge as well; of a group without a metric of its
            own, and of a tag, each task.
        distillation: how the repair `distill` trains.
        measure_speed: time the models that are smaller.
        measure_size: cut the models that get smaller, and measure their size; else only their
            outputs are judged.
        kind: what it is called in its title: sweep or compare.
        command: the command as it was typed; not compared on resume.
    """

    model: ModelSettings
    data: DataSettings
    sweep: SweepGrid
    output: Path
    prompts: PromptSettings | None = None
    also: tuple[str, ...] = ()
    lm_eval: LmEvalSettings | None = None
    distillation: Distillation = field(default_factory=Distillation)
    measure_speed: bool = True
    measure_size: bool = True
    kind: str = "sweep"
    command: str = field(default="", compare=False)

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a sweep goes on: a JSON value."""
        return header_of(self)
