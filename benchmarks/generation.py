"""Generation, one request at a time: polytask's engine and transformers' `generate` on GPT-2 small (124 M) in bf16.

    python benchmarks/generation.py

Greedy, random weights, each in a process of its own, in turn. Decoding is tokens/s after the first token; prefill is
prompt tokens/s until the first one.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import harness

LAYERS, DIM, HEADS, VOCABULARY, CONTEXT = 12, 768, 12, 50257, 1024
PROMPT, PREFILL, NEW = 32, 512, 128
CONTENDERS = ("polytask", "polytask, int8", "transformers", "transformers, static cache")


def ours(precision: str, int8: bool) -> Any:
    """A function of (prompt length, new tokens) that generates."""
    import torch

    from polytask.inference.engine import Engine
    from polytask.inference.sampling import Sampling
    from polytask.inference.sequence import Request
    from polytask.models.catalogue import build_config
    from polytask.models.transformer import Transformer
    from polytask.nn.quant import quantize
    from polytask.tokenizers.text import TextTokenizer

    config = build_config(
        "gpt3", layers=LAYERS, dim=DIM, heads=HEADS, band=None, vocab_size=VOCABULARY, context_length=CONTEXT
    )
    network = Transformer(config).initialize(0).to(getattr(torch, precision)).eval()
    if int8:
        quantize(network)
    engine = Engine(network, TextTokenizer.bytes())

    def generate(length: int, new: int) -> None:
        (completions,) = engine.run([Request(list(range(50, 50 + length)), Sampling(max_tokens=new, min_tokens=new))])
        assert len(completions[0].ids) == new

    return generate


def transformers(precision: str, static: bool) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=DIM, n_layer=LAYERS, n_head=HEADS)
    model = GPT2LMHeadModel(config).to(getattr(torch, precision)).eval()
    more = {"cache_implementation": "static"} if static else {}

    @torch.inference_mode()
    def generate(length: int, new: int) -> None:
        ids = torch.arange(50, 50 + length)[None]
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, **more
        )
        assert out.shape[1] == length + new

    return generate


def contend(name: str, options: argparse.Namespace) -> None:
    import torch

    from polytask import runtime

    if name.startswith("polytask"):
        runtime.prepare()
        maker = ours
    else:
        torch.set_num_threads(runtime.cores())
        maker = transformers
    generate = maker(options.precision, "," in name)
    generate(PROMPT, 8)

    def seconds(length: int, new: int) -> float:
        start = time.perf_counter()
        generate(length, new)
        return time.perf_counter() - start

    decoding, prefill = [], []
    for _ in range(options.tries):
        decoding.append((options.new - 1) / (seconds(PROMPT, options.new) - seconds(PROMPT, 1)))
        prefill.append(PREFILL / seconds(PREFILL, 1))
    harness.answer({"decoding": sorted(decoding)[len(decoding) // 2], "prefill": sorted(prefill)[len(prefill) // 2]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=3, help="in each process")
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--quick", action="store_true", help="few tokens, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.tries, options.new = 1, 1, 8
    if options.contend:
        return contend(options.contend, options)
    report = harness.Report(f"generation-{options.precision}", options.out)
    words = ["--precision", options.precision, "--tries", str(options.tries), "--new", str(options.new)]
    runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for _ in range(options.repeats):
        for name in CONTENDERS:
            runs[name].append(harness.ask(__file__, [*words, "--contend", name]))
    figures = {
        name: {kind: harness.median(found, kind) for kind in ("decoding", "prefill")} for name, found in runs.items()
    }
    base = figures["transformers"]
    report.say(f"GPT-2 small, 124 M, {options.precision}, one request: {PROMPT} tokens in, {options.new} out")
    report.say(f"tokens/s of decoding, and of the prefill of {PREFILL}")
    rows = []
    for name, found in figures.items():
        ratios = {kind: f"{found[kind] / base[kind]:.2f}" for kind in found}
        extent = harness.spread(runs[name], "decoding")
        prefill = f"{found['prefill']:,.0f}"
        rows.append([name, f"{found['decoding']:.1f}", ratios["decoding"], extent, prefill, ratios["prefill"]])
    report.table(["contender", "decoding", "ratio", "range", "prefill", "ratio"], rows)
    report.bars({name: f["decoding"] for name, f in figures.items()}, "tokens/s of decoding, 124 M, batch 1")
    report.save({"tokens_per_second": figures, "runs": runs})


if __name__ == "__main__":
    main()
