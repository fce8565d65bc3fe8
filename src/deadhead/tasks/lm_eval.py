"""Evaluation with EleutherAI's lm-evaluation-harness, in process, of the model as it is now."""

from __future__ import annotations

import copy
import json
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.errors import DataError, DeadheadError
from deadhead.files import write_text
from deadhead.models.purpose import purpose_of
from deadhead.tasks.evaluation import evaluating
from deadhead.tasks.lm_eval_names import check_lm_eval_tasks, find_tasks, first_line, make_tasks

__all__ = ["check_lm_eval_tasks", "interval", "members", "primary", "run_lm_eval", "write_lm_eval"]

FRACTIONS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")

# batch size "auto" on a CPU: logits of one batch at most, in numbers (1 GiB in float32)
_LOGITS_AT_ONCE = 2**28
_BATCH_AT_MOST = 16


def run_lm_eval(
    model: nn.Module,
    tokenizer,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    batch_size: int | str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Evaluate a loaded causal language model on tasks of lm-eval.

    The model is taken as it is, masked, duplicated or cut: it is neither loaded again nor copied,
    and left as found, as are the random number generators. What lm-eval prints goes to stderr.

    Cost: that of lm-eval: one forward pass per batch of requests, and a bootstrap of 100,000 draws
        for perplexities. See `check_lm_eval_tasks` for the time it takes to find tasks.

    Args:
        model: a causal language model of transformers.
        tokenizer: the model's; a copy is used, since lm-eval may give it a padding token.
        tasks: names of tasks, groups and tags, each perhaps a list (`hellaswag,arc_easy`) or a
            pattern (`blimp_*`).
        include_path: a folder with task files of your own (*.yaml), which win over lm-eval's.
        num_fewshot: solved examples before each question; None leaves it to the task. Tasks whose
            file says 0 keep 0.
        limit: documents per task (int), or a fraction of them (float below 1); for trials.
        batch_size: requests per batch. `auto` leaves the search to lm-eval on a GPU; on a CPU it is
            at most 16, with logits over the whole context of at most 1 GiB. Numbers can differ in
            the last bits by it.
        device: moves the model there, for good; None leaves it where it is.
        seed: of lm-eval's four generators, as its `--seed`; few-shot examples depend on it.
        trust_remote_code: passed on to lm-eval; the model is loaded already, and code that comes
            with data sets is never run.

    Returns:
        What lm-eval's own command writes as JSON: results, configs, versions, n-shot, config, ...

    Source: github.com/EleutherAI/lm-evaluation-harness, `simple_evaluate` on `HFLM`.

    Example:
        >>> with masked(model, mask):  # doctest: +SKIP
        ...     results = run_lm_eval(model, tokenizer, ["hellaswag,arc_easy"], limit=100)
        >>> primary(results)  # doctest: +SKIP
        {'arc_easy': ('acc_norm', 0.41, 0.049), 'hellaswag': ('acc_norm', 0.33, 0.047)}
    """
    _check_options(num_fewshot, limit, batch_size)
    _check_model(model, tokenizer)
    # of its warnings only those of the model tell anything new: requests that had to be cut
    quiet = _quiet("lm_eval.api", "lm_eval.evaluator", "lm_eval.tasks")
    with redirect_stdout(sys.stderr), _random_state_kept(), quiet:
        names, manager = find_tasks(tasks, include_path)
        made = make_tasks(names, manager)
        if device is not None:
            model.to(device)
        with evaluating(model):
            lm = _wrapped(model, tokenizer, batch_size, trust_remote_code)
            return _evaluate(lm, names, made, manager, num_fewshot, limit, seed)


def write_lm_eval(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, in lm-eval's form, whole or not at all."""
    write_text(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def primary(results: Mapping[str, Any]) -> dict[str, tuple[str, float, float | None]]:
    """Return the main metric of each task and group: its name, value and standard error.

    That is `acc_norm` if there is one, else `acc`, else the first that the task lists. A filter
    other than none stays in the name, as lm-eval writes it (`exact_match,strict-match`). Groups
    without a metric of their own are left out.

    Unit: the task's own; `higher_is_better` says which way is better.
    """
    found = {}
    for task, row in results["results"].items():
        numbers = {
            key.removesuffix(",none"): key
            for key, value in row.items()
            if "," in key and "_stderr," not in key and isinstance(value, int | float)
        }
        if not numbers:
            continue
        name = next((n for n in ("acc_norm", "acc") if n in numbers), next(iter(numbers)))
        metric, _, filter_ = numbers[name].partition(",")
        error = row.get(f"{metric}_stderr,{filter_}")
        known = isinstance(error, int | float)
        found[task] = (name, float(row[numbers[name]]), float(error) if known else None)
    return found


def higher_is_better(results: Mapping[str, Any], task: str, metric: str) -> bool:
    """Whether more is better of a task's metric, as lm-eval says; True if it does not."""
    known = (results.get("higher_is_better") or {}).get(task) or {}
    return bool(known.get(metric.partition(",")[0], True))


def members(name: str, results: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what has a metric of its own in the results of one name.

    That is the name itself; or, of a tag or a group that does not average its tasks, the tasks.
    """
    found = primary(results)
    if name in found:
        return (name,)
    groups = results.get("group_subtasks") or {}
    return tuple(task for task in found if not groups.get(task))


def interval(metric: str, value: float, error: float | None) -> tuple[float, float]:
    """Bound a value by 1.96 standard errors either way: 95% if errors are normal.

    The bounds of an accuracy or an exact match are clipped to [0, 1]. Near 0 and 1 the interval is
    too narrow: with all answers right its width is 0.

    Shape: (low, high); NaN without a standard error.
    Unit: the metric's.
    """
    if error is None:
        return float("nan"), float("nan")
    low, high = value - 1.96 * error, value + 1.96 * error
    if metric.partition(",")[0] in FRACTIONS and 0 <= value <= 1:  # some tasks give percentages
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def _check_options(num_fewshot: int | None, limit: float | None, batch_size: int | str) -> None:
    if num_fewshot is not None and num_fewshot < 0:
        raise DataError(f"num_fewshot {num_fewshot!r} is less than none; give 0 or more")
    if limit is not None and not (0 < limit < 1 if isinstance(limit, float) else limit >= 1):
        raise DataError(
            f"limit {limit!r} is no number of documents; give a whole number of 1 or more, or a"
            " fraction between 0 and 1"
        )
    size = str(batch_size)
    if size.partition(":")[0] != "auto" and not (size.isdecimal() and int(size)):
        raise DataError(f"batch size {batch_size!r} makes no batch; give 1 or more, or 'auto'")


def _check_model(model: nn.Module, tokenizer) -> None:
    if purpose_of(getattr(model, "config", None)) not in ("causal_lm", "other", "unknown"):
        raise DataError(
            f"lm-eval does not fit {type(model).__name__!r}: it needs a causal language model; use"
            " a ...ForCausalLM model"
        )
    if tokenizer is None:
        raise DataError("lm-eval needs a tokenizer, and the model comes with none; give one")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise DataError(
            "lm-eval starts texts with the tokenizer's bos or eos token, and it has neither;"
            " set tokenizer.bos_token"
        )


def _wrapped(model: nn.Module, tokenizer, batch_size: int | str, trust_remote_code: bool) -> Any:
    from lm_eval.models import huggingface

    make: Any = huggingface.HFLM  # its decorator hides its arguments from type checkers
    with _quiet("lm_eval.models"):  # it warns of every model that it did not load itself
        lm = make(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )
    if lm.batch_size == "auto" and lm.device.type == "cpu":
        fitting = _LOGITS_AT_ONCE // (lm.max_length * lm.vocab_size)
        lm.batch_size_per_gpu = max(1, min(_BATCH_AT_MOST, fitting))
    return lm


def _evaluate(lm, names, made, manager, num_fewshot, limit, seed) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.utils import handle_non_serializable

    tracker = EvaluationTracker()
    try:
        results = simple_evaluate(
            model=lm,
            model_args={"pretrained": lm.model.name_or_path or type(lm.model).__name__},
            tasks=made,
            num_fewshot=num_fewshot,
            batch_size=lm.batch_size,
            device=str(lm.device),
            limit=limit,
            log_samples=False,
            evaluation_tracker=tracker,
            task_manager=manager,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except DeadheadError:
        raise
    except (LookupError, ValueError, TypeError, AssertionError) as error:  # rows that do not fit
        raise DataError(
            f"lm-eval cannot evaluate {', '.join(names)} ({type(error).__name__}:"
            f" {first_line(error)}); check the task's file and rows"
        ) from error
    if results is None:
        raise DataError(
            "lm-eval gives results to the first process of a distributed run only; evaluate in one"
            " process"
        )
    tracker.general_config_tracker.log_end_time()
    whole = {**results, "task_hashes": {}, **asdict(tracker.general_config_tracker)}
    return json.loads(json.dumps(whole, default=handle_non_serializable))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Let loggers pass errors only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Give back the global generators of Python, NumPy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
