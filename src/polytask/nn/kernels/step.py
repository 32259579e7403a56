"""What the library is told of a whole step of decoding: operations one after another, in the words of calls.h.

Buffers have room for all rows that a step may have. What is said here holds as long as the tensors lie where they are.
"""

import ctypes

import torch
from torch import Tensor, nn

from polytask.nn.composition import version
from polytask.nn.kernels.attention import WIDTHS, AttentionCall
from polytask.nn.kernels.library import ACTIVATIONS, KINDS, WEIGHTS, Library, NormCall, ProductCall, fields, pointer
from polytask.nn.kernels.products import PLAIN, alike, fused
from polytask.nn.position import Grid, GridEmbedding, Rotary
from polytask.nn.quant import QuantizedLinear


class EmbeddingCall(ctypes.Structure):
    _fields_ = fields(
        c_void_p="table places grid y", c_int64="width offset height columns", c_float="scale", c_int32="unused"
    )


class ActivationCall(ctypes.Structure):
    _fields_ = fields(c_void_p="x y", c_int64="width", c_int32="activation gated")


class NormalCall(ctypes.Structure):
    _fields_ = [*fields(c_void_p="x y", c_int64="width heads line"), ("norm", NormCall), *fields(c_int32="adds unused")]


class BendCall(ctypes.Structure):
    _fields_ = fields(c_void_p="x bias", c_int64="width", c_float="scale cap")


class PickCall(ctypes.Structure):
    _fields_ = fields(c_void_p="x", c_int64="width")


class StepCall(ctypes.Structure):
    _fields_ = [
        *fields(c_void_p="state", c_int64="columns rows steps count answered"),
        *fields(c_void_p="answers names calls frequencies", c_int64="turned"),
        *fields(c_void_p="logits kinds records dials", c_int64="vocabulary span code cells"),
        *fields(c_float="size tie", c_int32="neighbours chooses threads kind"),
    ]


CALLS = (  # in the order of step.cpp
    EmbeddingCall, ProductCall, AttentionCall, ActivationCall, NormalCall, BendCall, PickCall,
)  # fmt: skip


class Unfit(Exception):
    """A step of this network is not for the library."""


class Plan:
    """Operations on buffers of `rows` rows, all of one type."""

    def __init__(self, rows: int, dtype: torch.dtype):
        if dtype not in KINDS:
            raise Unfit
        self.rows, self.dtype, self.kind = rows, dtype, KINDS[dtype]
        self.calls: list[ctypes.Structure] = []
        self._kept: list[Tensor] = []
        self._sources: list[tuple[Tensor, int]] = []
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._grid: Grid | None = None
        self._rotary: tuple[Tensor, float, bool] | None = None

    def buffer(self, name: str, width: int) -> Tensor:
        """One of that name and width, which all layers share."""
        if (name, width) not in self._buffers:
            self._buffers[name, width] = torch.empty(self.rows, width, dtype=self.dtype)
        return self._buffers[name, width]

    def embed(
        self, table: Tensor, y: Tensor, scale: float, places: Tensor | None = None, offset: int = 0,
        grid: GridEmbedding | None = None,
    ) -> None:  # fmt: skip
        """y = scale x the row of the id, plus the row of places that the position, `offset` further, has, plus what the
        grid has for a code of a picture."""
        self.expect(places)
        self._grid = None if grid is None else grid.part
        beside, sizes = (None, (0, 0)) if grid is None else (grid.weight, (grid.part.height, grid.part.width))
        self.expect(beside)
        call = EmbeddingCall(
            self._own(table), self._own(places), self._own(beside), self._own(y), y.shape[1], offset, *sizes, scale
        )
        self.calls.append(call)

    def derived(self, table: Tensor, source: Tensor) -> Tensor:
        """A table that was computed of another tensor, and holds as long as that one is not written to."""
        self._sources.append((source, version(source)))
        return table.to(self.dtype).contiguous()

    def multiply(
        self, layer: nn.Module, x: Tensor, y: Tensor, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> None:
        """y = layer(norm(x)), plus `onto`."""
        if type(layer) in PLAIN:
            weights, scales = ("float32" if self.dtype == torch.float32 else "bfloat16"), None
            self.expect(layer.weight)  # type: ignore[arg-type]
        elif isinstance(layer, QuantizedLinear):
            weights, scales = layer.kind, layer.scales
        else:
            raise Unfit
        self.product(weights, layer.weight, scales, layer.bias, x, y, norm, onto)  # type: ignore[arg-type]

    def product(
        self, weights: str, weight: Tensor, scales: Tensor | None, bias: Tensor | None, x: Tensor, y: Tensor,
        norm: nn.Module | None = None, onto: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.expect(bias)
        call = ProductCall(
            self._own(x), self._own(weight), self._own(scales), self._own(bias), self._own(onto), self._own(y), 0,
            x.shape[1], y.shape[1], self._norm(norm, x), self.kind, WEIGHTS.index(weights),
        )  # fmt: skip
        self.calls.append(call)

    def attend(
        self, qkv: Tensor, y: Tensor, keys: Tensor, values: Tensor, heads: int, window: int | None, scale: float | None,
        seen: Tensor | None = None,
    ) -> None:  # fmt: skip
        """y of the queries, keys and values that stand side by side in qkv; keys and values (kv_heads, places, K) of a
        layer's cache. seen (T, T) bool: which keys a query of each place sees, of those before it."""
        kv_heads, _, width = keys.shape
        if width % WIDTHS:
            raise Unfit
        self.expect(keys)
        start, each = self._own(qkv), width * qkv.itemsize
        turns, neighbours = (0, False) if self._rotary is None else (2 * len(self._rotary[0]), self._rotary[2])
        stores = (self._own(store.transpose(0, 1)) for store in (keys, values))
        call = AttentionCall(
            start, start + heads * each, start + (heads + kv_heads) * each, *stores, self._own(y), *[None] * 7,
            self._own(seen), 0, heads, kv_heads, width, *(width, qkv.shape[1]) * 3, turns, window or 0,
            0 if seen is None else len(seen), width**-0.5 if scale is None else scale, neighbours, 0, self.kind,
        )  # fmt: skip
        self.calls.append(call)

    def activate(self, name: str, x: Tensor, y: Tensor) -> None:
        """y = activation(x); where x is twice as wide, of its first half, times its second."""
        if name not in ACTIVATIONS:
            raise Unfit
        gated = x.shape[1] > y.shape[1]
        self.calls.append(ActivationCall(self._own(x), self._own(y), y.shape[1], ACTIVATIONS.index(name), gated))

    def normalize(self, norm: nn.Module, x: Tensor, y: Tensor, adds: bool = False) -> None:
        """y = norm(x), or that much more."""
        width = x.shape[1]
        self.calls.append(NormalCall(self._own(x), self._own(y), width, 1, width, self._norm(norm, x), adds))

    def normalize_heads(self, norm: nn.Module, x: Tensor, first: int, heads: int, width: int) -> None:
        """The heads of x from number `first` on, so many of that width, each by itself."""
        start = self._own(x) + first * width * x.itemsize
        call = NormalCall(start, start, width, heads, x.shape[1], self._norm(norm, x[:, :width]), False)
        self.calls.append(call)

    def bend(self, x: Tensor, scale: float = 1.0, bias: Tensor | None = None, cap: float | None = None) -> None:
        """x = x scale + bias, within +-cap."""
        self.expect(bias)
        self.calls.append(BendCall(self._own(x), self._own(bias), x.shape[1], scale, cap or 0.0))

    def pick(self, x: Tensor) -> None:
        """From here on there are only the rows that have answers."""
        self.calls.append(PickCall(self._own(x), x.shape[1]))

    def rotate(self, rotary: Rotary, width: int) -> None:
        """Queries and keys of all layers are turned, heads of that width."""
        frequencies, size = rotary.frequencies(width)
        self._rotary = frequencies.contiguous(), size, rotary.layout != "half"

    def expect(self, tensor: Tensor | None) -> None:
        """Raises Unfit where a tensor is of another type."""
        if tensor is not None and tensor.dtype != self.dtype:
            raise Unfit

    def _norm(self, norm: nn.Module | None, x: Tensor) -> NormCall:
        if norm is None or type(norm) is nn.Identity:
            return NormCall()
        if (form := fused(norm, x)) is None or not alike(x, form.scale, form.bias):
            raise Unfit
        for tensor in (form.scale, form.bias):
            self._own(tensor)
        return NormCall.of(form)

    def _own(self, tensor: Tensor | None) -> int:
        """The address of a tensor, which is kept."""
        if tensor is None:
            return 0
        if not tensor.is_cpu or not tensor.is_contiguous():
            raise Unfit
        self._kept.append(tensor)
        return tensor.data_ptr()

    def made(
        self, logits: Tensor, state: Tensor, kinds: Tensor, records: Tensor, dials: Tensor, tie: float
    ) -> "Program":
        """logits: where the last operation leaves them; state, kinds, records: see `inference.steps`; dials (rows, 4 +
        steps) float64: see calls.h."""
        for tensor in (logits, state, kinds, records, dials):
            self._own(tensor)
        count = len(self.calls)
        names = (ctypes.c_int32 * count)(*(CALLS.index(type(call)) for call in self.calls))
        addresses = (ctypes.c_void_p * count)(*map(ctypes.addressof, self.calls))
        frequencies, size, neighbours = self._rotary or (torch.empty(0), 1.0, False)
        self._kept.append(frequencies)
        code, cells = (self._grid.first, self._grid.height * self._grid.width) if self._grid else (0, 0)
        call = StepCall(
            state.data_ptr(), state.shape[1], 0, 0, count, 0, None, ctypes.addressof(names),
            ctypes.addressof(addresses), pointer(frequencies), 2 * len(frequencies), logits.data_ptr(),
            kinds.data_ptr(), records.data_ptr(), dials.data_ptr(), logits.shape[1], records.shape[1], code, cells,
            size, tie, neighbours, False, 0, self.kind,
        )  # fmt: skip
        return Program(call, logits, (names, addresses, self.calls), self._kept, self._sources)


class Program:
    """A step that the library does; `logits` (rows, V) are what the last one gave."""

    def __init__(
        self, call: StepCall, logits: Tensor, memory: object, tensors: list[Tensor], sources: list[tuple[Tensor, int]]
    ):
        self._call, self.logits, self._memory, self._sources = call, logits, memory, sources
        self._tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self._places = [tensor.data_ptr() for tensor in self._tensors]

    @property
    def valid(self) -> bool:
        """Whether all tensors still lie where they did, and those that others were computed of are as they were."""
        if any(version(source) != before for source, before in self._sources):
            return False
        return [tensor.data_ptr() for tensor in self._tensors] == self._places

    def run(self, library: Library, rows: int, steps: int, chooses: bool, answers: Tensor) -> None:
        """answers (A,) int64: which rows' logits are wanted, which come first."""
        self._call.rows, self._call.steps, self._call.chooses = rows, steps, chooses
        self._call.answered, self._call.answers = len(answers), answers.data_ptr()
        self._call.threads = torch.get_num_threads()
        library.step(ctypes.addressof(self._call))
