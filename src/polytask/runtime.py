"""The machine we run on: device, precision, threads, seeds, how fast it multiplies, and what `doctor` reports.

torch is imported inside functions, so that the command line can import this module and stay quick.
"""

import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from polytask.errors import ConfigError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16", "float16", "float64")


def pick_device(name: str = "auto") -> "torch.device":
    """The device of that name; "auto" takes the first GPU where there is one. Raises ConfigError where it is absent."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: '{name}' is not a device; use auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: this machine has {torch.cuda.device_count()} GPUs, so '{name}' is not there; use cpu."
        )
    return device


def pick_precision(name: str, device: "torch.device") -> str:
    """The precision of weights when a model is asked; "auto" is bfloat16 on a GPU that has it and float32 elsewhere.

    Raises ConfigError for an unknown name.
    """
    import torch

    if name != "auto":
        if name not in PRECISIONS:
            raise ConfigError(f"precision: unknown '{name}'; there are: auto, {', '.join(PRECISIONS)}.")
        return name
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def pick_products(name: str, device: "torch.device") -> str:
    """The precision of matrix products in training, where weights stay in float32; "auto" is bfloat16 where it is fast.

    A CPU without instructions for bfloat16 makes it up from float32 and is several times slower with it (docs/log.md).
    Raises ConfigError for an unknown name.
    """
    if name == "auto" and device.type == "cpu":
        return "bfloat16" if fast_bfloat16() else "float32"
    return pick_precision(name, device)


@cache
def fast_bfloat16() -> bool:
    """Measured on the CPU: 0.2 times the rate of float32 where it is made up, 2.5 to 7 times where it is not."""
    import torch

    float32, bfloat16 = (matmul_rate(torch.device("cpu"), kind, 512, 0.02) for kind in ("float32", "bfloat16"))
    return bfloat16 > 1.5 * float32


def cores() -> int:
    """Cores this process may use: those it is bound to, or fewer where a container's quota says so."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or its quota is "max"
        return bound


def memory_bytes(device: "torch.device | str" = "cpu") -> int:
    """Memory of the device in bytes, 0 where unknown; for a CPU the machine's, or less where a container limits it."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def free_bytes(device: "torch.device | str" = "cpu") -> int:
    """Memory of the device that nobody uses, 0 where unknown; within a container, what its limit leaves."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return memory_bytes() // 2
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        return max(0, min(free, limit - used))
    except (OSError, ValueError):  # no such file, or no limit
        return free


PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # read when torch first multiplies
PREPARED = 32  # products that a server keeps ready: oneDNN's own 1,024, each of another shape, hold a gigabyte


def prepare(count: int | None = None, *, keep_memory: bool = True, huge_pages: bool = False) -> int:
    """Readies torch for work: threads (`count`, else OMP_NUM_THREADS, else one a core), fast float32 products, memory.

    On a CPU with instructions for bfloat16 "medium" lets oneDNN split each float32 into parts of it: 1.5 to 2 times as
    fast where that keeps float32's accuracy, and rounding to bfloat16 where the CPU multiplies tiles (AMX), so the
    error is measured first. Without them it is up to a tenth slower (docs/log.md). A GPU is left alone. keep_memory:
    what is freed is kept for the next step; a server, with many threads and requests of all sizes, must not do so.
    huge_pages: tensors of some megabytes lie in pages of two, where the system has such; weights that are read for each
    token are read up to a fifth faster. torch asks for it once, before its first tensor. Returns the number of threads.
    """
    import torch

    if huge_pages:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set_malloc(keep_memory)
    if not keep_memory:
        for name in PRIMITIVES:
            os.environ.setdefault(name, str(PREPARED))
    named = os.environ.get("OMP_NUM_THREADS", "")
    chosen = count or (int(named) if named.isdigit() and int(named) else cores())
    torch.set_num_threads(chosen)
    if not torch.cuda.is_available() and torch.cpu._is_avx512_bf16_supported():
        torch.set_float32_matmul_precision("medium")
        if _product_error() > 2e-6:
            torch.set_float32_matmul_precision("highest")
    return chosen


def _product_error(size: int = 256) -> float:
    """Relative error of a float32 product, measured: 2e-7 to 4e-7 in full accuracy, 2e-3 where bfloat16 is inside."""
    import torch

    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def _set_malloc(keep: bool) -> None:
    """Has the C library keep freed memory instead of giving it back, or else hold little of it.

    Each step of training frees its activations and takes as much again; fresh pages from the system, cleared one by
    one, cost a quarter of a step. A server's threads would each fill an arena of their own with what is left between
    requests (docs/log.md). Only glibc has these dials; a user who set them by the environment knows better.
    """
    import ctypes

    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # M_... of malloc.h
    dials = {mmap_threshold: 1 << 30, trim_threshold: 2**31 - 1} if keep else {arena_max: 1}
    for dial, value in dials.items():
        mallopt(dial, value)


def use_small_pages(tensor: "torch.Tensor") -> None:
    """Has the memory of a tensor that nobody has written to come in small pages, each when it is first used."""
    import ctypes
    import mmap

    if not sys.platform.startswith("linux") or not tensor.is_cpu:
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = tensor.data_ptr() + tensor.nbytes - start
    if length > 0:  # an error says that there are no others
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_NOHUGEPAGE)


def set_seed(seed: int) -> None:
    """Seeds python, numpy and torch, for libraries that draw from their global generators."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def stopwatch(work: Callable[[], object], device: "torch.device", seconds: float = 0.3, most: int = 50) -> float:
    """Seconds of the fastest of some calls, after one to warm up; the fastest is least disturbed by others."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    times = [once()]
    while sum(times) < seconds and len(times) < most:
        times.append(once())
    return min(times)


def matmul_rate(
    device: "torch.device", precision: str = "float32", size: int | None = None, seconds: float = 0.3
) -> float:
    """FLOP/s of square matrix products, measured: the most that this machine gives any network."""
    import torch

    size = size or (8192 if device.type == "cuda" else 1024)
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
    return 2 * size**3 / stopwatch(lambda: left @ right, device, seconds)


@dataclass(frozen=True)
class Fact:
    """One line of `polytask doctor`. `hint` says what to do where something is wrong or could be better."""

    name: str
    value: str
    good: bool = True
    hint: str = ""


def facts(measure: bool = True) -> list[Fact]:
    """What matters about this machine and this installation."""
    import torch

    device = pick_device()
    found = [
        Fact("python", platform.python_version(), sys.version_info >= (3, 11), "polytask needs Python 3.11 or newer."),
        Fact("polytask", version(), hint=""),
        Fact("torch", torch.__version__),
        Fact("system", f"{platform.system()} {platform.machine()}"),
        Fact("cores", f"{cores()} of {os.cpu_count()}"),
        Fact("threads", str(torch.get_num_threads()), torch.get_num_threads() <= cores(),
             f"More threads than cores slow everything down: export OMP_NUM_THREADS={cores()}"),
        Fact("memory", f"{memory_bytes() / 2**30:.1f} GiB"),
        _gpu(),
        _compiler(),
        _disk(Path.cwd()),
        *_libraries(),
    ]  # fmt: skip
    if measure:
        found += [_rate(device, precision) for precision in ("float32", "bfloat16")]
    return found


def _rate(device: "torch.device", precision: str) -> Fact:
    """How fast products are; in bfloat16 that says whether the machine has them or makes them up from float32."""
    rate = f"{matmul_rate(device, precision) / 1e9:,.0f} GFLOP/s on {device}"
    chosen = "; what `precision: auto` takes" if pick_products("auto", device) == precision else ""
    return Fact(f"{precision} products", rate + chosen)


def compiler() -> str:
    """The C++ compiler that torch.compile takes on a CPU, or "" where there is none."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")) or ""


def _compiler() -> Fact:
    return Fact("compiler", compiler() or "none; training.compile needs one on a CPU, nothing else does")


def version(package: str = "polytask") -> str:
    """Of an installed package; "" where there is none, as where polytask's source is used as it lies."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _gpu() -> Fact:
    import torch

    if not torch.cuda.is_available():
        return Fact("gpu", "none; the CPU does the work")
    card = torch.cuda.get_device_properties(0)
    return Fact("gpu", f"{torch.cuda.device_count()} x {card.name}, {card.total_memory / 2**30:.0f} GiB")


def _disk(folder: Path) -> Fact:
    free = shutil.disk_usage(folder).free
    return Fact(
        "free disk", f"{free / 2**30:.1f} GiB at {folder}", free > 2**30, "Checkpoints may not fit; free some space."
    )


def _libraries() -> list[Fact]:
    wanted = ("numpy", "tokenizers", "safetensors", "pydantic", "pyyaml", "pyarrow", "sacrebleu", "rouge-score")
    missing = [name for name in wanted if not version(name)]
    extras = {"clean": "rensa", "eval": "lm-eval", "tensorboard": "tensorboard"}
    there = [extra for extra, package in extras.items() if version(package)]
    return [
        Fact("libraries", f"{len(wanted) - len(missing)} of {len(wanted)}", not missing,
             f"Missing: {', '.join(missing)}. Install with: pip install polytask"),
        Fact("extras", ", ".join(there) or "none", hint=""),
    ]  # fmt: skip
