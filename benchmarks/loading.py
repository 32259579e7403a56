"""Data: preparation against the tokenizer alone, and the loader against the training that it feeds.

    python benchmarks/loading.py --data-dir DATA

Preparation reads a Parquet file, checks each row by its task, tokenizes, and writes the memory-mapped store. Its peer
is `tokenizers.encode_batch` on the very texts, already in memory, on the same cores. The loader assembles rows in one
thread; it is compared with the training speed of a network of 10 million parameters in bf16 (benchmarks/training.py).
A run that resumes makes its loader anew, from prepared data, and asks it for a late step first; that is timed, too.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

VOCABULARY = 16_384
LATE = 100_000  # the step that a run resumes at
SETS: dict[str, dict[str, Any]] = {
    "books": {"task": "text", "columns": {}},
    "wikipedia_en": {"task": "text", "columns": {}},
    "tatoeba_en_de": {"task": "translation", "columns": {}},
    "dialogsum": {"task": "summarization", "columns": {}},
}


def source_of(name: str, folder: Path, limit: int | None) -> Any:
    from polytask.data.sources import SourceSpec

    return SourceSpec(from_=str(folder / name / "train.parquet"), held_out=0.01, limit=limit, **SETS[name])


def texts_of(source: Any) -> list[str]:
    """Every text that the tokenizer is given for the source's rows."""
    from polytask.data.sources import read
    from polytask.tasks import check, get_task

    task = get_task(source.task)
    return [segment.text for row in read(source) for segment in task.segments(check(task, row))]


def prepare_speed(name: str, options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Tokens a second of both, in turn."""
    from polytask.data.prepare import prepare

    source = source_of(name, options.data_dir, options.limit)
    texts = texts_of(source)
    plain = tokenizer._tokenizer  # the library's own object, without anything of ours
    runs = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        tokens = sum(len(encoding.ids) for encoding in plain.encode_batch(texts, add_special_tokens=False))
        middle = time.perf_counter()
        with tempfile.TemporaryDirectory() as cache:
            prepare([source], tokenizer, cache=cache)
            end = time.perf_counter()
        runs.append({"alone": tokens / (middle - start), "prepare": tokens / (end - middle)})
    alone, ours = harness.median(runs, "alone"), harness.median(runs, "prepare")
    ratio = statistics.median(run["prepare"] / run["alone"] for run in runs)
    return {"texts": len(texts), "tokens": tokens, "alone": alone, "prepare": ours, "ratio": ratio}


def loader_speed(options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    """Tokens a second of a mixture of all sets, the share of positions that padding takes, and seconds to resume."""
    from polytask.data.loader import Loader
    from polytask.data.prepare import prepare

    sources = [source_of(name, options.data_dir, options.limit) for name in SETS]
    with tempfile.TemporaryDirectory() as cache:

        def made() -> Loader:
            return Loader(prepare(sources, tokenizer, cache=cache), batch_rows=16, context_length=256)

        loader = made()
        loader.batch(0)
        start, real, places = time.perf_counter(), 0, 0
        for step in range(1, 1 + options.batches):
            batch = loader.batch(step)
            places += batch.ids.numel()
            real += batch.tokens
        seconds = time.perf_counter() - start
        resumes = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            made().batch(LATE)
            resumes.append(time.perf_counter() - start)
    resume = statistics.median(resumes)
    return {"tokens_per_second": real / seconds, "padding": 1 - real / places, "resume": resume, "late": LATE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("POLYTASK_DATA", "."),
                        help=f"holds {', '.join(SETS)}, each with train.parquet; default $POLYTASK_DATA")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--limit", type=int, help="rows of each set")
    parser.add_argument("--quick", action="store_true", help="few rows, once: does the script work?")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.limit, options.repeats, options.batches = 200, 1, 5
    from polytask import runtime
    from polytask.tokenizers.text import TextTokenizer

    runtime.prepare()
    report = harness.Report("loading", options.out)
    learnt = (text for name in SETS for text in texts_of(source_of(name, options.data_dir, 2_000)))
    tokenizer = TextTokenizer.train(learnt, VOCABULARY)
    prepared = {name: prepare_speed(name, options, tokenizer) for name in SETS}
    report.say(f"preparation, {runtime.cores()} cores, vocabulary {tokenizer.vocab_size:,}, tokens/s:")
    rows = []
    for name, found in prepared.items():
        counts = [f"{found[kind]:,.0f}" for kind in ("texts", "tokens", "alone", "prepare")]
        rows.append([name, *counts, f"{found['ratio']:.2f}"])
    report.table(["set", "texts", "tokens", "encode_batch alone", "prepare", "ratio"], rows)
    loaded = loader_speed(options, tokenizer)
    training = harness.ask(str(Path(__file__).parent / "training.py"), [
        "--size", "tiny" if options.quick else "10m", "--precision", "bf16", "--contend", "polytask",
    ])["tokens_per_second"]  # fmt: skip
    ratio = loaded["tokens_per_second"] / training
    report.say(f"loader, one thread: {loaded['tokens_per_second']:,.0f} tokens/s, {loaded['padding']:.2%} padding; "
               f"training at 10 M in bf16: {training:,.0f}; ratio {ratio:.0f}")  # fmt: skip
    report.say(f"resume: {loaded['resume']:.2f} s to the first batch of step {loaded['late']:,}")
    report.save({"prepare": prepared, "loader": loaded, "training": training, "loader_ratio": ratio})


if __name__ == "__main__":
    main()
