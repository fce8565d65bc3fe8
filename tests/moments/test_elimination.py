"""Block elimination against a refit for every set of heads."""

from __future__ import annotations

import itertools

import pytest
import torch

from deadhead.moments import Elimination
from explicit import refit_error

HEADS, HEAD_DIM, HIDDEN = 6, 3, 7
WIDTH = HEADS * HEAD_DIM


def problem(*, metric=True, seed=0, redundant=False):
    """A covariance with a ridge, a weight, and a metric (or None)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, WIDTH, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    if redundant:
        x[:, -HEAD_DIM:] = x[:, :HEAD_DIM] @ torch.randn(
            HEAD_DIM, HEAD_DIM, generator=generator, dtype=torch.float64
        )
    covariance = x.T @ x / 50
    covariance += 0.01 * covariance.diagonal().mean() * torch.eye(WIDTH)
    weight = torch.randn(HIDDEN, WIDTH, generator=generator, dtype=torch.float64)
    g = torch.randn(40, HIDDEN, generator=generator, dtype=torch.float64)
    return covariance, weight, g.T @ g / 40 if metric else None


def brute_force(covariance, weight, metric, gone):
    m = None if metric is None else metric.numpy()
    return refit_error(covariance.numpy(), weight.numpy(), m, HEAD_DIM, list(gone))


@pytest.mark.parametrize("metric", (True, False))
@pytest.mark.parametrize("redundant", (True, False))
def test_errors_equal_a_refit_also_after_several_drops(metric, redundant):
    c, w, m = problem(metric=metric, redundant=redundant)
    state, gone = Elimination(c, w, HEAD_DIM, m), []
    for drop in (4, 0, 3, 5):
        before = brute_force(c, w, m, gone)
        errors = state.errors()
        assert list(errors) == [h for h in range(HEADS) if h not in gone]
        for head, error in errors.items():
            expected = brute_force(c, w, m, [*gone, head]) - before
            assert error == pytest.approx(expected, rel=1e-8), (gone, head)
        state.drop([drop])
        gone.append(drop)
    assert state.left == [1, 2]


def test_the_error_of_a_set_is_that_of_its_refit_and_more_than_its_parts_where_they_share():
    c, w, m = problem(redundant=True)
    state = Elimination(c, w, HEAD_DIM, m)
    for size in (1, 2, 4, 6):
        for gone in itertools.combinations(range(HEADS), size):
            assert state.error(gone) == pytest.approx(brute_force(c, w, m, gone), rel=1e-8)
            assert state.error(gone[::-1]) == pytest.approx(state.error(gone), rel=1e-12)
    alone = state.errors()
    assert state.error([0, 5]) > 1.5 * (alone[0] + alone[5]), "5 is a mixture of what 0 says"


def test_the_error_of_a_set_after_drops_counts_from_there():
    c, w, m = problem()
    state = Elimination(c, w, HEAD_DIM, m)
    state.drop([2])
    expected = brute_force(c, w, m, [2, 0, 5]) - brute_force(c, w, m, [2])
    assert state.error([5, 0]) == pytest.approx(expected, rel=1e-8)


def test_the_order_of_drops_does_not_matter():
    found = []
    for order in ([[1], [4], [0]], [[0], [1], [4]], [[4, 0], [1]], [[1, 0, 4]]):
        c, w, m = problem()
        state = Elimination(c, w, HEAD_DIM, m)
        for heads in order:
            state.drop(heads)
        found.append(state.errors())
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-9)


def test_gains_are_what_a_head_that_comes_back_saves():
    c, w, m = problem(redundant=True)
    state = Elimination(c, w, HEAD_DIM, m)
    for gone in ([3], [0, 5], [1, 2, 3, 4], list(range(HEADS))):
        whole = brute_force(c, w, m, gone)
        for head, gain in state.gains(gone).items():
            without = [h for h in gone if h != head]
            expected = whole - brute_force(c, w, m, without)
            assert gain == pytest.approx(expected, rel=1e-8), (gone, head)
    assert state.gains([]) == {}


def test_nothing_dropped_costs_nothing_and_all_dropped_costs_everything():
    c, w, m = problem()
    state = Elimination(c, w, HEAD_DIM, m)
    before = state.errors()
    assert state.error([]) == 0
    state.drop([])
    assert state.errors() == before
    everything = float(torch.trace(m @ w @ c @ w.T))
    assert state.error(range(HEADS)) == pytest.approx(everything, rel=1e-10)
    state.drop(list(range(HEADS)))
    assert (state.left, state.errors()) == ([], {})


def test_a_singular_covariance_is_refused():
    with pytest.raises(ArithmeticError, match="singular"):
        Elimination(torch.zeros(WIDTH, WIDTH, dtype=torch.float64), problem()[1], HEAD_DIM)


def test_no_method_lets_an_error_of_torch_through(monkeypatch):
    def singular(*args):
        raise torch.linalg.LinAlgError("the diagonal element 1 is zero")

    state = Elimination(*problem()[:2], HEAD_DIM)
    monkeypatch.setattr(torch.linalg, "inv", singular)
    monkeypatch.setattr(torch.linalg, "solve", singular)
    ways = (
        state.errors,
        lambda: state.error([0]),
        lambda: state.drop([0]),
        lambda: state.gains([0, 1]),
    )
    for method in ways:
        with pytest.raises(ArithmeticError, match=r"^the covariance is singular$"):
            method()


def test_the_inputs_are_left_alone():
    c, w, m = problem()
    before = [x.clone() for x in (c, w, m)]
    state = Elimination(c, w.to(torch.float32), HEAD_DIM, m)
    state.drop([1])
    state.errors()
    assert all(torch.equal(x, y) for x, y in zip(before, (c, w, m), strict=True))
