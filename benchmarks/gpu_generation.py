"""Generation on a GPU: polytask's engine and transformers' `generate` with a static cache, in bfloat16, greedy.

    python benchmarks/gpu_generation.py --shape 1.1b

The shapes are those of `generation.py`, with random weights. Decoding is tokens/s of all rows together after the first
ones; its share of memory is that of the bytes which must be read, weights once a step and the keys and values so far,
in what a large copy moves at the same time. A contender's batches run in one process; compiled, which takes
transformers a while, it has one row.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import generation
import harness
from generation import PROMPT, Shape

SHAPES = generation.SHAPES | {"tiny": Shape("two layers", 2, 64, 4, 2, 128, 300, 256)}
Generate = Callable[[int, int], None]  # tokens of each prompt, new tokens of each


def ours(shape: Shape, device: Any) -> tuple[Callable[[int], Generate], dict[str, float]]:
    import torch

    from polytask.inference.engine import Engine
    from polytask.inference.sampling import Sampling
    from polytask.inference.sequence import Request
    from polytask.models import cost
    from polytask.models.transformer import Transformer
    from polytask.run.bench import bandwidth, bytes_per_token
    from polytask.tokenizers.text import TextTokenizer

    with torch.device("meta"):
        network = Transformer(generation.config(shape)).to(torch.bfloat16)
    network = network.to_empty(device=device).eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    network.fill_buffers()

    def of(rows: int) -> Generate:
        engine = Engine(network, TextTokenizer.bytes(), rows)

        def generate(length: int, new: int) -> None:
            prompts = torch.randint(256, (rows, length)).tolist()
            answers = engine.run([Request(ids, Sampling(max_tokens=new, min_tokens=new)) for ids in prompts])
            assert all(len(answer.ids) == new for (answer,) in answers)

        return generate

    each = cost.kv_bytes_per_token(network.config, "bfloat16")
    return of, {"bandwidth": bandwidth(device), "weights": bytes_per_token(network), "token": each}


def transformers(shape: Shape, device: Any, compiled: bool) -> Callable[[int], Generate]:
    import torch

    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = generation.transformers_model(shape)

    def of(rows: int) -> Generate:
        @torch.inference_mode()
        def generate(length: int, new: int) -> None:
            ids = torch.randint(256, (rows, length), device=device)
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                pad_token_id=0, cache_implementation="static", disable_compile=not compiled,
            )  # fmt: skip
            assert out[0].tolist()[-1] >= 0  # waits for the GPU
            assert out.shape[1] == length + new

        return generate

    return of


def contend(name: str, options: argparse.Namespace) -> None:
    import time

    import torch

    from polytask import runtime
    from polytask.run import peers

    torch.set_num_threads(runtime.cores())
    shape, device = SHAPES[options.shape], runtime.pick_device()
    about: dict[str, Any] = {}
    if name == "polytask":
        of, about = ours(shape, device)
    else:
        of = transformers(shape, device, "compiled" in name)
    speeds = {}
    for rows in options.rows if "compiled" not in name else options.rows[:1]:
        generate, start = of(rows), time.perf_counter()
        generate(PROMPT, options.new)
        warm = time.perf_counter() - start
        speed = peers.measure(generate, PROMPT, options.new, options.tries)
        speeds[rows] = {"decoding": rows * speed.decoding, "first": speed.first, "warm": warm}
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    harness.answer({"speeds": speeds, "memory": memory, **about})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="124m")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--new", type=int, default=generation.NEW)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=["polytask", "transformers", "transformers, compiled"])
    parser.add_argument("--limit", type=float, help="seconds for all; who does not end by then is left out")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "gpu")
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.contend:
        return contend(options.contend, options)
    shape, runs, rows = SHAPES[options.shape], {}, []
    report = harness.Report(f"generation-{options.shape}", options.out)
    words = ["--shape", options.shape, "--new", str(options.new), "--tries", str(options.tries)]
    words += ["--rows", *map(str, options.rows)]
    deadline = harness.Deadline(options.limit)
    for name in options.contenders:
        try:
            runs[name] = harness.ask(__file__, [*words, "--contend", name], limit=deadline.left)
            print(f"{name}: {runs[name]['speeds']}", flush=True)
        except RuntimeError as error:
            report.say(f"{name}: left out. {error}")
    report.say(f"{shape.name}, bfloat16: {PROMPT} tokens in, {options.new} out")
    about = runs.get("polytask")
    if about:
        report.say(f"A copy moves {about['bandwidth'] / 1e9:,.0f} GB/s; weights are {about['weights'] / 1e6:,.0f} MB")
    speeds = {}
    for name, found in runs.items():
        for count, speed in found["speeds"].items():
            speeds[f"{name}, {count} rows"] = speed["decoding"]
            step = 1e6 * int(count) / speed["decoding"]
            read = about and about["weights"] + int(count) * about["token"] * (PROMPT + options.new / 2)
            share = f"{read / about['bandwidth'] / step * 1e6:.0%}" if about and read else ""
            warm, first = f"{speed['warm']:.1f}", f"{1e3 * speed['first']:.1f}"
            rows.append([name, count, f"{speed['decoding']:,.0f}", f"{step:,.0f}", share, first, warm])
    head = ["contender", "rows", "tokens/s", "us a step", "of memory", "first, ms", "first call, s"]
    report.table(head, rows)
    if speeds:
        report.bars(speeds, f"tokens/s of decoding, {shape.name}, bfloat16")
    report.save({"shape": asdict(shape), "tokens_per_second": speeds, "runs": runs})


if __name__ == "__main__":
    main()
