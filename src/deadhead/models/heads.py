"""A model as blocks x heads, and the one place where head outputs are gated or read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import Records, records_of
from deadhead.models.blocks import Block, output_rows
from deadhead.models.hooks import Note, claimed, eval_mode, forget_compiled, proven, uncompiled
from deadhead.models.observation import per_row
from deadhead.models.stacks import has_parts, stack_of
from deadhead.models.wrappers import hint, is_adapted, quantized, without_wrapper
from deadhead.types import Head, HeadMask

HeadFn = Callable[[int, Tensor], Tensor | None]


class HeadModel:
    """View a model as blocks x heads.

    The view changes nothing in the model. Hooks exist only inside the context managers.

    Attributes:
        model: the model; of one that peft wraps the model inside, with its adapters.
        records: its records, one per stack of blocks.
        blocks: one `Block` per physical attention block (ALBERT: per shared layer), stack after
            stack.

    Raises:
        UnsupportedModelError: the model type has no record, the model is wrapped,
            quantized or adapted, or its weights contradict the record.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
        >>> model = BertModel(config)
        >>> HeadModel(model).mask.counts
        (4, 4)
    """

    def __init__(self, model: nn.Module):
        self.model = model = without_wrapper(model)
        self.records: Records = records_of(model)
        config = getattr(model, "config", None)
        reason = self.records[0].refuse(config) or quantized(config)
        if reason:
            raise UnsupportedModelError(f"cannot prune this {type(model).__name__}: {reason}")
        self._replayed: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the blocks again, after surgery; correct a config that claims another cut."""
        from deadhead.models.manifest import correct_config  # it imports this file

        blocks = [block for record in self.records for block in stack_of(self.model, record)]
        if not blocks:
            raise UnsupportedModelError(
                f"this {type(self.model).__name__} has no blocks at {self.records[0].blocks!r}"
                f" of its base model;{hint(self.model)} give the plain model, or correct the"
                " record"
            )
        self.blocks = tuple(blocks)
        correct_config(self)

    @property
    def mask(self) -> HeadMask:
        """The heads that the weights still have."""
        originals = [block.original for block in self.blocks]
        return HeadMask.of([i in o.heads for i in range(o.n_heads)] for o in originals)

    def __repr__(self) -> str:
        name, heads = type(self.model).__name__, self.mask.n_kept
        return f"HeadModel({name}, {heads} heads in {len(self.blocks)} blocks)"

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.model.parameters()).device

    def claimed(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """Keep other threads from hooking or changing the model; see `hooks.claimed`."""
        return claimed(self.blocks[0].attention, alone=alone)

    @contextmanager
    def changing(self, action: str) -> Iterator[None]:
        """Guard a change of weights: they are in memory, and nothing hooks the model.

        Compiled code is compiled again when it is next called.

        Raises:
            ModelInUseError: the model is masked, scored or changed at the moment.
            UnsupportedModelError: as `check_loaded`.
        """
        self.check_loaded(action)
        with self.claimed(alone=True):
            try:
                yield
            finally:
                forget_compiled()

    def check_loaded(self, action: str) -> None:
        """Refuse to read or change weights that are not in memory, or that adapters add to.

        Raises:
            UnsupportedModelError: a weight is on the meta device, as accelerate leaves those that
                it offloads to disk or CPU; or peft has adapted the model.
        """
        if is_adapted(self.model):
            raise UnsupportedModelError(
                f"cannot {action}: this {type(self.model).__name__} has adapters of peft; merge"
                " them first with peft (model = peft_model.merge_and_unload()), adapt later"
            )
        name = next((n for n, p in self.model.named_parameters() if p.is_meta), None)
        if name is not None:
            raise UnsupportedModelError(
                f"cannot {action}: the weight {name!r} is not in memory (offloaded to disk or CPU,"
                " or on the meta device); load the model without offloading, e.g."
                ' device_map="cpu"'
            )

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Put the model into eval mode with frozen parameters; restore every flag afterwards.

        Meanwhile compiled code runs uncompiled, so that it calls hooks.

        Raises:
            ModelInUseError: another thread is using the model.
        """
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        with self.claimed(), uncompiled(), eval_mode(self.model):
            try:
                self.model.requires_grad_(False)
                yield
            finally:
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)

    def kv_bytes_per_token(self) -> int:
        """Return the bytes of key/value cache that one token takes. Meaningful for decoders."""
        size = next(self.model.parameters()).element_size()
        return sum(2 * b.cached_heads * b.head_dim * size for b in self.blocks)

    @contextmanager
    def hooked(self, modules: Mapping[int, nn.Module]) -> Iterator[Note]:
        """Make hooks on some blocks safe: one thread, no compiled code, every hook called.

        Args:
            modules: a hooked module of each block, by number. Its hook has to call what this
                yields with the number and the module; a forward pass without that is an error.

        Raises:
            ModelInUseError: another thread is using the model.
            UnsupportedModelError: during a forward pass, something bypassed the hooks.
        """
        named = {number: (self.blocks[number].name, m) for number, m in modules.items()}
        models = dict.fromkeys((self.model, getattr(self.model, "base_model", self.model)))
        several = len(self.records) > 1 or has_parts(self.model)
        blocks = {number: self.blocks[number] for number in modules if several}
        stacks = {number: (b.record.stack, b.attention) for number, b in blocks.items()}
        of_all = {block.record.stack for block in self.blocks}
        hooked = {name for name, _ in stacks.values()}
        others = several and (len(of_all) == 1 or len(hooked) < len(of_all))
        hooks = proven(list(models), named, self._replayed, stacks, others=others)
        with self.claimed(), hooks as note:
            yield note

    @contextmanager
    def replayed(self, blocks: Iterable[int]) -> Iterator[None]:
        """Declare that the layers of some blocks are not computed, so that no hook is called."""
        before = set(self._replayed)
        self._replayed.update(blocks)
        try:
            yield
        finally:
            self._replayed.intersection_update(before)

    @contextmanager
    def hook_heads(self, fn: HeadFn, blocks: Iterable[int] | None = None) -> Iterator[None]:
        """Call `fn(block, z)` on the output of all heads of a block, before they are projected.

        Shape: `z` is (batch, tokens, heads now, head_dim), of attention within windows one row per
        window. What `fn` returns replaces it; None
        leaves it. Blocks without heads are skipped. Shared blocks (ALBERT) are
        called once per application. The hooks are removed when the context is left.

        Args:
            fn: what to call.
            blocks: numbers of the blocks to hook; None: all.

        Raises:
            ModelInUseError, UnsupportedModelError: as `hooked`.
        """
        chosen = range(len(self.blocks)) if blocks is None else blocks
        modules = {n: self.blocks[n].output for n in chosen if self.blocks[n].n_heads}

        def make(number: int, block: Block, note: Note) -> Callable[..., Any]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
                note(number, module)
                new = fn(number, block.heads_of(args[0]))
                return None if new is None else (block.flat(new, args[0]), *args[1:])

            return hook

        with ExitStack() as stack:
            note = stack.enter_context(self.hooked(modules))
            for number, module in modules.items():
                hook = make(number, self.blocks[number], note)
                stack.callback(module.register_forward_pre_hook(hook).remove)
            yield

    @contextmanager
    def gated(self, gates: Sequence[Tensor]) -> Iterator[None]:
        """Scale head outputs by gates. A gate of 0 selects: what it switches off may be NaN.

        Shape: one tensor per block, (heads now,) or (batch, heads now). Gates of bool are on or
        off; blocks whose heads are all on are not hooked.
        """

        def gate(number: int, z: Tensor) -> Tensor:
            g = gates[number].to(z.device)
            g = per_row(g, z, self.blocks[number])[:, None, :, None] if g.dim() == 2 else g[:, None]
            if g.dtype == torch.bool:
                return z.masked_fill(~g, 0)
            # only values that are not finite are replaced, so that gates of 0 keep their gradients
            return z.masked_fill((g == 0) & ~torch.isfinite(z), 0) * g.to(z.dtype)

        some = [n for n, g in enumerate(gates) if g.dtype != torch.bool or not g.all()]
        with self.hook_heads(gate, some):
            yield

    def output_weight(self, number: int) -> Tensor:
        """Return the weight of a block's output projection, (hidden, heads now * head_dim).

        Raises:
            UnsupportedModelError: as `check_loaded`.
        """
        weight = output_rows(self.blocks[number].output).detach()
        if weight.is_meta or is_adapted(self.model):
            self.check_loaded("read the weights of heads")
        return weight

    def head_weights(self, head: Head) -> dict[str, Tensor]:
        """Return one head's slices of the weights, as views of the current weights.

        Shape: `query`, `key`, `value`: (head_dim, hidden); `output`: (hidden, head_dim);
        `*_bias`: (head_dim,) where the projection has one. With shared key/value heads, `key`
        and `value` are those of the head's group.

        Raises:
            HeadError: the model does not have the head.
            UnsupportedModelError: its weights are not in memory.
        """
        self.check_loaded("read the weights of heads")
        self.mask.keeps(head)
        block = self.blocks[head.block]
        position = block.position(head.index)
        slices: dict[str, Tensor] = {}
        for part in ("query", "key", "value"):
            at = position if part == "query" else position // block.shape.group_size
            first = block.record.layout(part, at, block.shape)
            module, rows = getattr(block, part), slice(first, first + block.head_dim)
            slices[part] = output_rows(module)[rows]
            if module.bias is not None:
                slices[f"{part}_bias"] = module.bias[rows]
        start = position * block.head_dim
        columns = output_rows(block.output)[:, start : start + block.head_dim]
        return {**slices, "output": columns}
