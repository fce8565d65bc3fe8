import pytest

from deadhead.criteria import Scorer
from deadhead.errors import BudgetError
from deadhead.pruning import choose
from deadhead.recipe import Recipe
from models import batch, make


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_swaps_never_raise_the_error_and_keep_the_number(model_type):
    model, data = make(model_type), [batch(seed=1), batch(seed=2)]
    scorer = Scorer(model, data, ["reconstruction"])
    found = {
        strategy: choose(model, data, Recipe(strategy=strategy, heads=0.5)).mask
        for strategy in ("greedy", "search")
    }
    assert found["search"].n_kept == found["greedy"].n_kept
    greedy, searched = (scorer.error(found[name]) for name in ("greedy", "search"))
    assert searched is not None
    assert greedy is not None
    assert searched <= greedy * (1 + 1e-9)


def test_a_criterion_without_an_error_of_masks_is_refused():
    with pytest.raises(BudgetError, match="choose criterion reconstruction, or strategy greedy"):
        choose(make("bert"), [batch()], Recipe(criterion="taylor", strategy="search", heads=2))
