"""A layer of experts against the dense layer of as many active FLOPs, forward and backward on the CPU.

    python benchmarks/experts.py

8 experts of inner width 2,048, of which each token passes 2, beside one layer of inner width 4,096, both with the norm
in front, over 4,096 tokens of width 512. They take turns in one process; figures are medians. CPU seconds, of all
threads together, tell less of what else the machine is at.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

WIDTH, INNER, EXPERTS, TOP_K = 512, 2_048, 8, 2


def layers(gated: bool) -> dict[str, Any]:
    """Contenders by name, with their initial weights."""
    import torch

    from polytask.nn.experts import Experts
    from polytask.nn.feedforward import MLP, GatedMLP

    dense = GatedMLP(TOP_K * INNER, activation="gelu") if gated else MLP(TOP_K * INNER)
    sparse = {
        "experts, dropless": Experts(EXPERTS, INNER, TOP_K, gated=gated),
        "experts, capacity 2": Experts(EXPERTS, INNER, TOP_K, gated=gated, capacity=2.0),
    }
    built = {name: part.build(WIDTH) for name, part in {"dense": dense, **sparse}.items()}
    generator = torch.Generator().manual_seed(0)
    for module in built.values():
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    return built


def step_of(module: Any, precision: str, tokens: int) -> Callable[[], None]:
    """One pass forward and backward, with the routing losses."""
    import torch

    from polytask.nn.cache import Context
    from polytask.nn.norm import RMSNorm

    torch.manual_seed(0)
    norm, shape = RMSNorm().build(WIDTH), (8, tokens // 8, WIDTH)
    x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
    documents = torch.ones(shape[:2], dtype=torch.long)

    def step() -> None:
        context = Context(documents, documents)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = module(x, context, norm=norm)
        loss = (out * grad).sum()
        for layer in context.take_routing():
            loss = loss + layer.loss
        loss.backward()
        x.grad = None
        module.zero_grad()

    return step


def measure(gated: bool, precision: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """For each repeat, seconds of every contender: by the clock under its name, of the CPU under "cpu NAME"."""
    steps = {name: step_of(module, precision, options.tokens) for name, module in layers(gated).items()}
    for step in steps.values():
        step()
    runs = []
    for _ in range(options.repeats):
        run = {}
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            run |= {name: time.perf_counter() - wall, f"cpu {name}": time.process_time() - cpu}
        runs.append(run)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--tokens", type=int, default=4_096)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="few tokens, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.repeats = 128, 1
    from polytask import runtime

    runtime.prepare()
    report = harness.Report("experts", options.out)
    rows, figures = [], {}
    for precision in options.precision:
        for gated in (False, True):
            runs = measure(gated, precision, options)
            kind = f"{precision}, {'gated' if gated else 'plain'}"
            figures[kind] = {name: harness.median(runs, name) for name in runs[0]}
            for name in (name for name in runs[0] if not name.startswith("cpu ")):
                wall, cpu = figures[kind][name], figures[kind][f"cpu {name}"]
                base, cpu_base = figures[kind]["dense"], figures[kind]["cpu dense"]
                span = f"{min(run[name] for run in runs) * 1e3:,.0f}..{max(run[name] for run in runs) * 1e3:,.0f}"
                rows.append([kind, name, f"{wall * 1e3:,.0f}", span, f"{wall / base:.2f}", f"{cpu / cpu_base:.2f}"])
    report.say(f"{EXPERTS} experts, top {TOP_K}, width {WIDTH}, inner width {INNER}, {options.tokens:,} tokens; "
               "ms of forward and backward, and ratios to the dense layer:")  # fmt: skip
    report.table(["", "", "ms", "range", "ratio", "ratio, CPU time"], rows)
    report.save({"seconds": figures})


if __name__ == "__main__":
    main()
