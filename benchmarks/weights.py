"""Open weights: how fast they load, in how much memory, and how fast they read a prompt, beside transformers.

    python benchmarks/weights.py

Loading: a folder of the shape of TinyLlama (1.1 B) with random bfloat16 weights, in the page cache. Its bytes are read
into fresh memory (the least that anybody can do), loaded here, and loaded by transformers. Memory is the process's
peak above what it held before, over the size of the file. Prefill: prompt tokens/s until the logits of the last token,
of GPT-2 small (124 M) and of the 1.1 B. Random weights, each contender in a process of its own, in turn.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

SHAPES: dict[str, dict[str, Any]] = {
    "124m": {
        "model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    },
    "1.1b": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
        "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    },
}  # fmt: skip
TOKENS = 512


def make(folder: Path, shape: str) -> None:
    """A folder of that shape with random weights in bfloat16."""
    import torch

    from polytask.interop import hf
    from polytask.models.transformer import Transformer

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))
    with torch.device("meta"):
        network = Transformer(hf.read_config(folder)).bfloat16()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(1.0)
    hf.export(folder / "weights", network)


def loader(name: str, folder: Path, dtype: Any) -> Callable[[], Any]:
    if name == "bytes":
        return lambda: [_bytes(file) for file in folder.glob("*.safetensors")]
    if name == "polytask":
        from polytask.interop import hf

        return lambda: hf.load_network(folder, dtype)
    from transformers import AutoModelForCausalLM

    return lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def _bytes(file: Path) -> bytearray:
    held = bytearray(file.stat().st_size)
    with file.open("rb", buffering=0) as stream:
        view = memoryview(held)
        while view:
            view = view[stream.readinto(view) :]  # type: ignore[index]
    return held


def load(name: str, folder: Path) -> None:
    import torch

    load = loader(name, folder, torch.bfloat16)
    before = harness.memory("VmRSS")
    start = time.perf_counter()
    made = load()
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    harness.answer({"seconds": seconds, "memory": (harness.memory("VmHWM") - before) / size})
    del made


def prefill(name: str, folder: Path, precision: str, tries: int) -> None:
    import torch

    from polytask import runtime

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or runtime.cores()))
    network = loader(name, folder, getattr(torch, precision))()
    ids = torch.arange(50, 50 + TOKENS)[None]

    @torch.inference_mode()
    def run() -> Any:
        if name == "polytask":
            from polytask.nn.cache import Context
            from polytask.nn.paged import BLOCK, Row

            blocks = -(-TOKENS // BLOCK)
            cache = network.new_cache(blocks).view([Row(range(blocks), 0, TOKENS)])
            return network.logits(network(ids, Context(torch.arange(TOKENS)[None], cache=cache))[:, -1])
        return network(ids, use_cache=True, logits_to_keep=1).logits

    run()
    speeds = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        speeds.append(TOKENS / (time.perf_counter() - start))
    harness.answer({"speed": sorted(speeds)[len(speeds) // 2]})


def loading(report: harness.Report, folder: Path, repeats: int) -> dict[str, Any]:
    names = ("bytes", "polytask", "transformers")
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            runs[name].append(harness.ask(__file__, ["--contend", "load", name, str(folder)]))
    seconds = {name: harness.median(found, "seconds") for name, found in runs.items()}
    rows = [
        [
            name, f"{seconds[name]:.2f}", f"{seconds[name] / seconds['bytes']:.2f}",
            f"{min(r['seconds'] for r in found):.2f}..{max(r['seconds'] for r in found):.2f}",
            f"{harness.median(found, 'memory'):.2f}",
        ]
        for name, found in runs.items()
    ]  # fmt: skip
    report.say(f"\nloading {folder.parent.name} in bfloat16, page cache warm")
    report.table(["contender", "seconds", "of bytes", "range", "peak / size"], rows)
    return runs


def prefilling(report: harness.Report, folders: dict[str, Path], precisions: list[str], repeats: int) -> dict[str, Any]:
    names, rows, everything = ("polytask", "transformers"), [], {}
    for precision in precisions:
        for shape, folder in folders.items():
            runs: dict[str, list[dict]] = {name: [] for name in names}
            for _ in range(repeats):
                for name in names:
                    runs[name].append(harness.ask(__file__, ["--contend", precision, name, str(folder)]))
            ours, theirs = (harness.median(runs[name], "speed") for name in names)
            extent = [harness.spread(runs[name], "speed") for name in names]
            rows.append([f"{shape}, {precision}", f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}", *extent])
            everything[f"{shape}, {precision}"] = runs
    report.say(f"\nprefill of {TOKENS} tokens, tokens/s")
    report.table(["shape", *names, "ratio", "range", "range"], rows)
    return everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="the small shape, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--contend", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        kind, name, folder = options.contend
        return load(name, Path(folder)) if kind == "load" else prefill(name, Path(folder), kind, tries=3)
    shapes, repeats = (["124m"], 1) if options.quick else (list(SHAPES), options.repeats)
    report = harness.Report("weights", options.out)
    with tempfile.TemporaryDirectory() as place:
        folders = {shape: Path(place) / shape / "weights" for shape in shapes}
        for shape in shapes:
            make(Path(place) / shape, shape)
        loads = loading(report, folders[shapes[-1]], repeats)
        fills = prefilling(report, folders, options.precision, repeats)
    report.save({"loading": loads, "prefill": fills})


if __name__ == "__main__":
    main()
