"""Start-up: `import polytask` and `polytask --help`, beside Python itself.

python benchmarks/startup.py
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import harness

COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import polytask": ["-c", "import polytask"],
    "polytask --help": ["-m", "polytask.cli.main", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    report = harness.Report("startup", options.out)
    runs = [
        {name: seconds(words) for name, words in COMMANDS.items()}
        for _ in range(1 if options.quick else options.repeats)
    ]
    found = {name: harness.median(runs, name) for name in COMMANDS}
    base = found["python, nothing"]
    report.table(["", "s", "more than python"], [[name, f"{s:.3f}", f"{s - base:.3f}"] for name, s in found.items()])
    report.save({"seconds": found})


if __name__ == "__main__":
    main()
