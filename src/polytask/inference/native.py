"""Steps of few ids on a CPU without Python between layers: our library goes through one, or several, in one call.

Small networks would spend a third of their time in Python. What a network is made of is said once, as a list of
operations; one that has other parts decodes layer by layer.
"""

import time
from collections.abc import Sequence as List
from contextlib import suppress

import torch
from torch import Tensor, nn

from polytask.inference.sampling import TIE, Sampler
from polytask.inference.sequence import Sequence
from polytask.inference.steps import ROWS, STEPS, Steps, plain
from polytask.models.transformer import Transformer
from polytask.nn.attention import SelfAttention
from polytask.nn.block import Block
from polytask.nn.composition import Composition
from polytask.nn.feedforward import GatedMLPLayer, MLPLayer
from polytask.nn.kernels.library import LOADER
from polytask.nn.kernels.products import inferring
from polytask.nn.kernels.step import Plan, Program, Unfit
from polytask.nn.paged import KVCache
from polytask.nn.position import Learned, Rotary, Sinusoidal, TextAndGrid, Unpositioned
from polytask.nn.sparse import Pattern

BURST = 0.03  # seconds of steps that are asked for at once: an answer still arrives word by word


class Native(Steps):
    """Decoding by the library; see `Steps`. The first step begins to build it where it has not been built."""

    def __init__(self, network: Transformer, cache: KVCache, kinds: Tensor, length: int, sampler: Sampler):
        super().__init__(network, cache, kinds, length)
        self.sampler, self.dials = sampler, torch.zeros(ROWS, 4 + STEPS, dtype=torch.float64)
        self.program: Program | None = None
        self._composition: Composition | None = None  # what the program is of
        self._last = 1, BURST  # rows and seconds of the last step

    @property
    def able(self) -> bool:
        """Whether the library is there and the network is for it, as it is now: its parts may be changed, and hooks set
        on them."""
        if LOADER.get() is None or not inferring(self.cache.keys):
            return False
        if self._composition is None or not self._composition.holds or not (self.program is None or self.program.valid):
            self._composition, self.program = Composition(self.network), None
            with suppress(Unfit):
                self.program = program(self)
        return self.program is not None and not self._composition.hooked

    def most(self, rows: int) -> int:
        before, seconds = self._last
        return max(1, min(STEPS, int(BURST / seconds))) if rows <= 2 * before else 1

    def chooses(self, sequence: Sequence) -> bool:
        return plain(sequence)

    def _go(self, sequences: List[Sequence], count: int, chooses: bool) -> Tensor | None:
        library = LOADER.get()
        assert library is not None
        assert self.program is not None
        rows = len(sequences)
        self._fill(sequences, [1] * rows)
        if chooses:
            self._dial(sequences, count)
        start = time.perf_counter()
        self.program.run(library, rows, count, chooses, torch.arange(rows))
        self._last = rows, max((time.perf_counter() - start) / count, 1e-6)
        return self.program.logits[:rows]

    def whole(self, sequences: List[Sequence], counts: List[int], answers: List[int]) -> Tensor | None:
        library, rows = LOADER.get(), sum(counts)
        if library is None or rows > ROWS or not all(self.fits(s) and s.prefix <= s.computed for s in sequences):
            return None
        if any(s.wanted is not None for s in sequences) or not self.able:
            return None
        assert self.program is not None
        self._fill(sequences, counts)
        self.program.run(library, rows, 1, False, torch.tensor(answers, dtype=torch.int64))
        return self.program.logits[: len(answers)]

    def _fill(self, sequences: List[Sequence], counts: List[int]) -> None:
        rows = self._rows(sequences, counts)
        self.state[: len(rows), : rows.shape[1]] = rows

    def _dial(self, sequences: List[Sequence], count: int) -> None:
        """How each row is drawn, and by which numbers."""
        dials = [(s.sampling.temperature, s.sampling.top_k, s.sampling.top_p, s.sampling.min_p) for s in sequences]
        self.dials[: len(dials), :4] = torch.tensor(dials, dtype=torch.float64)
        for row, sequence in enumerate(sequences):
            if sequence.sampling.temperature > 0:
                numbers = self.sampler.uniforms[sequence.slot, 0, sequence.produced : sequence.produced + count]
                self.dials[row, 4 : 4 + count] = numbers


def program(steps: Native) -> Program:
    """A step, for at most ROWS rows. Raises Unfit where the network has parts that are not the library's."""
    network, cache = steps.network, steps.cache
    config, position = network.config, network.config.position
    if type(position) not in (Learned, Sinusoidal, TextAndGrid, Rotary, Unpositioned):
        raise Unfit
    plan = Plan(ROWS, network.embedding.weight.dtype)
    x, places = plan.buffer("x", config.dim), None
    if network.position is not None:
        weight = places = network.position.weight.detach()
        if isinstance(position, TextAndGrid):
            places = plan.derived(position.vectors(torch.arange(config.context_length), weight), weight)
        elif isinstance(position, Sinusoidal):
            places = plan.derived(weight, weight)
    plan.embed(network.embedding.weight, x, network.scale, places, getattr(position, "offset", 0), network.grid)
    if network.embedding_norm is not None:
        plan.normalize(network.embedding_norm, x, x)
    if isinstance(position, Rotary):
        plan.rotate(position, config.attention_of(0).sizes(config.dim)[2])
    patterns = {part.pattern: _seen(part.pattern, config.context_length) for part in config.attentions}
    for layer, block in enumerate(network.blocks):
        seen = patterns[config.attention_of(layer).pattern]
        _add(plan, block, x, cache.keys[layer], cache.values[layer], seen)
    plan.pick(x)
    if config.final_norm:
        plan.normalize(network.norm, x, x)
    head, logits = network.head, plan.buffer("logits", config.vocab_size)
    if head.scale != 1.0:
        plan.bend(x, head.scale)
    if head.layer is None:
        plan.expect(head.weight)
        plan.product("float32" if plan.dtype == torch.float32 else "bfloat16", head.weight, None, head.bias, x, logits)
    else:
        plan.multiply(head.layer, x, logits)
    if head.cap is not None or (head.bias is not None and head.layer is not None):
        plan.bend(logits, bias=None if head.layer is None else head.bias, cap=head.cap)
    return plan.made(logits, steps.state, steps.kinds, steps.records, steps.dials, TIE)


def _seen(pattern: Pattern | None, length: int) -> Tensor | None:
    """Which places a query of each place sees, (length, length)."""
    places = torch.arange(length)[None]
    return None if pattern is None else pattern.visible(places, places)[0, 0]


def _add(plan: Plan, block: nn.Module, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> None:
    """A layer; x is overwritten. Placements are those of `nn.block`."""
    if type(block) is not Block or type(block.attention) is not SelfAttention:
        raise Unfit
    attention, fed = block.attention, block.feedforward
    if type(fed) not in (MLPLayer, GatedMLPLayer):
        raise Unfit
    if attention.relative is not None or attention.cap:
        raise Unfit
    opening, width = fed.up if type(fed) is MLPLayer else fed.gate_up, _features(fed.down, "in_features")
    qkv, mixed = plan.buffer("qkv", sum(attention.parts)), plan.buffer("mixed", attention.parts[0])
    hidden, active = plan.buffer("hidden", _features(opening, "out_features")), plan.buffer("active", width)
    y = plan.buffer("y", x.shape[1])
    parallel, post = block.placement in ("parallel", "parallel_norms"), block.placement == "post"

    def attend() -> None:
        heads = 0
        for norm, count in ((attention.query_norm, attention.heads), (attention.key_norm, attention.kv_heads)):
            if norm is not None:
                plan.normalize_heads(norm, qkv, heads, count, attention.head_dim)
            heads += count
        plan.attend(qkv, mixed, keys, values, attention.heads, attention.window, attention.scale, seen)

    if parallel:
        plan.multiply(attention.qkv, x, qkv, block.attention_norm)
        plan.multiply(opening, x, hidden, block.feedforward_norm or block.attention_norm)
        attend()
        plan.multiply(attention.output, mixed, x, onto=x)
        plan.activate(fed.name, hidden, active)
        plan.multiply(fed.down, active, x, onto=x)
        return
    plan.multiply(attention.qkv, x, qkv, None if post else block.attention_norm)
    attend()
    _close(plan, attention.output, mixed, x, y, block.attention_norm if post else None, block.attention_outer_norm)
    plan.multiply(opening, x, hidden, None if post else block.feedforward_norm)
    plan.activate(fed.name, hidden, active)
    _close(plan, fed.down, active, x, y, block.feedforward_norm if post else None, block.feedforward_outer_norm)


def _features(layer: nn.Module, side: str) -> int:
    """Raises Unfit where a layer does not say so, as one of a user's own."""
    if not isinstance(found := getattr(layer, side, None), int):
        raise Unfit
    return found


def _close(
    plan: Plan, layer: nn.Module, inner: Tensor, x: Tensor, y: Tensor, after: nn.Module | None, outer: nn.Module | None
) -> None:  # fmt: skip
    """x = after(x + outer(layer(inner))), each norm where there is one."""
    if outer is not None:
        plan.multiply(layer, inner, y)
        plan.normalize(outer, y, x, adds=True)
    else:
        plan.multiply(layer, inner, x, onto=x)
    if after is not None:
        plan.normalize(after, x, x)
