"""All that is measured on a GPU, in some five minutes: tests of what runs there alone, training, generation.

    python benchmarks/gpu.py --out benchmarks/results/gpu
    python benchmarks/gpu.py --out /tmp/gpu --tiny          # on any machine: does the script work?

Each part is a process of its own with a limit of time, so that one that fails leaves the others; what it prints is
shown as it comes, and its last lines say where it failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = {"tests": 60.0, "training": 150.0, "generation": 120.0}  # seconds
SIZES = ("gpt2-124m", "gpt3-1.3b", "gpt2-350m")
TESTS = ("tests/nn/test_gpu.py", "tests/inference/test_steps.py")


@dataclass(frozen=True)
class Part:
    name: str
    words: list[str]
    share: float = 1.0  # of what is left of the group's time
    timed: bool = False  # is told of it, and ends by itself


def parts(group: str, out: Path, tiny: bool) -> list[Part]:
    if group == "tests":
        chosen = [] if tiny else ["-k", "cuda"]
        if not tiny and find_spec("xdist"):
            chosen += ["-n", "6"]  # most of the time compilers are at work
        return [Part("tests", ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *chosen, *TESTS])]
    if group == "training":
        words = ["benchmarks/training.py", "--repeats", "1", "--out", str(out)]
        if tiny:
            return [Part("training, tiny", [*words, "--size", "gpu-tiny", "--quick", "--no-compile"])]
        words += ["--steps", "10"]
        sizes = [Part(f"training, {size}", [*words, "--size", size], 0.5, timed=True) for size in SIZES]
        return [Part("attention", ["benchmarks/gpu_attention.py"], 0.2), *sizes]
    words = ["benchmarks/gpu_generation.py", "--out", str(out)]
    if tiny:
        return [Part("generation, tiny", [*words, "--shape", "tiny", "--rows", "1", "4", "--new", "8", "--tries", "1",
                     "--contenders", "polytask", "transformers"])]  # fmt: skip
    large = Part("generation, 1.1b", [*words, "--shape", "1.1b", "--contenders", "polytask", "transformers"], 0.5, True)
    return [large, Part("generation, 124m", [*words, "--shape", "124m"], timed=True)]


def run(part: Part, limit: float) -> bool:
    """Runs a part and shows what it says; whether it ended well within `limit` seconds."""
    words = [*part.words, *(["--limit", f"{max(1, limit - 5):.0f}"] if part.timed else [])]
    print(f"\n=== {part.name}, at most {limit:.0f} s: python {' '.join(words)}", flush=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    environment |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
    process.wait()
    timer.cancel()
    end = {0: "done", -signal.SIGKILL: "stopped at its limit"}.get(process.returncode, f"FAILED, {process.returncode}")
    print(f"=== {part.name}: {end} after {time.monotonic() - start:.0f} s", flush=True)
    return process.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--only", default=",".join(LIMITS), help=f"some of {', '.join(LIMITS)}, with commas between")
    parser.add_argument("--tiny", action="store_true", help="small networks, on whatever device there is")
    options = parser.parse_args()
    groups = options.only.split(",")
    if unknown := [group for group in groups if group not in LIMITS]:
        parser.error(f"--only: '{unknown[0]}' is none of {', '.join(LIMITS)}")
    ended = {}
    for group in groups:
        left = LIMITS[group] * (5 if options.tiny else 1)
        found = parts(group, options.out.resolve(), options.tiny)
        for place, part in enumerate(found):
            start = time.monotonic()
            ended[part.name] = run(part, left if place == len(found) - 1 else part.share * left)
            left -= time.monotonic() - start
    print("\n" + "\n".join(f"{name}: {'ok' if well else 'not ok'}" for name, well in ended.items()))
    raise SystemExit(not all(ended.values()))


if __name__ == "__main__":
    main()
