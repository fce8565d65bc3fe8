"""The loop of a run: its set-up, its steps one at a time, and its outcome."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from deadhead.data.batches import Batch
from deadhead.errors import DataError
from deadhead.measure import Timer, model_size
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoChoice, AutoSelector
from deadhead.pruning.judges import as_it_is, judge_for
from deadhead.pruning.moves import (
    Limits,
    context_of,
    count_moves,
    count_scorings,
    limits_of,
    moves_within,
    prompt_grams,
)
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Completed, Forecast, Progress, Step, StopRules, Trajectory
from deadhead.repair import (
    Fits,
    applied_repaired,
    apply_repaired_,
    fit,
    own_notes,
    repair_notes,
    without_training,
)
from deadhead.scoring import Scorer
from deadhead.scoring.passes import PassSettings
from deadhead.strategies import Move, shortfall
from deadhead.surgery import masked
from deadhead.types import Head, HeadMask, HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.tasks import Evaluation, TaskSet


class PruneLoop:
    """A run of `prune`, one step at a time; the model is only masked. Arguments as of `prune`.

    Iterating yields every new step, the dense model first; then `outcome` returns what was found.

    Raises:
        BudgetError, HeadError: as `prune`, before any work.
        UnsupportedModelError: a derived record does not hold for the model's config; the weights
            cannot be cut, as `HeadModel.check_loaded`.
    """

    def __init__(
        self,
        view: HeadModel,
        tasks: TaskSet,
        recipe: Recipe,
        *,
        prompts: Iterable[Batch] | None = None,
        completed: Completed | None = None,
        progress: Progress | None = None,
    ):
        view.check_loaded("prune a model")
        if any(record.derived for record in view.records):
            from deadhead.derivation.derive import check_derived  # seconds, for derived types only

            check_derived(getattr(view.model, "config", None))
        self.view, self.tasks, self.prompts = view, tasks, prompts
        self.recipe = recipe.settled()
        self.completed = completed or Completed()
        self.progress = progress or Progress()
        self.origin = view.mask
        self.limits = limits_of(view, self.recipe, tasks.calibration.batches)
        self.stop = StopRules(self.limits.curve, self.recipe.max_drop, self.recipe.patience)
        self.judge = judge_for(view, tasks, self.recipe)
        self.steps = list(self.completed.steps)
        self.choice: AutoChoice | None = None
        self._copies: dict[HeadMask, Mapping[Head, Head]] = {}
        self._judged: dict[HeadMask, Evaluation] = {}
        self._fitted: tuple[HeadMask, Fits] | None = None

    def forecast(self) -> Forecast:
        """Say what is going to be done, before anything is."""
        limits = self.limits
        moves = count_moves(self.view, self.recipe, limits)
        every = self.recipe.judged_every
        judged = min(self.judge.points, moves) if every is None else -(-moves // every)
        ends = 0 < limits.plan < limits.curve and not self._is_point(limits.plan - 1, limits.plan)
        return Forecast(
            heads=limits.curve - len(self.origin.dropped),
            n_heads=self.origin.n_heads,
            moves=moves,
            judgments=1 + judged + ends,
            examples=self.judge.size,
            scorings=count_scorings(self.view, self.recipe),
            calibration=self.tasks.calibration.size,
            on=self.judge.on,
        )

    def __iter__(self) -> Iterator[Step]:
        """Yield every step that the completed part does not have."""
        if not self.steps:
            timer = Timer(self.view.model)
            dense = self._judged_as(self.origin, self.judge.dense())
            self.steps.append(Step(self.origin, (), dense, timer.seconds))
            yield self.steps[0]
        self._set_up()
        if self.recipe.needs_scores:
            self.score(self.origin)
        moves = self._moves(self.steps[-1].mask)
        while not self._ended():
            timer = Timer(self.view.model)
            move = next(moves, None)
            if move is None:
                self.limits.check(self.steps[-1].mask)
                return
            self._copies[move.mask] = move.copies
            metric = self._metric(move) if self._is_due(move) else float("nan")
            self.steps.append(Step(move.mask, move.dropped, metric, timer.seconds, move.scores))
            yield self.steps[-1]
        if self.recipe.max_drop is None:
            self.limits.check_met(self.steps[-1].mask)

    def outcome(self) -> Pruning:
        """Return what the run found, its plan's repair fitted, and the model trained by `distill`.

        Cost: the fits and the training; another judgment where the plan's model was not judged.
        """
        judge, dense, recipe = self.judge, self.steps[0].metric, self.recipe
        better = judge.greater_is_better
        good = [
            step
            for step in self.steps[1:]
            if len(step.mask.dropped) <= self.limits.plan
            and self.stop.acceptable(step, dense, greater_is_better=better)
        ]
        mask = (good or self.steps[:1])[-1].mask
        plan = recipe.plan(mask, self._copies_of(mask))
        fits = self._fits(plan)
        plan = plan if fits else replace(plan, repair="none")
        notes = [*(self.scorer.notes if recipe.needs_scores else ()), *repair_notes(fits)]
        notes += own_notes(self.view, plan, fits)
        short = shortfall(self.view, self.origin, recipe.rules, recipe.heads)
        if recipe.budget is None and short:
            notes.insert(0, short)
        pruned = self._judged.get(mask)  # None if an interrupted run had asked the judge
        fitted = without_training(plan)
        if mask != self.origin and fits and recipe.repair_at != "step":
            pruned = judge.changed(lambda: applied_repaired(self.view, fitted, fits))
        result = Pruning(
            trajectory=Trajectory(self.steps[0], tuple(self.steps[1:]), judge.metric, better),
            scores=self.score.first,
            plan=plan,
            source=self.view.model,
            size=model_size(self.view.model),
            fits=fits,
            moments=self.scorer.moments if recipe.repair != "none" else None,
            evaluated_on=judge.on,
            recipe=recipe,
            choice=self.choice,
            dense=self._judged.get(self.origin),
            pruned=pruned,
            notes=tuple(notes),
        )
        return result if fitted == plan else self._trained(result)

    def _trained(self, result: Pruning) -> Pruning:
        """Train the cut model against the dense one; if that is in vain, the plan says so."""
        from deadhead.repair.distill import distill_

        fitted, tasks = without_training(result.plan), self.tasks
        cut = apply_repaired_(copy.deepcopy(result.source), fitted, result.fits)
        report = distill_(
            cut,
            result.source,
            tasks.training or tasks.calibration,
            selection=tasks.selection,
            settings=self.recipe.distillation,
            on_step=self.progress.on_train,
        )
        if not report.best_step:
            said = f"distill made nothing better: the weights of {fitted.repair} are kept"
            return replace(result, plan=fitted, trained=report, notes=(*result.notes, said))
        pruned = self.judge.changed(lambda: as_it_is(cut))
        return replace(result, trained=report, pruned=pruned).with_model(cut)

    def _set_up(self) -> None:
        """Settle the recipe, if `auto` has to, and make what scores by it."""
        # how many will be removed is not known where a metric stops it: then at half of them
        most, view, calibration = self.limits.plan, self.view, self.tasks.calibration
        at = most if self.recipe.max_drop is None else (len(self.origin.dropped) + most + 1) // 2
        recipe, selector = self.recipe, None
        settings = PassSettings(recipe.seed, recipe.strict)
        if recipe.undecided:
            self.choice = self.completed.choice
            if self.choice is None:
                batches, probes = calibration.batches(), calibration.probes()
                selector = AutoSelector(view, batches, probes, loss=recipe.loss, settings=settings)
                self.choice = selector(recipe, at)
            recipe = self.recipe = self.choice.recipe
            self.progress.on_choice(self.choice)
        if selector is not None:
            self.scorer = selector.scorers.of(recipe.criterion)
        else:
            used = recipe.needs_scores or recipe.repair != "none"
            self.scorer = Scorer(
                view,
                calibration.batches() if used else None,
                recipe.spec if recipe.needs_scores else None,
                moments=recipe.repair != "none",
                loss=recipe.loss,
                settings=settings,
            )
        self.score = _Scores(self.scorer, self.origin, self.progress, self.completed.scores)
        prompts = self.prompts
        if prompts is None and recipe.needs_prompts:
            prompts = calibration.batches()
        self.grams = prompt_grams(view, prompts, recipe)

    def _moves(self, start: HeadMask, limits: Limits | None = None) -> Iterator[Move]:
        context = context_of(
            self.view,
            self.recipe,
            self.score,
            scorer=self.scorer,
            grams=self.grams,
            start=start,
            history=[step.mask for step in self.steps],
        )
        return moves_within(context, self.recipe.strategy, limits or self.limits)

    def _ended(self) -> bool:
        better, dense = self.judge.greater_is_better, self.steps[0].metric
        stopped = self.stop.met(self.steps[1:], dense, greater_is_better=better)
        return stopped or self.limits.met(self.steps[-1].mask)

    def _is_due(self, move: Move) -> bool:
        """Whether the model is judged after a move: at the limits always, else at its points."""
        removed = len(move.mask.dropped)
        if removed == self.limits.plan or self.limits.reached(move.mask):
            return True
        every = self.recipe.judged_every
        if every is not None:
            return len(self.steps) % every == 0
        return self._is_point(removed - len(move.dropped), removed)

    def _is_point(self, before: int, after: int) -> bool:
        """Whether one of the judge's evenly spaced points lies in (before, after]."""
        first, last = len(self.origin.dropped), self.limits.curve
        places = [self.judge.points * (n - first) // (last - first) for n in (before, after)]
        return places[0] < places[1]

    def _metric(self, move: Move) -> float:
        plan = self.recipe.plan(move.mask, move.copies)
        fits = self._fits(plan) if self.recipe.repair_at == "step" else {}
        plan = without_training(plan) if fits else replace(plan, repair="none")

        def change() -> AbstractContextManager[nn.Module]:
            if move.copies or fits:
                return applied_repaired(self.view, plan, fits)
            return masked(self.view, move.mask)  # no rules of surgery to check at every step

        return self._judged_as(move.mask, self.judge.changed(change))

    def _judged_as(self, mask: HeadMask, evaluation: Evaluation) -> float:
        self._judged[mask] = evaluation
        self.progress.on_work("evaluate")
        return evaluation.value

    def _fits(self, plan: PruningPlan) -> Fits:
        if plan.repair == "none" or plan.mask == self.origin:
            return {}
        if self._fitted is None or self._fitted[0] != plan.mask:
            moments, strict = self.scorer.moments, self.recipe.strict
            batches = self.tasks.calibration.batches()
            fits = fit(self.view, plan, moments, batches=batches, strict=strict)
            self._fitted = plan.mask, fits
        return self._fitted[1]

    def _copies_of(self, mask: HeadMask) -> Mapping[Head, Head]:
        """Return whose copies the removed heads become; of a resumed run, grouped once more."""
        if not self.recipe.makes_groups or mask == self.origin or mask in self._copies:
            return self._copies.get(mask, {})
        limits = Limits(self.limits.curve, self.limits.curve)
        move = next(self._moves(self.origin, limits))
        if move.mask != mask:
            raise DataError(
                "the interrupted run had grouped the heads in another way: its prompts or its table"
                " of importance have changed; remove it and start again"
            )
        return move.copies


@dataclass
class _Scores:
    """The scores of a run: those of the dense model are reported once, and kept."""

    scorer: Scorer
    origin: HeadMask
    progress: Progress
    first: HeadScores | None

    def __call__(self, mask: HeadMask) -> HeadScores:
        if mask == self.origin and self.first is not None:
            return self.first
        scores = self.scorer(mask)
        if self.first is None:
            self.first = scores
            self.progress.on_scores(scores)
        self.progress.on_work("score")
        return scores
