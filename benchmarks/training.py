"""Training speed and memory: polytask's trainer, nanoGPT and transformers on one network, batch, precision and AdamW.

    python benchmarks/training.py --size 10m --precision bf16 --nanogpt ~/nanoGPT
    python benchmarks/training.py --size gpt2-124m --repeats 1

Each contender runs in a process of its own, in turn, several times; figures are medians over those processes. The
machine's matmul rate is measured between them, so that shares of it are of the same minutes. On a GPU both sides
compile their blocks; where a batch does not fit its rows are halved, as the table says.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness


@dataclass(frozen=True)
class Size:
    """A GPT-2 shape and its batch."""

    layers: int
    dim: int
    heads: int
    vocab: int
    context: int
    rows: int

    @property
    def tokens(self) -> int:
        return self.rows * self.context


SIZES = {
    "10m": Size(layers=6, dim=384, heads=6, vocab=65, context=256, rows=16),  # nanoGPT's character model
    "124m": Size(layers=12, dim=768, heads=12, vocab=50257, context=512, rows=4),  # GPT-2 small
    "gpt2-124m": Size(layers=12, dim=768, heads=12, vocab=50257, context=1024, rows=64),  # from here on as for GPUs
    "gpt2-350m": Size(layers=24, dim=1024, heads=16, vocab=50257, context=1024, rows=32),
    "gpt3-1.3b": Size(layers=24, dim=2048, heads=16, vocab=50257, context=2048, rows=8),
    "gpu-tiny": Size(layers=2, dim=64, heads=2, vocab=65, context=32, rows=4),
    "tiny": Size(layers=2, dim=64, heads=2, vocab=65, context=32, rows=4),  # to try the script itself
}
LR, BETAS, DECAY, CLIP = 3e-4, (0.9, 0.95), 0.1, 1.0
GPUS = ("gpt2-124m", "gpt2-350m", "gpt3-1.3b", "gpu-tiny")
DATASHEET = 989e12  # FLOP/s of dense bfloat16 products of an H100 or H200
Tick = Callable[[], None]


class Enough(Exception):
    """All steps were measured."""


class Clock:
    """Told of the end of every step; the first ones warm up."""

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.steps, self.times = warmup, steps, []

    def __call__(self) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) > self.warmup + self.steps:
            raise Enough

    @property
    def seconds(self) -> list[float]:
        kept = self.times[self.warmup :]
        return [after - before for before, after in pairwise(kept)]


def config_of(size: Size) -> Any:
    """nanoGPT's network: GPT-3's without bands, and with the exact GELU in place of its tanh form."""
    from polytask.models.catalogue import build_config
    from polytask.nn.feedforward import MLP

    return build_config(
        "gpt3", layers=size.layers, dim=size.dim, heads=size.heads, band=None, vocab_size=size.vocab,
        context_length=size.context, feedforward=MLP(4 * size.dim, activation="gelu", bias=True),
    )  # fmt: skip


def ours(size: Size, precision: str, tick: Tick, device: str, compiled: bool = False) -> None:
    """The trainer as `polytask train` runs it, on batches as its loader makes them; only saving is left out."""
    import torch

    from polytask.data.batch import Batch
    from polytask.models.transformer import Transformer
    from polytask.training.callbacks import Callback
    from polytask.training.config import TrainingConfig
    from polytask.training.objectives.language import LanguageModelling
    from polytask.training.trainer import Trainer

    shape = (size.rows, size.context)
    positions = torch.arange(size.context).repeat(size.rows, 1)

    def batch(step: int, micro: int) -> Batch:
        ids = torch.randint(size.vocab, (size.rows, size.context + 1), generator=torch.Generator().manual_seed(step))
        whole, weights = torch.ones(shape, dtype=torch.int64), torch.ones(shape)
        given, wanted = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        return Batch(given, positions, whole, wanted, weights, torch.zeros(shape, dtype=torch.int64))

    class Watch(Callback):
        def on_step(self, step: int) -> None:
            tick()

    config = TrainingConfig(
        steps=10**6, lr=LR, betas=BETAS, weight_decay=DECAY, clip=CLIP, schedule="constant", evaluate_every=0,
        save_every=0, precision=precision, compile=compiled,
    )  # fmt: skip
    if device == "cpu":
        network = Transformer(config_of(size)).initialize(0)
    else:
        with torch.device("meta"):
            network = Transformer(config_of(size))
        network = network.to_empty(device=device)
        for parameter in network.parameters():
            parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(network, LanguageModelling(), batch, config, folder, callbacks=[Watch()], sources=["text"])
        trainer.run()


def loop(size: Size, precision: str, tick: Tick, model: Any, optimizer: Any, loss_of: Callable) -> None:
    """nanoGPT's training step: batch, loss under autocast, backward, clip, AdamW."""
    import torch

    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    generator = torch.Generator().manual_seed(0)
    model.train()
    while True:
        ids = torch.randint(size.vocab, (size.rows, size.context + 1), generator=generator)
        ids = ids.to(device)
        with autocast:
            loss = loss_of(model, ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # every one of them logs its loss
        tick()


def nanogpt(size: Size, precision: str, tick: Tick, path: str, compiled: bool = False) -> None:
    """Its model and its optimizer from a clone of karpathy/nanoGPT."""
    import torch

    sys.path.insert(0, path)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    model = GPT(GPTConfig(
        block_size=size.context, vocab_size=size.vocab, n_layer=size.layers, n_head=size.heads, n_embd=size.dim,
        dropout=0.0, bias=True,
    ))  # fmt: skip
    optimizer = model.configure_optimizers(DECAY, LR, BETAS, "cpu")
    model = torch.compile(model) if compiled else model
    loop(size, precision, tick, model, optimizer, lambda m, ids, targets: m(ids, targets)[1])


def transformers(size: Size, precision: str, tick: Tick, device: str, compiled: bool = False) -> None:
    """GPT2LMHeadModel with torch's fused AdamW, as its own Trainer chooses."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device(device):
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=size.vocab, n_positions=size.context, n_embd=size.dim, n_layer=size.layers, n_head=size.heads,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        ))  # fmt: skip
    for block in model.transformer.h if compiled else []:
        block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=True)

    def loss(m: Any, ids: Any, targets: Any) -> Any:
        return m(ids, labels=targets, shift_labels=targets).loss

    loop(size, precision, tick, model, optimizer, loss)


def contender(name: str, size: Size, options: argparse.Namespace) -> Callable[[Tick], None]:
    """What trains under that name, all that it needs already imported: `_dynamo` is what torch's optimizers import."""
    import torch._dynamo  # noqa: F401

    precision, device, compiled = options.precision, options.device, "compiled" in name
    if name.startswith("polytask"):
        import polytask.training.trainer  # noqa: F401

        return lambda tick: ours(size, precision, tick, device, compiled)
    if name.startswith("nanoGPT"):
        return lambda tick: nanogpt(size, precision, tick, options.nanogpt, compiled)
    from transformers import GPT2LMHeadModel  # noqa: F401

    return lambda tick: transformers(size, precision, tick, device, compiled)


def contend(name: str, options: argparse.Namespace) -> None:
    """In a process of its own: one contender's median step and its peak memory, less what the imports take."""
    import torch

    from polytask import runtime

    if name.startswith("polytask"):
        runtime.prepare()  # decides the kind of float32 product, where the name does not; peers leave torch's "highest"
    torch.set_num_threads(runtime.cores())
    for kind in ("medium", "highest"):
        if kind in name:
            torch.set_float32_matmul_precision(kind)
    if name.startswith("matmul"):
        rate = runtime.matmul_rate(torch.device("cpu"), options.precision, 256 if options.size == "tiny" else 2048)
        return harness.answer({"flops": rate})
    if options.size in GPUS:
        return harness.answer(on_gpu(name, options))
    run, clock = contender(name, SIZES[options.size], options), Clock(options.warmup, options.steps)
    before = harness.memory("VmRSS")
    with suppress(Enough):
        run(clock)
    speed = SIZES[options.size].tokens / statistics.median(clock.seconds)
    memory, kind = harness.memory("VmHWM") - before, torch.get_float32_matmul_precision()
    harness.answer({"tokens_per_second": speed, "memory": memory, "products": kind})


def on_gpu(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same with the GPU's memory and rate of products; a batch that does not fit is halved."""
    import gc

    import torch

    from polytask import runtime
    from polytask.errors import out_of_memory

    size = SIZES[options.size]
    while True:
        run, clock, fits = contender(name, size, options), Clock(options.warmup, options.steps), True
        try:
            with suppress(Enough):
                run(clock)
        except Exception as error:
            if size.rows == 1 or not out_of_memory(error):
                raise
            fits = False
        if fits:
            break
        size = replace(size, rows=size.rows // 2)
        gc.collect()
        torch.cuda.empty_cache()
    memory, kind = torch.cuda.max_memory_allocated(), torch.get_float32_matmul_precision()
    gc.collect()
    torch.cuda.empty_cache()
    rate = runtime.matmul_rate(torch.device(options.device), options.precision, 256 if "tiny" in options.size else None)
    speed = size.tokens / statistics.median(clock.seconds)
    return {"tokens_per_second": speed, "memory": memory, "products": kind, "flops": rate, "rows": size.rows}


def contenders(options: argparse.Namespace) -> list[str]:
    """By name; what follows a comma is a setting. In float32 both sides are asked for both kinds of product."""
    if options.size in GPUS:
        return [f"{name}{'' if options.no_compile else ', compiled'}" for name in ("polytask", "transformers")]
    names = ["polytask", "polytask, compiled", "polytask, highest", "nanoGPT", "nanoGPT, compiled", "nanoGPT, medium"]
    names += ["transformers", "transformers, medium"]
    if options.precision != "float32":
        names = [name for name in names if "highest" not in name and "medium" not in name]
    if options.no_compile:
        names = [name for name in names if "compiled" not in name]
    return [name for name in names if options.nanogpt or "nanoGPT" not in name]


def limits(options: argparse.Namespace) -> list[str]:
    """What measures the products alone; on a GPU every contender's process does."""
    if options.size in GPUS:
        return []
    return ["matmul", "matmul, medium"] if options.precision == "float32" else ["matmul"]


def measure(options: argparse.Namespace, names: list[str], report: harness.Report) -> dict[str, list[dict]]:
    """All contenders in turn, `repeats` times; one that fails is left out from then on, with its reason."""
    runs: dict[str, list[dict]] = {name: [] for name in [*limits(options), *names]}
    words = ["--size", options.size, "--precision", options.precision, "--steps", str(options.steps)]
    words += ["--warmup", str(options.warmup), *(["--nanogpt", options.nanogpt] if options.nanogpt else [])]
    failed, deadline = set(), harness.Deadline(options.limit)
    for repeat in range(options.repeats):
        for name in [name for name in runs if name not in failed]:
            try:
                runs[name].append(harness.ask(__file__, [*words, "--contend", name], limit=deadline.left))
                if (rate := runs[name][-1].get("tokens_per_second")) is not None:  # the products alone have none
                    print(f"{name}: {rate:,.0f} tokens/s", flush=True)
            except RuntimeError as error:
                failed.add(name)
                report.say(f"{name}: left out. {error}")
        print(f"repeat {repeat + 1} of {options.repeats} is done", file=sys.stderr)
    return {name: found for name, found in runs.items() if found and name not in failed}


def show(options: argparse.Namespace, runs: dict[str, list[dict]], report: harness.Report) -> dict[str, Any]:
    from polytask.models import cost

    size, config = SIZES[options.size], config_of(SIZES[options.size])
    flops = cost.flops_per_token(config, size.context)
    rates = {name: harness.median(runs.pop(name), "flops") for name in limits(options)}
    if not rates:
        rates = {"matmul": max(harness.median(found, "flops") for found in runs.values())}
    speeds = {name: harness.median(found, "tokens_per_second") for name, found in runs.items()}
    peers = {name: speed for name, speed in speeds.items() if not name.startswith("polytask")}
    if not speeds:
        raise SystemExit("No contender finished, so there is nothing to compare.")
    best = max(peers or speeds, key=speeds.__getitem__)
    report.say(
        f"{options.size}: {cost.parameters(config):,} parameters, {size.rows} rows of {size.context} tokens, "
        f"{flops / 1e6:,.0f} MFLOP a token, {options.precision}; products, GFLOP/s: "
        + ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in rates.items())
    )
    share, rows, gpu = {}, [], options.size in GPUS
    for name, speed in speeds.items():
        share[name] = speed * flops / rates.get(f"matmul, {runs[name][0]['products']}", rates["matmul"])
        peak = f"{harness.median(runs[name], 'memory') / 2**20:,.0f}"
        extent = harness.spread(runs[name], "tokens_per_second")
        more = [f"{speed * flops / DATASHEET:.1%}", f"{runs[name][0]['rows']}"] if gpu else []
        rows.append([name, f"{speed:,.0f}", extent, f"{speed / speeds[best]:.2f}", f"{share[name]:.0%}", peak, *more])
    head = ["contender", "tokens/s", "range", f"to {best}", "of matmul", "peak MiB"]
    report.table([*head, "of 989 TFLOP/s", "rows"] if gpu else head, rows)
    if options.precision == "float32":
        kind = runs["polytask"][0]["products"]
        report.say(f'Products of float32: runtime.prepare chose "{kind}" for polytask, peers leave torch\'s "highest".')
    report.bars(speeds, f"tokens/s, {options.size}, {options.precision}")
    return {
        "size": options.size, "precision": options.precision, "shape": asdict(size), "flops_per_token": flops,
        "matmul_flops": rates, "best_peer": best, "tokens_per_second": speeds, "share_of_matmul": share, "runs": runs,
        "ratio": {name: speed / speeds[best] for name, speed in speeds.items()},
        "memory": {name: harness.median(found, "memory") for name, found in runs.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--limit", type=float, help="seconds for all; who does not end by then is left out")
    parser.add_argument("--precision", choices=["bf16", "bfloat16", "float32"], default="bf16")
    parser.add_argument("--steps", type=int, default=10, help="measured in each process, after the warm-up")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nanogpt", metavar="PATH", help="a clone of karpathy/nanoGPT")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled contenders out")
    parser.add_argument("--quick", action="store_true", help="a tiny network, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.precision = options.precision.replace("bf16", "bfloat16")
    from polytask import runtime

    options.device = str(runtime.pick_device()) if options.size in GPUS else "cpu"
    if options.quick:
        options.size = "gpu-tiny" if options.size in GPUS else "tiny"
        options.steps, options.warmup, options.repeats = 3, 1, 1
    if options.contend:
        return contend(options.contend, options)
    report = harness.Report(f"training-{options.size}-{options.precision}", options.out)
    if not options.nanogpt and options.size not in GPUS:
        report.say("nanoGPT is left out: name a clone of karpathy/nanoGPT with --nanogpt PATH.")
    report.save(show(options, measure(options, contenders(options), report), report))


if __name__ == "__main__":
    main()
