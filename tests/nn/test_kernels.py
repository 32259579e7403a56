"""Products of few rows, and by tiles of many: ours against torch in float64."""

import copy

import pytest
import torch

from polytask.nn.attention import Attention
from polytask.nn.block import Block
from polytask.nn.cache import Context
from polytask.nn.feedforward import ACTIVATIONS as ACTIVATION
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.kernels import products
from polytask.nn.kernels.library import ACTIVATIONS, LOADER
from polytask.nn.kernels.products import FEW, linear
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Unpositioned
from polytask.nn.projection import project
from polytask.nn.quant import Int4Linear, Int8Linear, unpack

pytestmark = pytest.mark.usefixtures("two_threads")
SHAPES = [(257, 131), (1027, 33), (40, 900), (1000, 64), (17, 3000)]
ROWS = [*range(1, 10), 15, 20, 40, FEW]


@pytest.fixture(scope="module")
def library():
    """The kernels, or a skip that says why this machine has none."""
    if LOADER.wait() is None:
        pytest.skip(LOADER.reason)
    return LOADER.library


@pytest.fixture
def counted(library, monkeypatch):
    """The kinds of weights that our kernels were called with."""
    calls: list[str] = []

    def product(kind, *words, **after):
        calls.append(kind)
        return library.product(kind, *words, **after)

    class Counting:
        tiles = library.tiles

    Counting.product = staticmethod(product)
    monkeypatch.setattr(LOADER, "library", Counting)
    return calls


@pytest.fixture
def tiling(library, counted):
    """The same, where the CPU multiplies tiles."""
    if not library.tiles:
        pytest.skip("the CPU of this machine has no tiles (AMX)")
    return counted


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_float64(counted, shape, dtype):
    compare(shape, dtype)
    assert len(counted) == len(ROWS) * 2 * 3


@torch.no_grad()
def compare(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """With as much error as float32 sums have, and that of rounding the results where those are bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(*shape[::-1])
    weight = layer.weight.to(dtype)
    four, eight = Int4Linear(layer.weight, None), Int8Linear(layer.weight, None)
    widths = {
        "plain": weight.double(),
        "int8": eight.weight.double() * eight.scales[:, None].double(),
        "int4": unpack(four.weight, four.scales, torch.float64)[: shape[0], : shape[1]],
    }
    bound = 6e-5 if dtype == torch.float32 else 3e-3
    for rows in ROWS:
        x = torch.randn(rows, shape[1]).to(dtype)
        for bias in (None, torch.randn(shape[0]).to(dtype)):
            four.bias = eight.bias = None if bias is None else torch.nn.Parameter(bias)
            for name, found in (("plain", linear(x, weight, bias)), ("int8", eight(x)), ("int4", four(x))):
                wanted = x.double() @ widths[name].T + (0 if bias is None else bias.double())
                assert found.dtype == dtype
                assert error(found, wanted) < (bound if name == "int4" or dtype == torch.bfloat16 else 2e-6)


@pytest.mark.parametrize("rows", [FEW + 1, 111, 700])
@pytest.mark.parametrize("shape", [(384, 160), (257, 131), (64, 3000), (1040, 64)], ids=str)
@torch.no_grad()
def test_tiles_multiply_any_number_of_rows(tiling, shape, rows):
    """With a norm in front, and a residual and an activation behind, as torch has them in float64."""
    torch.manual_seed(0)
    out, width = shape
    norm, plain = LayerNorm().build(width).bfloat16(), torch.nn.Linear(width, out).bfloat16()
    x, onto = torch.randn(rows, width).bfloat16(), torch.randn(rows, out).bfloat16()
    layers = [plain, Int8Linear(plain.weight, plain.bias), Int4Linear(plain.weight, plain.bias)]
    for layer in layers:
        with torch.enable_grad():  # by which torch takes all of it
            exact = copy.deepcopy(layer).double()(x.double()).detach()
            normed = copy.deepcopy(layer).double()(norm(x).double()).detach()
        assert error(products.apply(layer, x), exact) < 3e-3
        assert error(products.apply(layer, x, norm), normed) < 4e-3
        assert error(products.apply(layer, x, onto=onto), exact + onto) < 4e-3
        for name in ACTIVATIONS if out % 16 == 0 else ():
            bent, before = ACTIVATION.get(name)(exact), len(tiling)
            assert error(products.activated(layer, x, None, name), bent) < 6e-3
            assert len(tiling) == before + 1
            if out % 32 == 0:
                gate, up = exact.chunk(2, dim=-1)
                gated = products.activated(layer, x, None, name, gated=True)
                assert error(gated, ACTIVATION.get(name)(gate) * up) < 9e-3
    assert {"bfloat16", "int8", "int4"} == set(tiling)


@pytest.mark.parametrize("feedforward", [MLP(256, "gelu_tanh", bias=True), GatedMLP(256)], ids=str)
@torch.no_grad()
def test_a_block_by_tiles_is_the_block_by_torch(library, monkeypatch, feedforward):
    """What its layers add to is added once, and a hook sees what a layer gives alone."""
    torch.manual_seed(0)
    attention = Attention(4, 2, head_dim=64)
    block = Block(256, attention, feedforward, LayerNorm(), Unpositioned(), 0, placement="pre", dropout=0, cross=False)
    block = block.bfloat16().eval()
    x, context = torch.randn(1, 90, 256).bfloat16(), Context(torch.arange(90)[None])
    found, seen = block(x, context), []
    with block.feedforward.register_forward_hook(lambda _, given, y: seen.append((given[0], y))):
        assert error(block(x, context), found.double()) < 5e-3
    ((given, fed),) = seen
    assert error(fed, found.double() - given.double()) < 2e-2
    monkeypatch.setattr(LOADER, "library", None)
    assert error(found, block(x, context).double()) < 8e-3


@torch.no_grad()
def test_tiles_keep_what_is_not_finite(tiling):
    layer = torch.nn.Linear(256, 128).bfloat16()
    x = torch.randn(FEW + 1, 256).bfloat16()
    x[3, 0], x[40, 0] = float("nan"), float("inf")
    for name in ACTIVATIONS:
        found = products.activated(layer, x, None, name)
        assert found[3].isnan().all()
        assert not found[40].isfinite().all()
        assert found[[0, 39, 41, FEW]].isfinite().all()
    assert tiling


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_weights_are_widened_for_many_rows(library, shape):
    torch.manual_seed(0)
    weight, x = torch.randn(shape), torch.randn(FEW + 9, shape[1])
    eight, four = Int8Linear(weight, torch.nn.Parameter(torch.randn(shape[0]))), Int4Linear(weight, None)
    meant = (
        eight.weight * eight.scales[:, None],
        unpack(four.weight, four.scales, torch.float32)[: shape[0], : shape[1]],
    )
    for layer, whole in zip((eight, four), meant):
        wide = library.widened(layer.kind, layer.weight, layer.scales, *shape)
        # But for ties, which are frequent of 4 bits and which the kernel rounds away from zero.
        assert (wide == whole.bfloat16()).double().mean() > (0.9 if layer is four else 0.9999)
        torch.testing.assert_close(wide, whole.bfloat16(), rtol=8e-3, atol=0)
        bias = 0 if layer.bias is None else layer.bias.double()
        for dtype, bound in ((torch.float32, 6e-5), (torch.bfloat16, 4e-3)):
            exact = x.to(dtype).double() @ whole.double().T + bias
            assert error(layer.to(dtype)(x.to(dtype)), exact) < bound


@pytest.mark.parametrize("part", [LayerNorm(), LayerNorm(bias=False), RMSNorm(), RMSNorm(offset=1.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_norm_on_the_way_is_that_of_float64(counted, part, dtype):
    torch.manual_seed(0)
    norm = part.build(131)
    for parameter in norm.parameters():
        parameter.add_(torch.randn(131) / 4)
    norm, layer = norm.to(dtype), torch.nn.Linear(131, 257).to(dtype)
    layers = [layer, Int8Linear(layer.weight, layer.bias), Int4Linear(layer.weight, layer.bias)]
    for rows in (1, 5, FEW):
        x = (torch.randn(rows, 131) * 3 + 1).to(dtype)
        for each in layers:
            with torch.enable_grad():  # by which torch takes all of it
                exact = copy.deepcopy(each).double()(copy.deepcopy(norm).double()(x.double())).detach()
            assert error(project(x, norm, each), exact) < (1e-4 if dtype == torch.float32 else 3e-3)
    assert len(counted) == 9


@torch.no_grad()
def test_inputs_of_any_layout(counted):
    weight = torch.randn(300, 200)
    x = torch.randn(200, 2, 3).permute(2, 1, 0)  # (3, 2, 200), no row in one piece
    torch.testing.assert_close(linear(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x[0, 0], weight), x[0, 0] @ weight.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(torch.randn(2, 400)[:, ::2], weight).shape, torch.Size([2, 300]))
    assert len(counted) == 3


def test_values_that_are_not_finite_stay_so(counted):
    weight = torch.randn(300, 200).bfloat16()
    x = torch.randn(2, 200).bfloat16()
    x[0, 0], x[1, 0] = float("nan"), float("inf")
    with torch.no_grad():
        assert not torch.isfinite(linear(x, weight)).any()
    assert counted


@pytest.mark.parametrize("many", [FEW + 1, 0])
@torch.no_grad()
def test_torch_takes_what_is_not_few_rows(counted, many):
    weight, x = torch.randn(300, 200), torch.randn(many, 200)
    torch.testing.assert_close(linear(x, weight), x @ weight.T)
    assert not counted


def test_torch_takes_what_asks_for_gradients(counted):
    layer = torch.nn.Linear(200, 300)
    products.apply(layer, torch.randn(1, 200)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(1, 200), layer.weight).dtype == torch.bfloat16
    assert not counted


@torch.no_grad()
def test_mistakes_are_torchs(counted):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.randn(1, 199), torch.randn(300, 200))
    with pytest.raises(RuntimeError, match="dtype"):
        linear(torch.randn(1, 200).bfloat16(), torch.randn(300, 200))
    assert not counted
