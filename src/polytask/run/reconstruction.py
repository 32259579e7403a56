"""polytask eval --judge pixels: how near to held-out pictures a network comes that is shown a part of what they are.

An autoencoder is shown their codes, a network that enlarges their smaller copies; both say the whole picture, which is
compared pixel by pixel. A network that has learned its variance says in bits how well it expects them.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask import runtime
from polytask.data.places import judging_split
from polytask.data.sources import SourceSpec
from polytask.diffusion.degradation import resized
from polytask.errors import ConfigError, DataError
from polytask.evaluation.pictures import RANGE, WINDOW, bits_per_dimension, code_use, psnr, ssim
from polytask.evaluation.report import Report, versions
from polytask.inference.dials import Drawing
from polytask.interop import networks
from polytask.interop.folder import fingerprint
from polytask.models.dvae import Autoencoder
from polytask.pictures import PictureModel
from polytask.pictures.matching import pixels_of
from polytask.pictures.painter import Painter
from polytask.run.judge import TOGETHER, Progress, put
from polytask.run.likeness import pictures_of
from polytask.tasks.judging import judged
from polytask.tasks.picture import to_picture

PIXELS = "pixels"  # in place of the folder of a judge
ALIKE = 100.0  # decibels at most, as of equal pictures there would be no end
CODED, CODED_TOGETHER = 16, 4  # pictures whose bits are counted, as each takes all steps of the schedule

Row = dict[str, Any]
Figures = dict[str, list[float]]  # of each picture, by name


def evaluate_pixels(
    folder: Path, source: SourceSpec, *, limit: int | None, split: str | None, dials: Mapping[str, Any],
    loading: Mapping[str, Any], progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Of an autoencoder PSNR in decibels, SSIM and mean squared error (of pixels from 0 to 1) of what it makes of
    pictures' codes, which of those are used, and how many scenes are still read right where a row names a judge. Of a
    network that enlarges the same errors, and those of bicubic enlargement. Of one that has learned its variance bits
    per dimension, of CODED pictures at most.

    dials: fields of `Drawing`, where pictures are enlarged. Raises ConfigError for dials that have no effect and for
    networks of which nothing of this can be said.
    """
    start = time.monotonic()
    runtime.prepare()
    source = replace(source, split=split or judging_split(source.from_, source.base), limit=limit)
    told = _Told(progress)
    if networks.is_autoencoder(folder):
        report = _of_codes(folder, source, dials, loading, told)
    else:
        report = _of_diffusion(PictureModel.load(folder, **loading), source, dials, told)
    report.reproduce |= {"task": "drawing", "shots": 0, "data": source.from_, "limit": limit, "split": split}
    report.reproduce |= versions() | {"model": fingerprint(folder), "judge": PIXELS}
    report.seconds = time.monotonic() - start
    return report


class _Told:
    """Adds up how many pictures of how many are done."""

    def __init__(self, progress: Progress | None):
        self.progress, self.done, self.total = progress, 0, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, self.total)


def _of_codes(
    folder: Path, source: SourceSpec, dials: Mapping[str, Any], loading: Mapping[str, Any], told: _Told
) -> Report:
    _expect_dials(dials, (), folder)
    place = runtime.pick_device(loading.get("device", "auto"))
    precision = getattr(torch, runtime.pick_precision(loading.get("dtype", "float32"), place))
    network: Autoencoder = networks.load(folder, dtype=precision, device=place)
    rows, seen = pictures_of(source, "captioning", network.config.image), list[Tensor]()

    def of(rows: list[Row], pixels: Tensor, done: int) -> Figures:
        codes = network.codes(pixels.to(place, precision))
        seen.append(codes.cpu())
        made = network.pixels(codes).float().cpu()
        found = _errors(made, pixels)
        if all(row.get("judge") for row in rows):
            scores = judged("drawing", [[to_picture(one)] for one in made], rows, "image")
            found["right"] = [score["right"] for score in scores]
        return found

    told.total = len(rows)
    report = _report(rows, _each(rows, network.config.image, of, told))
    use = code_use(torch.cat(seen), network.codebook)
    report.metrics |= {"codes_used": use.used, "code_perplexity": use.perplexity}
    report.notes.append(f"Of {network.codebook:,} codes the more are used, the more pictures there are.")
    return report


def _of_diffusion(model: PictureModel, source: SourceSpec, dials: Mapping[str, Any], told: _Told) -> Report:
    config, painter = model.config, model.painter
    _expect(model, dials)
    wish = model.wish(dials) if config.enlarges else Drawing.of(dials)
    task, name = ("classification", "label") if model.labels else ("drawing", "caption")
    if not model.labels and painter.folder.tokenizer is None:
        task, name = "captioning", ""  # it reads nothing
    if not config.enlarges:
        source = replace(source, limit=min(source.limit or CODED, CODED))
    every = pictures_of(source, task, model.side)
    rows = [row for row in every if painter.fits(row.get(name, ""))]
    if not rows:
        raise DataError(
            f"{source.from_} has {len(every)} pictures, whose captions are all longer than the model reads."
        )
    large = rows if config.enlarges else []
    few = rows[:CODED] if config.unet.learned_variance else []
    told.total = len(large) + len(few)
    figures = _each(large, model.side, partial(_enlarged, painter, wish, name), told)
    figures |= _each(few, model.side, partial(_coded, painter, wish, name), told, CODED_TOGETHER)
    report = _report(rows, figures)
    if large:
        report.notes.append(f"Pictures of {config.low_pixels} pixels a side were enlarged to {model.side}.")
    if few:
        passes = f"each takes {config.steps:,} passes of the network"
        report.notes.append(f"Bits per dimension are of {len(few)} pictures, as {passes}.")
    if long := len(every) - len(rows):
        captions = "1 picture, whose caption is" if long == 1 else f"{long:,} pictures, whose captions are"
        report.notes.append(f"Left out: {captions} longer than the model reads.")
    report.reproduce = {"drawing": vars(wish) if config.enlarges else {"seed": wish.seed}}
    return report


def _enlarged(painter: Painter, wish: Drawing, name: str, rows: list[Row], pixels: Tensor, done: int) -> Figures:
    """name: of the field that the network reads."""
    low = resized(pixels, painter.config.low_pixels, "area")
    known, own = painter.condition_of([row.get(name, "") for row in rows], pixels), wish.seed + done
    made = torch.cat(painter.enlarge(low, known, replace(wish, seed=own))).float().cpu()
    plain = F.interpolate(low, size=painter.side, mode="bicubic").clamp(-1, 1)
    return _errors(made, pixels) | _errors(plain, pixels, ", bicubic")


def _coded(painter: Painter, wish: Drawing, name: str, rows: list[Row], pixels: Tensor, done: int) -> Figures:
    low = resized(pixels, painter.config.low_pixels, "area").to(painter.device) if painter.config.enlarges else None
    known = painter.condition_of([row.get(name, "") for row in rows], pixels)
    bits = bits_per_dimension(painter.network, pixels.to(painter.device), known, wish.seed + done, low)
    return {"bits_per_dimension": bits.tolist()}


def _expect(model: PictureModel, dials: Iterable[str]) -> None:
    """Raises ConfigError where there is nothing to measure, or a dial of what is not done."""
    config, path = model.config, model.folder.path
    if config.changes:
        raise ConfigError(f"--judge {PIXELS}: {path} changes pictures and draws none; leave it out (--task editing).")
    if not (config.enlarges or config.unet.learned_variance):
        raise ConfigError(
            f"--judge {PIXELS}: {path} enlarges no pictures and has not learned its variance, without which bits per "
            "dimension are not defined; name the folder of a classifier or of a CLIP."
        )
    known = Drawing.__dataclass_fields__.keys() - {"n"} if config.enlarges else {"seed"}
    _expect_dials(dials, known, path)


def _expect_dials(dials: Iterable[str], known: Collection[str], path: Path) -> None:
    for name in dials:
        if name not in known:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: it has no effect where {path} is judged by {PIXELS}; leave it out.")


def _each(
    rows: Sequence[Row], side: int, of: Callable[[list[Row], Tensor, int], Figures], told: _Told,
    together: int = TOGETHER,
) -> Figures:  # fmt: skip
    """What `of` says of so many rows, their pixels (B, 3, S, S) and the number of rows before them, one after the
    other."""
    found = Figures()
    for done in range(0, len(rows), together):
        part = list(rows[done : done + together])
        with torch.inference_mode():
            measured = of(part, pixels_of([row["image"] for row in part], side), done)
        for name, values in measured.items():
            found.setdefault(name, []).extend(values)
        told(len(part))
    return found


def _errors(pictures: Tensor, originals: Tensor, name: str = "") -> Figures:
    found = {
        "psnr": psnr(pictures, originals).clamp(max=ALIKE),
        "mse": ((pictures - originals) / RANGE).square().flatten(1).mean(1),
    }
    if originals.shape[-1] >= WINDOW:  # one by one, as it takes many times the room of a picture
        found["ssim"] = torch.cat([ssim(*one) for one in zip(pictures.split(1), originals.split(1), strict=True)])
    return {f"{figure}{name}": values.tolist() for figure, values in found.items()}


def _report(rows: Sequence[Row], figures: Figures) -> Report:
    report = Report("drawing", {}, {}, len(rows))
    for name, values in figures.items():
        put(report, name, values)
    return report
