"""The loss 'kl': its squared gradient is the Fisher information, and it needs no labels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from deadhead import HeadModel, score, score_all
from deadhead.losses.losses import kl
from models import batch, make

NO_MODEL = torch.nn.Identity()


def slopes(logits, ids, mask=None, *, head=True):
    """Gradient of every sample's loss at its logits."""
    logits = logits.clone().requires_grad_()
    outputs = SimpleNamespace(logits=logits) if head else (logits,)
    mask = torch.ones_like(ids) if mask is None else mask
    loss = kl(NO_MODEL, outputs, {"input_ids": ids, "attention_mask": mask})
    assert loss.shape == (len(ids),)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return gradient


def random_ids(*shape, seed=0):
    return torch.randint(0, 1000, shape, generator=torch.Generator().manual_seed(seed))


def assert_mean(values, expected, *, deviations=6.0):
    """The mean of values over samples is what is expected, within its statistical error."""
    error = values.std(0) / len(values) ** 0.5
    off = (values.mean(0) - expected).abs()
    assert (off <= deviations * error + 1e-12).all(), (off / (error + 1e-12)).max()
    assert (error < 0.02).all(), "the test could not tell"


def test_the_squared_slope_is_the_fisher_information_of_a_class():
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, -4.0], dtype=torch.float64)
    g = slopes(logits.expand(20_000, 5), random_ids(20_000, 7))
    p = logits.softmax(0)
    assert_mean(g[:, :, None] * g[:, None], torch.diag(p) - torch.outer(p, p))


def test_the_squared_slope_is_the_fisher_information_of_all_tokens_of_a_sample():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = slopes(logits.expand(20_000, 3, 4), random_ids(20_000, 3)).flatten(1)
    expected = torch.block_diag(*(torch.diag(p) - torch.outer(p, p) for p in logits.softmax(-1)))
    assert_mean(g[:, :, None] * g[:, None], expected / 3)  # of the mean divergence of 3 tokens


@pytest.mark.parametrize("features", (2, 40, 3000))
@pytest.mark.slow
def test_signs_of_any_two_features_or_tokens_agree_as_often_as_not(features):
    hidden = torch.zeros(2000, 2, features)  # without a head, slopes are signs
    g = slopes(hidden, random_ids(2000, 2), head=False) * 2**0.5
    assert torch.allclose(g.abs(), torch.ones_like(g))
    signs = g[..., :: max(1, features // 40)].flatten(1)
    agreement = signs.T @ signs / len(signs) - torch.eye(signs.shape[1])
    assert agreement.abs().max() < 5.5 / len(signs) ** 0.5
    assert signs.mean(0).abs().max() < 5 / len(signs) ** 0.5


def test_signs_differ_where_one_token_differs_or_two_are_swapped():
    ids = random_ids(1, 6).repeat(3, 1)
    ids[1, 5] += 1
    ids[2, [0, 1]] = ids[2, [1, 0]]
    g = slopes(torch.zeros(3, 400), ids, head=False)
    agree = [(g[0] == g[other]).float().mean() for other in (1, 2)]
    assert all(0.35 < a < 0.65 for a in agree), agree


def test_embeddings_have_signs_of_their_own():
    embeds = torch.randn(500, 4, 8, generator=torch.Generator().manual_seed(0))
    inputs = {"inputs_embeds": embeds, "attention_mask": torch.ones(500, 4, dtype=torch.long)}
    logits = torch.zeros(500, 2, requires_grad=True)
    kl(NO_MODEL, (logits,), inputs).sum().backward()
    assert abs(float(logits.grad.prod(1).mean())) < 0.2, "every sample got the same signs"


def test_it_does_not_depend_on_company_or_padding():
    logits = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ids, mask = random_ids(3, 6), torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 1 + [0] * 5])
    together = slopes(logits, ids, mask)
    assert (together[mask == 0] == 0).all()
    changed = ids.masked_fill(mask == 0, 77)
    torch.testing.assert_close(slopes(logits, changed, mask), together)
    for row, n in enumerate(mask.sum(1).tolist()):
        alone = slopes(logits[row : row + 1, :n], ids[row : row + 1, :n])
        torch.testing.assert_close(alone[0], together[row, :n])


def test_classes_that_are_ruled_out_leave_everything_finite():
    logits = torch.tensor([[1.0, -torch.inf, 0.3, -200.0], [-torch.inf, -torch.inf, 0.0, 1.0]])
    g = slopes(logits, random_ids(2, 3))
    assert torch.isfinite(g).all()
    assert (g[torch.isinf(logits)] == 0).all()
    assert g.sum(1) == pytest.approx([0, 0], abs=1e-6), "a slope of log p has no constant part"
    assert g[1, 2:].abs().min() > 0.01


def test_half_precision_is_widened():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    g = slopes(logits, random_ids(4, 3))
    torch.testing.assert_close(g, slopes(logits.float(), random_ids(4, 3)).bfloat16())


def test_a_regression_is_a_gaussian_of_variance_one():
    g = slopes(torch.randn(200, 1), random_ids(200, 4))
    assert (g.abs() == 1).all()
    assert 60 < (g > 0).sum() < 140


class Largest(TorchDispatchMode):
    """Remember the size of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_a_large_vocabulary_needs_a_few_times_its_logits():
    logits = torch.randn(2, 64, 5000, requires_grad=True)
    inputs = {"input_ids": random_ids(2, 64)}
    saved = []
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with Largest() as largest, keep:
        kl(NO_MODEL, SimpleNamespace(logits=logits), inputs)
    assert largest.elements <= logits.numel()
    distinct = {t.data_ptr(): t.numel() for t in saved if t.is_floating_point()}
    assert sum(distinct.values()) <= 4 * logits.numel()


@pytest.mark.parametrize("model_type", ("bert", "opt"))
def test_gates_feel_the_curvature_of_the_divergence(model_type):
    model = make(model_type)
    view, inputs = HeadModel(model), batch((5,) * 400)
    del inputs["labels"]
    found = np.concatenate(score(view, [inputs], "fisher", loss="kl").values)
    gates = [
        torch.ones(400, b.n_heads, dtype=torch.float64, requires_grad=True) for b in view.blocks
    ]
    with view.gated(gates):
        log_p = model(**inputs).logits.log_softmax(-1)
    exact = 0
    for c in range(log_p.shape[1]):
        slope = torch.cat(torch.autograd.grad(log_p[:, c].sum(), gates, retain_graph=True), dim=1)
        exact = exact + (log_p[:, c, None].exp() * slope**2).mean(0)
    exact = exact.detach().numpy()
    assert found.sum() == pytest.approx(exact.sum(), rel=0.15)
    np.testing.assert_allclose(found, exact, rtol=0.5)


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("bert", "base"), ("bert", "masked_lm"), ("gpt2", "causal_lm"), ("llama", "classification")],
)
def test_no_kind_of_model_needs_labels(model_type, kind):
    inputs = batch()
    del inputs["labels"]
    found = score_all(make(model_type, kind), [inputs], ["fisher", "taylor"], loss="kl")
    for scores in found.values():
        assert scores.provenance["loss"] == "kl"
        assert np.concatenate(scores.values).min() > 0


def test_a_regression_model_needs_no_labels():
    config = make("bert").config
    config.num_labels = 1
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    inputs = batch()
    del inputs["labels"]
    assert np.concatenate(score(model, [inputs], "fisher", loss="kl").values).min() > 0
