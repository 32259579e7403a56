"""Whether what a compiler built computes what torch does, in float64, which no setting of a caller makes less exact: a
compiler may be wrong, too. A few milliseconds at each start."""

import ctypes
import itertools

import torch
import torch.nn.functional as F

from polytask.nn import masks
from polytask.nn.kernels.attention import called
from polytask.nn.kernels.build import Unbuilt
from polytask.nn.kernels.library import KINDS, Library
from polytask.nn.packets import BLOCK, Row
from polytask.nn.quant import pack, quantize_groups, quantize_rows, unpack

LIKE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative errors that rounding explains
ROWS, TILED = (3, 20), 70  # of one way to multiply, of the other, and of the third, where there are tiles


@torch.no_grad()
def check(library: Library) -> None:
    """Raises Unbuilt where a product of any kind of weights, or attention, is not torch's."""
    generator = torch.Generator().manual_seed(0)
    for dtype in KINDS:
        _check_products(library, dtype, generator)
        _check_attention(library, dtype, generator)


def _check_products(library: Library, dtype: torch.dtype, generator: torch.Generator) -> None:
    given = torch.randn(TILED, 70, generator=generator).to(dtype)
    weight = torch.randn(19, 70, generator=generator, dtype=torch.float32)
    (bytes_, scales), (fours, groups) = quantize_rows(weight), pack(*quantize_groups(weight))
    kinds = {
        "float32" if dtype == torch.float32 else "bfloat16": (weight.to(dtype), None, weight.to(dtype).float()),
        "int8": (bytes_, scales, bytes_ * scales[:, None]),
        "int4": (fours, groups, unpack(fours, groups, torch.float32)[:19, :70]),
    }
    counts = (*ROWS, TILED) if library.tiles and dtype == torch.bfloat16 else ROWS
    for rows, (kind, (kept, by, meant)) in itertools.product(counts, kinds.items()):
        x = given[:rows]
        _compare(library.product(kind, x, kept, by, None, 19), x.double() @ meant.double().T, "multiply")
    if TILED in counts:
        _check_gate(library, generator)
    for kind in ("int8", "int4"):
        kept, by, meant = kinds[kind]
        _compare(library.widened(kind, kept, by, 19, 70), meant.double(), "widen")


def _check_gate(library: Library, generator: torch.Generator) -> None:
    """Of many rows by tiles, with all that comes after a product."""
    x, weight = (torch.randn(rows, 96, generator=generator).bfloat16() for rows in (TILED, 64))
    bias, onto = (torch.randn(*size, generator=generator).bfloat16() for size in ((64,), (TILED, 32)))
    found = library.product("bfloat16", x, weight, None, bias, 64, onto=onto, activation="silu", gated=True)
    gate, up = (x.double() @ weight.double().T + bias.double()).chunk(2, dim=-1)
    _compare(found, F.silu(gate) * up + onto.double(), "multiply")


def _check_attention(library: Library, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Of one row with a token and of one with forty."""
    rows, heads, width = [Row([1, 3], 20, 1), Row([0, 2, 4, 5], 20, 40)], 2, 32
    q, k, v = torch.randn(3, 1, heads, 41, width, generator=generator).to(dtype)
    keys, values = torch.randn(2, 6 * BLOCK, heads, width, generator=generator).to(dtype).transpose(1, 2)
    call, _held = called(rows, keys, q, k, v, None, None, None)
    found = torch.empty(1, 41, heads, width, dtype=dtype)
    call.q, call.k, call.v, call.y = (x.data_ptr() for x in (q, k, v, found))
    call.keys, call.values = keys.data_ptr(), values.data_ptr()
    library.attend(ctypes.addressof(call))
    start = 0
    for row in rows:
        index = torch.tensor([row.table[p // BLOCK] * BLOCK + p % BLOCK for p in range(row.end)])
        seen = masks.causal(torch.arange(row.start, row.end)[None], torch.arange(row.end)[None], None)
        asked, own = q[:, :, start : start + row.count].double(), [x[None, :, index].double() for x in (keys, values)]
        wanted = F.scaled_dot_product_attention(asked, own[0], own[1], seen)
        _compare(found[:, start : start + row.count].transpose(1, 2), wanted, "attend")
        start += row.count


def _compare(found: torch.Tensor, wanted: torch.Tensor, does: str) -> None:
    error = (found.double() - wanted).norm() / wanted.norm()
    if not error < LIKE[found.dtype]:
        raise Unbuilt(f"what the compiler built does not {does} correctly")
