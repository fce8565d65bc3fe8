"""The loop, which is that of transformers' Trainer, with our loss, schedule and callback on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from deadhead.data.batches import Batch
from deadhead.errors import ScoreError
from deadhead.measure import Timer
from deadhead.options.settings import Distillation
from deadhead.repair.distill.loss import Distance
from deadhead.repair.distill.run import Pace


class Student(nn.Module):
    """The model in training, as the Trainer sees it: a batch goes in, a loss comes out.

    Attributes:
        seen: (divergence, error) of every step since they were last taken.
    """

    def __init__(self, distance: Distance, *, dropout: bool):
        super().__init__()
        self.model = distance.student
        self.distance = (distance,)  # in a tuple: the dense model is not to be moved or trained
        self.dropout = dropout
        self.seen: list[tuple[float, float]] = []

    def train(self, mode: bool = True) -> Student:
        """Switch dropout on only if the settings say so."""
        super().train(mode)
        self.model.train(mode and self.dropout)
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; refuse one that is not finite."""
        divergence, error = self.distance[0](batch)
        self.seen.append((float(divergence.detach()), float(error.detach())))
        if not all(map(math.isfinite, self.seen[-1])):
            raise ScoreError(
                "the distance from the dense model is not finite; lower the learning rate of"
                " distill, or look with 'deadhead score --diagnose'"
            )
        return self.distance[0].weighted(divergence, error)

    def take_means(self) -> tuple[float, float]:
        """Return the mean divergence and error of the steps since the last call."""
        means = [sum(part) / len(self.seen) for part in zip(*self.seen, strict=True)]
        self.seen.clear()
        return means[0], means[1]


class EvaluationCallback(TrainerCallback):
    """Looks at the model at even shares of the run, and stops it.

    `look` returns how many looks were in vain since the best; `stopped` says why the run ended.
    """

    def __init__(
        self,
        pace: Pace,
        look: Callable[[], int],
        on_progress: Callable[[int, int], None],
        *,
        looks: int,
        patience: int | None,
    ):
        self.pace, self.look, self.on_progress = pace, look, on_progress
        self.looks, self.patience = looks, patience
        self.done, self.stopped = 0, "done"

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        """Start the clock of a step."""
        self.timer = Timer() if model is None else Timer(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step; look if it is time to, and stop if there is none left."""
        pace = self.pace
        pace.stepping += self.timer.seconds
        pace.step = state.global_step
        self.on_progress(pace.step, pace.planned)
        share = pace.share
        if share * self.looks < self.done + 1:
            return
        pace.looks -= math.floor(share * self.looks) - self.done
        self.done = math.floor(share * self.looks)
        in_vain = self.look()
        if share >= 1:
            self.stopped = "done" if pace.step >= pace.total else "seconds"
        elif self.patience is not None and in_vain >= self.patience:
            self.stopped = "patience"
        else:
            return
        control.should_training_stop = True


class DistillTrainer(Trainer):
    """A Trainer on batches that are made already, whose loss is the model's output."""

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches in another order every epoch, the same for the same seed."""
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=None,
            shuffle=True,
            generator=torch.Generator().manual_seed(self.args.seed),
            collate_fn=lambda batch: batch,
        )

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the model makes of a batch."""
        return model(inputs).to(self.args.device)


def train_(
    student: Student,
    batches: Sequence[Batch],
    callback: EvaluationCallback,
    settings: Distillation,
    folder: str,
) -> None:
    """Run the Trainer. It prints and keeps nothing; `folder` is where it would."""
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    pace = callback.pace
    rise = max(1.0, settings.warmup * pace.total)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / rise) * max(0.0, 1 - step / max(1, pace.planned))

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        seed=settings.seed,
        use_cpu=next(student.parameters()).device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # no copies of the model on other GPUs
    trainer = DistillTrainer(
        model=student,
        args=arguments,
        train_dataset=batches,  # type: ignore[arg-type]
        callbacks=[callback],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
