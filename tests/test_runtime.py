"""The machine made ready: float32 stays float32, whatever products the processor has."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polytask import runtime


@pytest.fixture(autouse=True)
def settings():
    """Puts torch back as it was."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("shape", [(7, 32, 96), (64, 64, 64), (512, 1024, 768), (2048, 384, 1536)])
def test_float32_products_keep_their_accuracy(shape):
    runtime.prepare()
    rows, inner, columns = shape
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    exact = left.double() @ right.double()
    for product in (left @ right, torch.nn.functional.linear(left, right.T), torch.bmm(left[None], right[None])[0]):
        assert (product - exact).norm() < 5e-6 * exact.norm()


def test_threads_are_as_many_as_asked_for(monkeypatch):
    assert runtime.prepare(1) == torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime.prepare() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert runtime.prepare() == runtime.cores()


def test_readying_the_machine_draws_no_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    runtime.prepare()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("bfloat16", "chosen"), [(700e9, "bfloat16"), (55e9, "float32"), (250e9, "float32")])
def test_training_takes_bfloat16_where_its_products_are_faster(bfloat16, chosen, monkeypatch):
    rates = {"float32": 200e9, "bfloat16": bfloat16}
    monkeypatch.setattr(runtime, "matmul_rate", lambda device, precision, *_: rates[precision])
    runtime.fast_bfloat16.cache_clear()
    assert runtime.pick_products("auto", torch.device("cpu")) == chosen
    assert runtime.pick_products("float32", torch.device("cpu")) == "float32"
    assert runtime.pick_precision("auto", torch.device("cpu")) == "float32"  # answers stay those of float32
    with pytest.raises(runtime.ConfigError, match="unknown 'float8'"):
        runtime.pick_products("float8", torch.device("cpu"))
    runtime.fast_bfloat16.cache_clear()


PAGES = """
from polytask.run import ask, bench
from polytask import runtime
runtime.prepare(huge_pages=True)
import re, torch
from polytask.nn.paged import KVCache
from polytask.inference.engine import Engine
weights, cache = torch.empty(8 << 20), KVCache(1, 1, 64, 4096).keys
maps = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())
for tensor in (weights, cache):
    inside = tensor.data_ptr() + tensor.nbytes // 2
    (flags,) = (re.search("VmFlags: (.*)", one)[1].split() for one in maps[1:]
                if int(one.split("-")[0], 16) <= inside < int(one.split("-")[1].split()[0], 16))
    print("huge" if "hg" in flags else "small" if "nh" in flags else "plain")
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="there are no huge pages here")
def test_weights_lie_in_huge_pages_and_the_cache_in_small_ones():
    """In a process that has imported what asks: a tensor made before would have torch read the setting too soon."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["huge", "small"]
