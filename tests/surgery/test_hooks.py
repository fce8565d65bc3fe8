"""Hooks that are bypassed never pass for masks: compiled, traced, replayed code, and threads."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace

import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, applied, duplicate_, masked, remove_, score
from deadhead.errors import HeadError, ModelInUseError, UnsupportedModelError
from deadhead.models.maps import hook_maps
from deadhead.surgery import mask_
from models import batch, make, outputs

HEADS = ["0.0", "1.3", "1.4", "2.5"]


def cut(model):
    return outputs(remove_(copy.deepcopy(model), HEADS), batch())


def compiled(module, *, attribute="compile"):
    torch._dynamo.reset()
    module.compile(backend="aot_eager")


COMPILE = {
    "the model": lambda m: compiled(m),
    "its base model": lambda m: compiled(m.base_model),
    "its layers": lambda m: [compiled(b) for b in m.base_model.encoder.layer],
    "attention": lambda m: [compiled(b.attention) for b in HeadModel(m).blocks],
    "projections": lambda m: [compiled(b.output) for b in HeadModel(m).blocks],
}


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("what", COMPILE)
@pytest.mark.slow
def test_masks_work_on_what_is_compiled_in_place(what, warm):
    model = make("bert")
    expected, dense = cut(model), outputs(model, batch())
    COMPILE[what](model)
    if warm:
        outputs(model, batch())
    with masked(model, HEADS):
        assert (outputs(model, batch()) - expected).abs().max() <= 1e-10
    assert (outputs(model, batch()) - dense).abs().max() <= 1e-10
    for criterion in ("taylor", "gradient_norm", "ablation", "output_norm", "attention_entropy"):
        plain, found = (score(m, [batch()], criterion) for m in (make("bert"), model))
        assert all(found[h] == pytest.approx(plain[h]) for h in HEADS)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.slow
def test_masks_work_in_functions_that_the_user_compiled(warm):
    model = make("bert")
    expected, dense, inputs = cut(model), outputs(model, batch()), batch()
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager")
    def run(ids, mask):
        return model(input_ids=ids, attention_mask=mask).logits

    def now():
        with torch.no_grad():
            return run(inputs["input_ids"], inputs["attention_mask"])

    if warm:
        now()
    with masked(model, HEADS):
        assert (now() - expected).abs().max() <= 1e-10
    assert (now() - dense).abs().max() <= 1e-10
    remove_(model, HEADS)
    assert (now() - expected).abs().max() <= 1e-10


def slopes(model):
    copies = {Head(1, 0): Head(1, 1)}
    mask = HeadModel(model).mask.drop(*copies)
    return PruningPlan(mask, copies, "duplicate", slope="source")


SURGERY = {
    "remove_": lambda m: remove_(m, [*HEADS, *(Head(0, i) for i in range(6))]),
    "mask_": lambda m: mask_(m, HEADS),
    "duplicate_": lambda m: duplicate_(m, slopes(m)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about BLOOM
@pytest.mark.parametrize("how", SURGERY)
@pytest.mark.parametrize("model_type", ["bert", "bloom"])
@pytest.mark.slow
def test_compiled_models_follow_surgery(model_type, how):
    model = make(model_type)
    expected = outputs(SURGERY[how](copy.deepcopy(model)), batch())
    compiled(model)
    dense = outputs(model, batch())
    if how == "duplicate_":
        with applied(model, slopes(model)):
            assert (outputs(model, batch()) - expected).abs().max() <= 1e-10
        assert torch.equal(outputs(model, batch()), dense)
    SURGERY[how](model)
    assert (outputs(model, batch()) - expected).abs().max() <= 1e-10


@pytest.mark.slow
def test_no_mask_begins_inside_of_a_compiled_function():
    model, inputs = make("bert"), batch()
    torch._dynamo.reset()

    @torch.compile(backend="eager")
    def run(ids):
        with masked(model, HEADS):
            return model(input_ids=ids).logits

    with pytest.raises(UnsupportedModelError, match="enter the context outside of it"):
        run(inputs["input_ids"])
    with masked(model, HEADS):
        outputs(model, inputs)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.slow
def test_masks_work_in_generation_that_compiles_itself(warm):
    from transformers import CompileConfig, GenerationConfig

    torch._dynamo.reset()
    model = make("llama", "causal_lm")
    model.generation_config.eos_token_id = None
    ids = batch((5, 5))["input_ids"]
    compile_ = CompileConfig(backend="aot_eager", mode=None, fullgraph=False)
    compile_._compile_all_devices = True
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    config = GenerationConfig(**options, cache_implementation="static", compile_config=compile_)
    groups = [Head(b, i) for b in (0, 1, 2) for i in (0, 1, 2)]
    removed = remove_(copy.deepcopy(model), groups)
    plain = {"attention_mask": torch.ones_like(ids), **options}
    expected, dense = removed.generate(ids, **plain), model.generate(ids, **plain)
    assert not torch.equal(expected, dense)
    if warm:
        assert torch.equal(model.generate(ids, generation_config=config), dense)
    with masked(model, groups):
        assert torch.equal(model.generate(ids, generation_config=config), expected)
    assert torch.equal(model.generate(ids, generation_config=config), dense)


def skip_hooks(module):
    """Let the callers of a module compute what it computes without calling it."""
    called = {"__call__": lambda self, *args: self.forward(*args)}
    module.__class__ = type("Skips", (type(module),), called)


def graph(module):
    """Replay one recorded output, as a CUDA graph does."""
    recorded = outputs(module, batch())
    module.forward = lambda input_ids, **kwargs: SimpleNamespace(logits=recorded[: len(input_ids)])


def trace(model):
    attention, hidden = model.base_model.encoder.layer[1].attention, torch.randn(3, 9, 24).double()
    attention.output = torch.jit.trace(attention.output, (hidden, hidden), check_trace=False)


BYPASS = {
    "the output projection is not called": lambda m: skip_hooks(HeadModel(m).blocks[1].output),
    "every output projection is not called": lambda m: [
        skip_hooks(b.output) for b in HeadModel(m).blocks
    ],
    "the model replays a graph": graph,
    "a part is traced": trace,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", BYPASS)
def test_what_bypasses_hooks_is_refused(how):
    model = make("bert")
    BYPASS[how](model)
    try:
        HeadModel(model)
    except UnsupportedModelError:
        return  # known before the first pass
    for context in (
        lambda: masked(model, HEADS),
        lambda: applied(model, HEADS),
        lambda: HeadModel(model).hook_heads(lambda block, z: None),
    ):
        with pytest.raises(UnsupportedModelError, match="without calling its hooks"), context():
            outputs(model, batch())
    for criterion in ("taylor", "gradient_norm", "output_norm", "ablation", "reconstruction"):
        with pytest.raises(UnsupportedModelError, match="without calling its hooks"):
            score(model, [batch()], criterion)


def test_attention_that_is_bypassed_shows_no_maps():
    model = make("bert")
    graph(model)
    view = HeadModel(model)
    with pytest.raises(UnsupportedModelError, match="hooks"), hook_maps(view, lambda *a: None):
        outputs(model, batch())


def test_layer_drop_may_skip_a_block_in_training_only():
    model = make("opt")
    layer = model.base_model.decoder.layers[1]
    layer.forward = lambda hidden, *args, **kwargs: hidden
    mask = HeadModel(model).mask.drop(Head(0, 0), Head(1, 0))
    missed = pytest.raises(UnsupportedModelError, match=r"computed block 1 .*layers\.1")
    with missed, masked(model, mask):
        outputs(model, batch())
    model.train()
    with masked(model, mask):
        outputs(model, batch())


def test_a_copy_made_while_masked_does_not_run_with_the_hooks_of_the_original():
    model = make("bert")
    with masked(model, HEADS):
        other = copy.deepcopy(model)
        with pytest.raises(UnsupportedModelError, match="called by a copy"):
            outputs(other, batch())


def in_thread(work):
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "deadlock"
    return found[0]


def enter(context):
    def work():
        with context():
            return

    return work


TOUCHES = {
    "masked": lambda m: masked(m, ["0.1"]),
    "a dense mask": lambda m: masked(m, []),
    "applied": lambda m: applied(m, ["0.1"]),
    "hook_heads": lambda m: HeadModel(m).hook_heads(lambda block, z: None),
    "hook_maps": lambda m: hook_maps(HeadModel(m), lambda *args: None),
    "at_rest": lambda m: HeadModel(m).at_rest(),
}


@pytest.mark.parametrize("second", TOUCHES)
@pytest.mark.parametrize("first", TOUCHES)
def test_a_second_thread_is_refused_and_the_same_one_nests(first, second):
    model = make("bert")
    inside = make("bert").base_model
    with TOUCHES[first](model):
        for other in (model, model.base_model):  # views of the same blocks
            error = in_thread(enter(lambda other=other: TOUCHES[second](other)))
            assert isinstance(error, ModelInUseError), error
            assert "another thread" in str(error)
        assert in_thread(enter(lambda: TOUCHES[second](inside))) is None  # another model
        with TOUCHES[second](model):
            outputs(model, batch())
    assert in_thread(enter(lambda: TOUCHES[second](model))) is None


def test_a_model_is_free_again_after_an_exception():
    model = make("bert")
    with pytest.raises(KeyError), masked(model, HEADS):
        raise KeyError
    assert in_thread(lambda: remove_(model, HEADS)) is model


def test_no_output_of_several_threads_is_wrong():
    model = make("bert")
    expected = {h: outputs(remove_(make("bert"), [h]), batch()) for h in HEADS}
    wrong = []

    def work(head):
        for _ in range(10):
            try:
                with masked(model, [head]):
                    found = outputs(model, batch())
            except ModelInUseError:
                continue
            if (found - expected[head]).abs().max() > 1e-10:
                wrong.append(head)

    threads = [threading.Thread(target=work, args=(head,)) for head in HEADS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_weights_do_not_change_under_a_mask():
    model = make("bert")
    before = copy.deepcopy(model.state_dict())
    with masked(model, HEADS), pytest.raises(ModelInUseError, match="leave the 'with' block"):
        remove_(model, ["0.1"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_compiling_is_back_afterwards():
    model, calls = make("bert"), []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(lambda x: x + 1, backend=backend)
    with masked(model, HEADS), pytest.raises(HeadError), masked(model, ["9.9"]):
        pass
    with masked(model, HEADS):
        run(torch.ones(2))
    assert not calls
    run(torch.ones(2))
    assert calls
