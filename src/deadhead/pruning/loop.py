"""The loop of a run: its set-up, its steps one at a time, and its outcome."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from deadhead.data.inputs import Batch
from deadhead.errors import DataError
from deadhead.measure import Timer, model_size
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoChoice, AutoSelector
from deadhead.pruning.judging import as_it_is, judge_for
from deadhead.pruning.moves import (
    Limits,
    check_met,
    context_of,
    count_moves,
    count_scorings,
    limits_of,
    moves_within,
    prompt_grams,
)
from deadhead.pruning.progress import Completed, Forecast, Progress
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.pruning.stopping import StopRules
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import (
    Fits,
    applied_repaired,
    apply_repaired_,
    fit,
    repair_notes,
    without_training,
)
from deadhead.scoring import Scorer
from deadhead.strategies import Move, shortfall
from deadhead.surgery import masked
from deadhead.types import Head, HeadMask, HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.tasks import Evaluation, TaskSet


class PruneLoop:
    """A run of `prune`, one step at a time; the model is only masked.

    Iterating yields every new step, the dense model first; then `outcome` returns what was found.

    Args: as of `prune`.

    Raises:
        BudgetError, HeadError: as `prune`, before any work.
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
        moves = count_moves(self.view, self.recipe, self.limits)
        every = self.recipe.judged_every
        judged = min(self.judge.points, moves) if every is None else -(-moves // every)
        first = len(self.origin.dropped)
        extra = 0 < self.limits.plan < self.limits.curve and not self._is_point(
            self.limits.plan - 1, self.limits.plan
        )
        return Forecast(
            heads=self.limits.curve - first,
            n_heads=self.origin.n_heads,
            moves=moves,
            judgments=1 + judged + extra,
            examples=self.judge.size,
            scorings=count_scorings(self.view, self.recipe),
            calibration=self.tasks.calibration.size,
            on=self.judge.on,
        )

    def __iter__(self) -> Iterator[Step]:
        """Yield every step that the completed part does not have."""
        if not self.steps:
            timer = Timer(self.view.model)
            self._judged[self.origin] = self.judge.dense()
            self.progress.on_work("evaluate")
            dense = self._judged[self.origin].value
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
        if self.limits.meter is not None and self.recipe.max_drop is None:
            check_met(self.limits.meter, self.steps[-1].mask)

    def outcome(self) -> Pruning:
        """Return what the run found, its plan's repair fitted, and the model trained by `distill`.

        Cost: the fits and the training; another judgment where the plan's model was not judged.
        """
        judge, dense = self.judge, self.steps[0].metric
        better = judge.greater_is_better
        good = [
            step
            for step in self.steps[1:]
            if len(step.mask.dropped) <= self.limits.plan
            and self.stop.acceptable(step, dense, greater_is_better=better)
        ]
        mask = (good or self.steps[:1])[-1].mask
        copies = self._copies_of(mask)
        fits, recipe = self._fits(mask, copies), self.recipe
        notes = [*(self.scorer.notes if recipe.needs_scores else ()), *repair_notes(fits)]
        short = shortfall(self.view, self.origin, recipe.rules, recipe.heads)
        if recipe.budget is None and short:
            notes.insert(0, short)
        plan = recipe.plan(mask, copies)
        result = Pruning(
            trajectory=Trajectory(self.steps[0], tuple(self.steps[1:]), judge.metric, better),
            scores=self.score.first,
            plan=plan if fits else replace(plan, repair="none"),
            source=self.view.model,
            size=model_size(self.view.model),
            fits=fits,
            moments=self.scorer.moments if recipe.repair != "none" else None,
            evaluated_on=judge.on,
            recipe=recipe,
            choice=self.choice,
            dense=self._judged.get(self.origin),
            pruned=self._judgement_of(plan, fits),
            notes=tuple(notes),
        )
        return self._trained(result) if without_training(result.plan) != result.plan else result

    def _judgement_of(self, plan: PruningPlan, fits: Fits) -> Evaluation | None:
        """Return what the judge says of a plan's model; None if an interrupted run had asked it."""
        if plan.mask == self.origin or self.recipe.repair_at == "step" or not fits:
            return self._judged.get(plan.mask)
        fitted = without_training(plan)
        return self.judge.changed(lambda: applied_repaired(self.view, fitted, fits))

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
        most = self.limits.plan
        at = most if self.recipe.max_drop is None else (len(self.origin.dropped) + most + 1) // 2
        self.scorer = self._scorer(at)
        if self.choice is not None:
            self.progress.on_choice(self.choice)
        self.score = _Scores(self.scorer, self.origin, self.progress, self.completed.scores)
        prompts = self.prompts
        if prompts is None and self.recipe.needs_prompts:
            prompts = self.tasks.calibration.batches()
        self.grams = prompt_grams(self.view, prompts, self.recipe)

    def _scorer(self, at: int) -> Scorer:
        view, calibration, recipe = self.view, self.tasks.calibration, self.recipe
        self.choice = self.completed.choice if recipe.undecided else None
        if recipe.undecided and self.choice is None:
            selector = AutoSelector(
                view,
                calibration.batches(),
                calibration.probes(),
                loss=recipe.loss,
                seed=recipe.seed,
                strict=recipe.strict,
            )
            self.choice = selector(recipe, at)
            self.recipe = self.choice.recipe
            return selector.scorers.of(self.recipe.criterion)
        if self.choice is not None:
            recipe = self.recipe = self.choice.recipe
        repairs = recipe.repair != "none"
        return Scorer(
            view,
            calibration.batches() if recipe.needs_scores or repairs else None,
            recipe.criterion if recipe.needs_scores else None,
            moments=repairs,
            loss=recipe.loss,
            seed=recipe.seed,
            strict=recipe.strict,
        )

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
        if self.stop.met(self.steps[1:], dense, greater_is_better=better):
            return True
        return self.limits.meter is not None and self.limits.meter.met(self.steps[-1].mask)

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
        mask, copies = move.mask, move.copies
        fits = self._fits(mask, copies) if self.recipe.repair_at == "step" else {}
        plan = self.recipe.plan(mask, copies)
        plan = without_training(plan) if fits else replace(plan, repair="none")

        def change() -> AbstractContextManager[nn.Module]:
            if copies or fits:
                return applied_repaired(self.view, plan, fits)
            return masked(self.view, mask)  # no rules of surgery to check at every step

        self._judged[mask] = self.judge.changed(change)
        self.progress.on_work("evaluate")
        return self._judged[mask].value

    def _fits(self, mask: HeadMask, copies: Mapping[Head, Head]) -> Fits:
        recipe = self.recipe
        if recipe.repair == "none" or mask == self.origin:
            return {}
        if self._fitted is None or self._fitted[0] != mask:
            batches = self.tasks.calibration.batches()
            plan = recipe.plan(mask, copies)
            fits = fit(self.view, plan, self.scorer.moments, batches=batches, strict=recipe.strict)
            self._fitted = mask, fits
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


class _Scores:
    """The scores of a run: those of the dense model are reported once, and kept."""

    def __init__(
        self,
        scorer: Scorer,
        origin: HeadMask,
        progress: Progress,
        first: HeadScores | None,
    ):
        self.scorer, self.origin, self.progress, self.first = scorer, origin, progress, first

    def __call__(self, mask: HeadMask) -> HeadScores:
        if mask == self.origin and self.first is not None:
            return self.first
        scores = self.scorer(mask)
        if self.first is None:
            self.first = scores
            self.progress.on_scores(scores)
        self.progress.on_work("score")
        return scores
