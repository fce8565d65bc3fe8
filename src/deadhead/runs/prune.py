"""A whole run: prune, baseline, cut, judge, time, write. One folder at the end, or none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from deadhead.checkpoints import save_model
from deadhead.data.batches import to_device
from deadhead.data.inputs import longest_sample
from deadhead.display import short_name
from deadhead.errors import BudgetError, CheckpointError, DataError, OutputExistsError
from deadhead.files import check_empty, locked, whole_folder, write_json
from deadhead.measure import SpeedRow, Timer, measure_all, model_size
from deadhead.models.architectures import origin_of
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.judges import (
    COSINE,
    DIVERGENCE,
    as_it_is,
    divergences_by_text,
    judge_for,
)
from deadhead.pruning.loop import Progress, PruneLoop
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Step
from deadhead.repair import Fits, fit, repaired
from deadhead.report import RunSummary, model_card, write_report
from deadhead.runs.explain import explained
from deadhead.runs.facts import begun_with, data_facts, model_facts, occasion, provenance_of
from deadhead.runs.journal import Journal
from deadhead.runs.run_settings import RunSettings, Watch
from deadhead.runs.settings import table_fingerprint
from deadhead.studies.baseline import RandomBaseline, random_baseline
from deadhead.tasks import Task
from deadhead.types import HeadMask, PruningPlan


def run_prune(
    settings: RunSettings, *, resume: bool = False, watch: Watch | None = None
) -> RunSummary:
    """Run `deadhead prune` and write its folder.

    Raises:
        DeadheadError: of any kind; the folder is then not there, and the journal is.
    """
    check_empty(settings.output)  # before anything that takes long
    with locked(settings.output):
        return _PruneRun(settings, watch or Watch(), resume=resume).summary()


class _PruneRun:
    """One run: set up by `__init__`, done by `summary`."""

    def __init__(self, settings: RunSettings, watch: Watch, *, resume: bool):
        self.timer = Timer()
        self.watch, self.resume = watch, resume
        self.done, self.drawn = 0, False  # pieces of work; whether the random draws are among them
        self.loaded = settings.model.load()
        self.view = HeadModel(self.loaded.model)
        self.before = model_size(self.loaded.model)
        config = self.loaded.model.config
        self.tasks = settings.data.open(self.loaded.reader, config)
        if settings.prompts is not None and not settings.recipe.makes_groups:
            raise DataError(
                f"strategy {settings.recipe.strategy!r} compares no heads on prompts; leave"
                " --prompts out, or choose --strategy clusters"
            )
        self.prompts = settings.prompts and settings.prompts.open(self.loaded.tokenizer, config)
        self.trains = settings.recipe.repair == "distill"
        self.data = data_facts(
            calibration=self.tasks.calibration,
            selection=self.tasks.selection,
            training=self.tasks.training if self.trains else None,
            test=self.tasks.test,
            held_out=self.tasks.held_out,
            prompts=self.prompts,
        )
        self.settings = settings
        self.judge = judge_for(self.view, self.tasks, Recipe())  # of what is reported in the end
        table = table_fingerprint(settings.recipe.clustering.importance)
        header = begun_with(settings, self.data, table)
        self.journal = Journal.open(settings.output, header, resume=resume)
        self.spent = sum(step.seconds for step in self.journal.steps)

    def summary(self) -> RunSummary:
        """Prune, judge and write the folder."""
        pruning = self._pruned()
        baseline = self._baseline(pruning)
        self.drawn = True
        self._expect(0)  # draws may coincide
        # as it was decided on, with the repair that was done
        done = replace(pruning.recipe, repair=pruning.plan.repair)
        self.settings = replace(self.settings, recipe=done)
        record = origin_of(self.view.records)
        facts = provenance_of(model=self.loaded.name, record=record, data=self.data)
        plan = replace(pruning.plan, provenance={**self.settings.header()["recipe"], **facts})
        scores = pruning.scores
        if scores is not None:
            facts["data"] = {"calibration": self.data["calibration"]}
            scores = replace(scores, provenance={**scores.provenance, **facts})
        explanation = explained(self.view, self.tasks, self.settings.recipe, pruning)
        cut = pruning.model
        self._worked("cut")
        summary = RunSummary(
            title=f"{short_name(self.loaded.name)}: {_title(self.settings)}",
            trajectory=pruning.trajectory,
            scores=scores,
            plan=plan,
            model=model_facts(self.loaded.name, cut, self.settings.model, before=self.before),
            speed=self._speed(cut),
            evaluation=self._evaluation(pruning),
            random=baseline,
            run=self._facts(pruning),
            explanation=explanation,
        )
        self._write(summary, cut)
        return summary

    def _pruned(self) -> Pruning:
        journal = self.journal
        try:
            loop = PruneLoop(
                self.view,
                self.tasks,
                self.settings.recipe,
                prompts=None if self.prompts is None else self.prompts.batches(),
                completed=journal.completed(self.settings.recipe),
                progress=self._progress(),
            )
            self._announce(loop)
            for step in loop:
                self._keep(step, loop)
            self._expect(0)  # a stopping rule or a budget may have ended it early
            return loop.outcome()
        except CheckpointError:  # the disk is full: what is written waits for --resume
            raise
        except Exception as error:
            # only the dense model was judged, or the heads cannot be removed as they should be
            if (len(journal.steps) <= 1 or isinstance(error, BudgetError)) and not self.resume:
                journal.remove()
            raise

    def _announce(self, loop: PruneLoop) -> None:
        """Say what is going to be done."""
        say, recipe, view = self.watch.on_note, self.settings.recipe, self.view
        say(f"{self.loaded.name}: {view.mask.n_kept} heads in {len(view.blocks)} blocks")
        if record := origin_of(view.records):
            say(record)
        say(self.tasks.describe(trains=self.trains))
        named = f"{recipe.strategy} {recipe.criterion}"
        how = "auto picks the ranking" if recipe.undecided else named
        say(f"method: {how}, repair {recipe.repair}")
        self.forecast = loop.forecast()
        self._expect(1 + self.forecast.moves)
        for _ in self.journal.steps:
            self._worked("resume")
        if self.journal.steps:
            say(f"plan: {self.forecast.describe()}; {len(self.journal.steps)} are done")

    def _expect(self, now: int) -> None:
        """Say how much work there is: what is done, what comes `now`, and what follows."""
        draws = (
            0 if self.drawn else self.settings.random * (len(self.settings.random_fractions) + 1)
        )
        last = 3 + self.settings.measure_speed  # the cut, two evaluations, the timing
        self.watch.on_total(self.done + now + draws + last)

    def _worked(self, what: str) -> None:
        self.done += 1
        self.watch.on_work(what)

    def _keep(self, step: Step, loop: PruneLoop) -> None:
        if not self.journal.steps:
            judged = step.seconds if loop.judge.on != "held_out" else None  # that of no model
            self.watch.on_note(f"plan: {self.forecast.describe(judged)}")
        self.journal.steps.append(step)
        self.journal.write("step", step.to_json())
        self._worked(f"step {len(loop.steps)} of {1 + self.forecast.moves}")

    def _progress(self) -> Progress:
        journal = self.journal

        def on_choice(decision: AutoChoice) -> None:
            if journal.decision is None:  # a resumed run has it
                journal.write("decision", decision.to_json())
            self.watch.on_note(f"auto: {decision.describe()}")

        return Progress(
            on_choice=on_choice,
            on_scores=lambda scores: journal.write("scores", scores.to_json()),
            on_train=lambda step, planned: self.watch.on_note(f"distill, step {step} of {planned}"),
        )

    def _baseline(self, pruning: Pruning) -> RandomBaseline | None:
        recipe, tasks = self.settings.recipe, self.tasks

        def evaluate(mask: HeadMask) -> float:  # with the repair that the run has
            fits: Fits = {}
            if pruning.moments is not None and recipe.repair_at == "step":
                plan = PruningPlan(mask, gqa=recipe.gqa, repair=recipe.repair)
                batches = tasks.calibration.batches()
                fits = fit(self.view, plan, pruning.moments, batches=batches)
            return self.judge.changed(lambda: repaired(self.view, mask, fits)).value

        def on_point(draw: int, dropped: int, value: float) -> None:
            self.journal.write("random", [draw, dropped, value])
            self._worked("random draw")

        if not self.settings.random:
            return None
        return random_baseline(
            self.view,
            evaluate,
            rules=recipe.rules,
            draws=self.settings.random,
            fractions=self.settings.random_fractions,
            dropped=len(pruning.plan.mask.dropped),  # where the two are compared
            seed=recipe.seed,
            done=self.journal.random,
            on_point=on_point,
        )

    def _evaluation(self, pruning: Pruning) -> dict[str, Any]:
        """Judge the dense and the cut model: the numbers that are reported once."""
        known = pruning.dense if pruning.evaluated_on == self.judge.on else None
        dense = known or self.judge.dense()
        self._worked("evaluate")
        cut = self.judge.changed(lambda: as_it_is(pruning.model))  # the curve's is only masked
        self._worked("evaluate")
        test = self.tasks.test
        return {
            "divergence": self._divergences(pruning),
            "chance": None if test is None else test.chance,
            "dense": dense.metrics,
            "pruned": cut.metrics,
            "interval": {"dense": list(dense.interval()), "pruned": list(cut.interval())},
        }

    def _divergences(self, pruning: Pruning) -> dict[str, Any]:
        """Say how far the cut model is from the dense one, on the test data and on its own text."""
        texts = self.tasks.test or self.tasks.held_out
        if texts is None or self.judge.metric == COSINE:
            return {}
        cut = partial(as_it_is, pruning.model)
        found = divergences_by_text(self.view, texts, cut, seed=pruning.recipe.seed)
        if self.judge.metric == DIVERGENCE:  # which is that of these texts already
            found.pop("test", None)
        return {
            name: {
                "value": each.value,
                "interval": list(each.interval()),
                "texts": len(each.per_example),
            }
            for name, each in found.items()
        }

    def _speed(self, cut: nn.Module) -> list[SpeedRow]:
        if not self.settings.measure_speed:
            return []
        source = self.tasks.test or self.tasks.held_out or self.tasks.calibration
        rows = time_both(self.view, cut, source)
        self._worked("time")
        return rows

    def _facts(self, pruning: Pruning) -> dict[str, Any]:
        prompts, decision, trained = self.prompts, pruning.choice, pruning.trained
        facts = {
            **provenance_of(
                record=origin_of(self.view.records),
                data=self.data,
                command=self.settings.command,
                seed=self.settings.recipe.seed,
            ),
            **occasion(self.timer, self.settings.model.device),
            "notes": [*self.tasks.notes, *(prompts.notes if prompts else ()), *pruning.notes],
            "settings": self.settings.header(),
            "weights": self.settings.model.fingerprint(),
            "evaluated_on": pruning.evaluated_on,
        }
        facts["seconds"] += self.spent  # at least: loading and random draws are not in the journal
        if decision is not None:
            facts["decision"] = {**decision.to_json(), "said": decision.describe()}
        if trained is not None:
            facts["distillation"] = trained.to_json()
        return facts

    def _write(self, summary: RunSummary, cut: nn.Module) -> None:
        try:
            with whole_folder(self.settings.output) as folder:
                write_run(summary, folder)
                if self.settings.save:
                    card = model_card(summary)
                    save_model(cut, self.loaded.tokenizer, folder / "model", card=card)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, and go on with --resume") from error
        except OutputExistsError as error:
            raise OutputExistsError(
                f"{str(self.settings.output)!r} was filled by another process while this ran; move"
                " that away and go on with --resume"
            ) from error
        self.journal.remove()


def time_both(view: HeadModel, cut: nn.Module, source: Task) -> list[SpeedRow]:
    """Time a model and a cut copy on the longest example of a set."""
    one = longest_sample(view.model, source.batches())
    inputs = {} if one is None else to_device(one, view.device)
    return measure_all(view.model, cut, inputs, repeats=15, warmup=3)


def write_run(summary: RunSummary, folder: Path) -> None:
    """Write everything but the model: plan, scores, trajectory, run, figures and report.

    A run that scored no heads has no scores.json.
    """
    values = summary.to_json()
    for name in ("plan", "scores"):
        if values[name] is not None:
            write_json(folder / f"{name}.json", values.pop(name))
    summary.trajectory.to_frame().to_csv(folder / "trajectory.csv", index=False)
    write_json(folder / "run.json", values)
    write_report(summary, folder)


def _title(settings: RunSettings) -> str:
    recipe = settings.recipe
    if recipe.makes_groups:
        return f"{recipe.strategy} {recipe.clustering.name}, {recipe.action}"
    inverse = " inverse" if recipe.inverse else ""
    repair = "" if recipe.repair == "none" else f" + {recipe.repair}"
    if repair and recipe.repair_at == "end":
        repair += " of the last model alone"
    return f"{recipe.strategy}{inverse} {recipe.criterion}{repair}"
