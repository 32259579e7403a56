"""Products of few rows, and by tiles of many: ours against torch in float64, and what happens where there are none."""

import copy
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from polytask import runtime
from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.nn.attention import Attention
from polytask.nn.block import Block
from polytask.nn.cache import Context
from polytask.nn.feedforward import ACTIVATIONS as ACTIVATION
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.kernels import build, products
from polytask.nn.kernels.library import ACTIVATIONS, LOADER, Library, _Loader
from polytask.nn.kernels.products import FEW, linear
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Unpositioned
from polytask.nn.projection import project
from polytask.nn.quant import Int4Linear, Int8Linear, unpack
from tests.inference.networks import TOKENIZER, network, prompts

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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "polytask" / "kernels"


def compiler(folder, monkeypatch, script: str) -> None:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(runtime, "compiler", lambda: str(path))


def fresh() -> _Loader:
    loader = _Loader()
    assert loader.wait() is None
    return loader


def test_a_machine_without_a_compiler_multiplies_by_torch(cache, monkeypatch):
    monkeypatch.setattr(runtime, "compiler", lambda: "")
    loader = fresh()
    assert "no C++ compiler" in loader.reason
    monkeypatch.setattr(products, "LOADER", loader)
    weight, x = torch.randn(300, 200), torch.randn(2, 200)
    with torch.no_grad():
        assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_what_multiplies_wrongly_is_not_taken(monkeypatch, kind):
    if LOADER.wait() is None:
        pytest.skip(LOADER.reason)
    product = Library.product
    wrong = lambda self, of, *words: product(self, of, *words) * (1.1 if of == kind else 1)  # noqa: E731
    monkeypatch.setattr(Library, "product", wrong)
    assert "does not multiply correctly" in fresh().reason


def test_what_attends_wrongly_is_not_taken(monkeypatch):
    if LOADER.wait() is None:
        pytest.skip(LOADER.reason)
    made = Library.__init__

    def idle(self, path):
        made(self, path)
        self.attend = lambda call: None

    monkeypatch.setattr(Library, "__init__", idle)
    assert "does not attend correctly" in fresh().reason


MACHINES = {"x86-64": "sse2", "haswell": "avx2", "alderlake": "avx_vnni", "skylake-avx512": "avx512f"}  # what they have


@pytest.mark.parametrize("machine", MACHINES)
def test_machines_with_other_instructions(cache, monkeypatch, machine):
    """Those of this one alone are what the other tests look at."""
    if platform.machine() != "x86_64" or MACHINES[machine] not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("this machine has not got them")
    flags = [f"-march={machine}" if flag == "-march=native" else flag for flag in build.FLAGS]
    monkeypatch.setattr(build, "FLAGS", flags)
    build.name.cache_clear()
    try:
        library = _Loader().wait()
    finally:
        build.name.cache_clear()
    if library is None:
        pytest.skip("there is no compiler that makes them")
    monkeypatch.setattr(LOADER, "library", library)
    for dtype in (torch.float32, torch.bfloat16):
        compare(SHAPES[0], dtype)
    built = network("gpt3").bfloat16()
    made = Engine(built, TOKENIZER)
    requests = [Request(ids, Sampling(max_tokens=12)) for ids in prompts(6)]
    found = [answer.ids for (answer,) in made.run(requests)]
    assert made.runner.steps.program is not None
    made = Engine(built, TOKENIZER)
    made.runner.steps = None
    for one, (other,) in zip(found, made.run(requests), strict=True):
        apart = next((i for i, pair in enumerate(zip(one, other.ids)) if len(set(pair)) > 1), None)
        assert apart is None or apart in other.ties


def test_a_compiler_that_fails_is_asked_once(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, f"echo x >> {tmp_path}/asked; echo no such flag >&2; exit 3")
    for _ in range(2):
        assert "the compiler failed" in fresh().reason
    assert (tmp_path / "asked").read_text() == "x\n"
    (log,) = cache.glob("*.log")
    assert "no such flag" in log.read_text()


BUILDING = 'for last; do :; done; echo built > "$last"'


@pytest.mark.parametrize(
    "end",
    [
        "kill -9 $$", "kill -INT $$", "sleep 60", "echo 'Killed signal terminated program cc1plus' >&2; exit 1",
        "echo 'final link failed: No space left on device' >&2; exit 1",
    ],
)  # fmt: skip
def test_a_compiler_that_was_stopped_is_asked_again(cache, tmp_path, monkeypatch, end):
    monkeypatch.setattr(build, "PATIENCE", 0.3)
    compiler(tmp_path, monkeypatch, end)
    with pytest.raises(build.Unbuilt, match="the next start asks it again"):
        build.build()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    compiler(tmp_path, monkeypatch, BUILDING)
    assert build.build().exists()


def test_another_compiler_is_asked(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(build.Unbuilt, match="the compiler failed"):
        build.build()
    compiler(tmp_path, monkeypatch, BUILDING)
    assert build.build().exists()


def test_an_interrupt_is_not_the_compilers(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, f"echo > {tmp_path}/begun; sleep 1; {BUILDING}")
    monkeypatch.setenv("CXX", runtime.compiler())
    code = "import time; from polytask.nn.kernels.library import LOADER; LOADER.get(); time.sleep(60)"
    monkeypatch.setenv("PYTHONPATH", str(Path(build.__file__).parents[3]))
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL) as job:
        while not (tmp_path / "begun").exists():
            assert job.poll() is None
            time.sleep(0.02)
        os.killpg(job.pid, signal.SIGINT)
    assert (cache / f"{build.name()}.so").exists()


@pytest.mark.parametrize("damage", [lambda held: b"", lambda held: held[:-70], lambda held: bytes(len(held))])
def test_a_damaged_file_is_built_again(tmp_path, monkeypatch, damage):
    if LOADER.wait() is None or (kept := build.built()) is None:
        pytest.skip(LOADER.reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = kept.read_bytes()
    (tmp_path / "whole").write_bytes(whole[:-32])
    compiler(tmp_path, monkeypatch, f'for last; do :; done; cp {tmp_path}/whole "$last"')
    path = build.build()
    path.write_bytes(damage(path.read_bytes()))
    loader = _Loader()
    assert loader.wait() is not None, loader.reason
    assert path.read_bytes() == whole


def test_what_does_not_load_or_multiply_is_not_used(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, 'for last; do :; done; echo nonsense > "$last"')
    assert "made.so" not in fresh().reason
    assert fresh().library is None


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "no cache folder" in fresh().reason


def test_only_the_user_may_enter_the_folder_or_write_the_file(cache, tmp_path, monkeypatch):
    cache.mkdir(parents=True, mode=0o777)
    cache.chmod(0o777)
    monkeypatch.setattr(runtime, "compiler", lambda: "")
    fresh()
    assert cache.stat().st_mode & 0o777 == 0o700
    path = cache / f"{build.name()}.so"
    path.write_text("")
    path.chmod(0o722)
    assert "not a file of the user's own" in fresh().reason
    path.unlink()
    path.symlink_to("/bin/true")
    assert "not a file of the user's own" in fresh().reason
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert "belongs to somebody else" in fresh().reason


def test_many_at_once_build_once(cache, tmp_path, monkeypatch):
    compiler(tmp_path, monkeypatch, f"echo x >> {tmp_path}/asked; sleep 0.2; {BUILDING}")
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(build.build())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "asked").read_text() == "x\n"
    assert all(path.read_bytes().startswith(b"built\n") for path in found)
    assert found[0].stat().st_mode & 0o777 == 0o700
    assert not list(cache.glob(".building-*"))


def test_the_environment_can_switch_them_off(monkeypatch):
    monkeypatch.setenv("POLYTASK_KERNELS", "off")
    assert fresh().reason == "POLYTASK_KERNELS=off"
