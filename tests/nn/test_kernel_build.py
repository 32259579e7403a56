"""How kernels are built and kept, and what happens where there are none or they are wrong."""

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
from polytask.nn.kernels import build, products
from polytask.nn.kernels.library import LOADER, Library, _Loader
from polytask.nn.kernels.products import linear
from tests.inference.networks import TOKENIZER, network, prompts
from tests.nn.test_kernels import SHAPES, compare

pytestmark = pytest.mark.usefixtures("two_threads")


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
