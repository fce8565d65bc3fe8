"""Block elimination: the error of dropping heads if the others are refitted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Elimination:
    """Least-squares errors of dropping heads of one block, `W_O` refitted on those that stay.

    With `C` the (ridged) covariance of what enters the output projection and `M` a metric on what
    leaves it, dropping a set `h` and refitting the rest raises `trace(M (W-W') C (W-W')^T)` by
    `trace(inv(inv(C)[h,h]) Q[h,h])`, where `Q = W^T M W` of the refitted `W`. A drop updates
    `inv(C)` and `Q`, so that a whole order costs one inverse.

    Args:
        covariance: (width, width), ridge included; `width` is heads * head_dim.
        weight: the output projection, (hidden, width).
        head_dim: features per head.
        metric: (hidden, hidden); None: plain squared error.

    Cost: one inverse, then `width^2 * head_dim` per dropped head. Heads are positions in the
    block's weights now.
    Source: optimal brain surgeon (Hassibi & Stork 1993) on groups of weights, as in ZipLM
    (Kurtic et al. 2023, arXiv 2302.04089).

    Raises:
        ArithmeticError: the covariance is singular; so do all methods.
    """

    def __init__(
        self, covariance: Tensor, weight: Tensor, head_dim: int, metric: Tensor | None = None
    ):
        weight = weight.to(covariance)
        self.head_dim = head_dim
        self.left = list(range(len(covariance) // head_dim))
        self._inverse = _inverse(covariance)
        self._q = weight.T @ (weight if metric is None else metric.to(weight) @ weight)

    def errors(self) -> dict[int, float]:
        """Return what dropping each head that is left would add to the error."""
        if not self.left:
            return {}
        blocks = [slice(k * self.head_dim, (k + 1) * self.head_dim) for k in range(len(self.left))]
        inverses = torch.stack([self._inverse[s, s] for s in blocks])
        costs = torch.stack([self._q[s, s] for s in blocks])
        added = _solve(inverses, costs).diagonal(dim1=1, dim2=2).sum(1)
        return dict(zip(self.left, added.tolist(), strict=True))

    def error(self, heads: Sequence[int]) -> float:
        """Return what dropping some heads together would add to the error."""
        gone = self._features(heads)
        inverse, cost = self._inverse[gone][:, gone], self._q[gone][:, gone]
        return float(_solve(inverse, cost).trace())

    def drop(self, heads: Sequence[int]) -> None:
        """Drop heads and refit the rest."""
        gone = self._features(heads)
        stay = self._features([h for h in self.left if h not in heads])
        carried = _solve(self._inverse[gone][:, gone], self._inverse[gone][:, stay])
        cross = self._q[stay][:, gone] @ carried
        self._q = (
            self._q[stay][:, stay]
            - cross
            - cross.T
            + carried.T @ (self._q[gone][:, gone] @ carried)
        )
        self._inverse = self._inverse[stay][:, stay] - self._inverse[stay][:, gone] @ carried
        self.left = [h for h in self.left if h not in heads]

    def gains(self, dropped: Sequence[int]) -> dict[int, float]:
        """Return what taking each of some dropped heads back would save, of all that are left now.

        `dropped` are not to be dropped here: with `R = inv(inv(C)[D,D])` the error of dropping `D`
        is `trace(R Q)`, and without `b` in `D` it is less by `trace(inv(R[b,b]) (R Q R)[b,b])`.
        """
        if not dropped:
            return {}
        gone = self._features(dropped)
        r = _inverse(self._inverse[gone][:, gone])
        saved = r @ self._q[gone][:, gone] @ r
        blocks = [slice(k * self.head_dim, (k + 1) * self.head_dim) for k in range(len(dropped))]
        rs, costs = (torch.stack([m[s, s] for s in blocks]) for m in (r, saved))
        gains = _solve(rs, costs).diagonal(dim1=1, dim2=2).sum(1)
        return dict(zip(dropped, gains.tolist(), strict=True))

    def _features(self, heads: Sequence[int]) -> Tensor:
        starts = torch.tensor([self.left.index(h) * self.head_dim for h in heads], dtype=torch.long)
        return (starts[:, None] + torch.arange(self.head_dim)).reshape(-1)


def _inverse(matrix: Tensor) -> Tensor:
    try:
        return torch.linalg.inv(matrix)
    except torch.linalg.LinAlgError as error:
        raise ArithmeticError("the covariance is singular") from error


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    try:
        return torch.linalg.solve(matrix, right)
    except torch.linalg.LinAlgError as error:
        raise ArithmeticError("the covariance is singular") from error
