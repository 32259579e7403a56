"""The kernels as functions: loaded where they have been built, built in the background where they have not.

No answer waits for a compiler: until the kernels are there torch does the work, and where they never come it goes on.
An answer that is under way when they come goes on with their rounding, once a machine.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polytask.nn.kernels import build

KINDS = {torch.float32: 0, torch.bfloat16: 1}
WEIGHTS = ("float32", "bfloat16", "int8", "int4")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "relu_squared")


class Norm(NamedTuple):
    """A norm that a product does on its way: `kind` 1 is that of layers, 2 by the root mean square; see `nn.norm`."""

    kind: int
    scale: Tensor | None
    bias: Tensor | None
    eps: float
    offset: float = 0.0


NO_NORM = Norm(0, None, None, 0.0)


def fields(**kinds: str) -> list[tuple[str, type]]:
    """Of a ctypes structure, from names by the kind that several have: fields(c_void_p="x y")."""
    return [(name, getattr(ctypes, kind)) for kind, names in kinds.items() for name in names.split()]


class NormCall(ctypes.Structure):
    """Norm of calls.h."""

    _fields_ = fields(c_void_p="scale bias", c_float="eps offset", c_int32="kind unused")

    @classmethod
    def of(cls, norm: Norm) -> "NormCall":
        return cls(pointer(norm.scale), pointer(norm.bias), norm.eps, norm.offset, norm.kind)


class ProductCall(ctypes.Structure):
    """Product of calls.h."""

    _fields_ = [
        *fields(c_void_p="x weight scales bias onto y", c_int64="rows in out"), ("norm", NormCall),
        *fields(c_int32="kind weights threads activation gated unused"),
    ]  # fmt: skip


class WideCall(ctypes.Structure):
    """Wide of calls.h."""

    _fields_ = fields(c_void_p="weight scales to", c_int64="width out", c_int32="weights threads")


class Library:
    """Products by the name of the weights' kind, `product("int4", x, weight, scales, bias, out)`; `attend` is called
    by `kernels.attention`, `step` by `kernels.step`. tiles: whether the CPU multiplies tiles of bfloat16 (AMX)."""

    def __init__(self, path: Path):
        made = ctypes.CDLL(str(path))
        made.polytask_threads(*_threads())
        self.tiles = bool(made.polytask_tiles())
        self._product = self._plain(made.polytask_product)
        self.attend = self._plain(made.polytask_attend)
        self.step = self._plain(made.polytask_step)
        self._widen = self._plain(made.polytask_widen)
        self._read = made.polytask_read
        self._read.restype, self._read.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)

    @staticmethod
    def _plain(function: Any) -> Callable[[int], None]:
        """A function of the address of what it is called with."""
        function.restype, function.argtypes = None, (ctypes.c_void_p,)
        return function

    def product(
        self, kind: str, x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None, out: int,
        norm: Norm = NO_NORM, onto: Tensor | None = None, activation: str = "", gated: bool = False,
    ) -> Tensor:  # fmt: skip
        """norm(x) (..., in) times a matrix of `out` rows, added to `onto` (..., out), in the type of x; weights lie in
        one piece. By tiles, of five rows or more, the activation of that name comes in between, where it is gated that
        of the first half times the second half, (..., out / 2); either is a multiple of 16 wide."""
        width = x.shape[-1]
        assert not activation or (self.tiles and x.dtype == torch.bfloat16 and x.numel() > 4 * width)
        assert not activation or out % (32 if gated else 16) == 0
        x, onto = x.contiguous(), None if onto is None else onto.contiguous()
        y = torch.empty(*x.shape[:-1], out // 2 if gated else out, dtype=x.dtype)
        call = ProductCall(
            x.data_ptr(), weight.data_ptr(), pointer(scales), pointer(bias), pointer(onto), y.data_ptr(),
            x.numel() // width, width, out, NormCall.of(norm), KINDS[x.dtype], WEIGHTS.index(kind),
            torch.get_num_threads(), ACTIVATIONS.index(activation) + 1 if activation else 0, gated,
        )  # fmt: skip
        self._product(ctypes.addressof(call))
        return y

    def widened(self, kind: str, weight: Tensor, scales: Tensor, out: int, width: int) -> Tensor:
        """Weights in 8 or 4 bits times their scales, (out, width) in bfloat16."""
        to = torch.empty(out, width, dtype=torch.bfloat16)
        addresses = weight.data_ptr(), scales.data_ptr(), to.data_ptr()
        call = WideCall(*addresses, width, out, WEIGHTS.index(kind), torch.get_num_threads())
        self._widen(ctypes.addressof(call))
        return to

    def read(self, memory: Tensor) -> int:
        """The sum of whole numbers of 64 bits, a multiple of 32 of them: how fast this is, is how fast memory is."""
        return self._read(memory.data_ptr(), memory.numel(), torch.get_num_threads())


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _threads() -> list[ctypes.c_void_p]:
    """Where the OpenMP runtime of torch begins a parallel section, whose threads are the ones that are awake, and where
    it says how many of them there are and which one this is.

    Raises OSError where that runtime is another one.
    """
    own = Path(torch.__path__[0]) / "lib" / "libgomp.so.1"
    runtime = ctypes.CDLL(str(own) if own.exists() else "libgomp.so.1")
    try:
        functions = [runtime.GOMP_parallel, runtime.omp_get_num_threads, runtime.omp_get_thread_num]
    except AttributeError:
        raise OSError("this OpenMP runtime is not GNU's") from None
    return [ctypes.cast(function, ctypes.c_void_p) for function in functions]


class _Loader:
    """What became of the kernels in this process."""

    def __init__(self) -> None:
        self.library: Library | None = None
        self.reason = "nothing has asked for them yet"
        self._begun, self._lock, self._thread = False, threading.Lock(), None

    def get(self) -> Library | None:
        """The kernels where they are ready; asking first begins to build them."""
        if not self._begun:
            self._begin()
        return self.library

    def _begin(self) -> None:
        with self._lock:
            if self._begun:
                return
            try:
                if os.environ.get("POLYTASK_KERNELS") == "off":
                    raise build.Unbuilt("POLYTASK_KERNELS=off")
                if (path := build.built()) is not None:
                    self._load(path)
                else:
                    self.reason = "they are being built"
                    # No daemon: a short program ends its answer first and then waits some seconds, once a machine.
                    self._thread = threading.Thread(target=self._build, name="polytask-kernels")
                    self._thread.start()
            except build.Unbuilt as error:
                self.reason = str(error)
            self._begun = True

    def _build(self) -> None:
        try:
            self._load(build.build())
        except build.Unbuilt as error:
            self.reason = str(error)

    def _load(self, path: Path) -> None:
        from polytask.nn.kernels.check import check  # which needs all that is built on this

        try:
            library = Library(path)
            check(library)
        except OSError as error:
            raise build.Unbuilt(str(error)) from None
        self.library, self.reason = library, ""

    def wait(self) -> Library | None:
        """The kernels, after they have been built; None where they cannot be, and then `reason` says why."""
        self.get()
        if self._thread is not None:
            self._thread.join()
        return self.library


LOADER = _Loader()
