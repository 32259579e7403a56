"""How fast pictures are drawn: tokens of pictures through the engine beside a plain loop, and diffusion end to end.

    python benchmarks/drawing.py runs/dalle-blocks runs/imagen-blocks

Of a model that draws token by token: each number of pictures, likeliest tokens, by the engine and by two loops that a
reader of the network would write, which run all rows through it, one without keeping keys and values and one over a
cache of its own; all must draw the same tokens, but for near ties. Medians of turns. Of one that draws by diffusion:
pictures a second, from captions to PNGs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import harness
import torch

import polytask as pt
from polytask.data.sources import SourceSpec, read
from polytask.inference import drawing
from polytask.inference.runner import places_in_pictures
from polytask.inference.sampling import Sampling
from polytask.nn.cache import Context
from polytask.nn.packets import BLOCK, Row
from polytask.pictures import PictureModel
from polytask.tasks import get_task, prompt
from polytask.tasks.picture import png
from polytask.tokenizers.encode import prompt_ids


def captions(count: int) -> list[str]:
    return [row["caption"] for row in read(SourceSpec("drawing", "blocksworld", limit=count, split="test"))]


@torch.inference_mode()
def loop(model: Any, prompts: list[list[int]], cached: bool) -> list[list[int]]:
    """Prompts are as long as each other, or their pictures begin in different places: groups of one length."""
    vocabulary, network, drawn = model.tokenizer.pictures.vocabulary, model.network, {}
    for length in {len(ids) for ids in prompts}:
        mine = [i for i, ids in enumerate(prompts) if len(ids) == length]
        ids, each = torch.tensor([prompts[i] for i in mine]), -(-(length + vocabulary.tokens) // BLOCK)
        cache = network.new_cache(len(mine) * each) if cached else None
        for _ in range(vocabulary.tokens):
            hidden = _whole(network, ids) if cache is None else _last(network, cache, ids, length, each)
            logits = network.logits(hidden)
            chosen = logits[:, vocabulary.first : vocabulary.size].argmax(-1, keepdim=True) + vocabulary.first
            ids = torch.cat([ids, chosen], dim=1)
        drawn |= zip(mine, ids[:, length:].tolist())
    return [drawn[i] for i in range(len(prompts))]


def _whole(network: Any, ids: torch.Tensor) -> torch.Tensor:
    return network(ids, Context(torch.arange(ids.shape[1]).expand_as(ids)))[:, -1]


def _last(network: Any, cache: Any, ids: torch.Tensor, length: int, each: int) -> torch.Tensor:
    """The same of what is not in the cache yet: the prompt, or one token of each row."""
    rows, end = ids.shape
    start = 0 if end == length else end - 1
    view = cache.view([Row(range(i * each, (i + 1) * each), start, end - start) for i in range(rows)])
    context = Context(torch.arange(start, end).repeat(rows)[None], cache=view)
    context.grid = places_in_pictures(network, [(row, start, end - start) for row in ids.tolist()])
    return network(ids[:, start:].reshape(1, -1), context)[0].unflatten(0, (rows, -1))[:, -1]


def engine(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    asked = [drawing.request(ids, model.tokenizer.pictures, Sampling()) for ids in prompts]
    return [one.ids for (one,) in model.engine.run(asked)]


WAYS: dict[str, Callable[[Any, list[list[int]]], list[list[int]]]] = {
    "engine": engine,
    "loop": lambda model, prompts: loop(model, prompts, False),
    "loop with a cache": lambda model, prompts: loop(model, prompts, True),
}


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = action()
    return time.perf_counter() - start, found


def by_tokens(report: harness.Report, model: Any, counts: list[int], turns: int) -> dict[str, Any]:
    task, tokens, rows, found = get_task("drawing"), model.tokenizer.pictures.vocabulary.tokens, [], {}
    for count in counts:
        prompts = [prompt_ids(prompt(task, {"caption": one}), model.tokenizer) for one in captions(count)]
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(turns):
            for name, draw in WAYS.items():
                took, found[name] = seconds(lambda draw=draw, prompts=prompts: draw(model, prompts))
                times[name].append(took)
        same = sum(len(set(map(tuple, drawn))) == 1 for drawn in zip(*found.values())) / count
        rates = {name: count * tokens / median(each) for name, each in times.items()}
        rows.append({"pictures": count, **rates, "same": same})
    loops = list(WAYS)[1:]
    head = ["pictures at once", "engine, tokens/s", *(f"{name} (ratio)" for name in loops), "pictures/s", "same"]
    report.table(head, [
        [str(row["pictures"]), f"{row['engine']:.0f}", *(f"{row[n]:.0f} ({row['engine'] / row[n]:.2f})" for n in loops),
         f"{row['engine'] / tokens:.2f}", f"{row['same']:.0%}"]
        for row in rows
    ])  # fmt: skip
    return {"token by token": rows}


def by_diffusion(report: harness.Report, model: PictureModel, counts: list[int], turns: int, steps: int) -> Any:
    rows = []
    for count in counts:
        asked = captions(count)

        def draw(asked: list[str] = asked) -> None:
            for each in model.draw_many(asked, steps=steps, sampler="dpm_solver", guidance=2.0):
                png(each[0])

        rows.append({"pictures": count, "pictures a second": count / median(seconds(draw)[0] for _ in range(turns))})
    report.say(f"{steps} steps of dpm_solver with guidance, two passes a step")
    table = [[str(row["pictures"]), f"{row['pictures a second']:.2f}"] for row in rows]
    report.table(["pictures at once", "pictures/s, end to end"], table)
    return {"diffusion": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of diffusion")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    words = parser.parse_args()
    report, found = harness.Report("drawing", words.out), {}
    for path in words.models:
        model = pt.load(path)
        report.say(f"\n{model.info.get('name', path.name)}, {model.info['parameters']:,} parameters")
        if isinstance(model, PictureModel):
            figures = by_diffusion(report, model, words.counts, words.turns, words.steps)
        else:
            figures = by_tokens(report, model, words.counts, words.turns)
        found[path.name] = figures
    report.save(found)


if __name__ == "__main__":
    main()
