"""polytask scaling: a law fitted to small runs predicts a larger one before it is made, and is held to it after."""

import csv
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from polytask.errors import ConfigError, DataError, Notice
from polytask.evaluation.scaling import Fit, Law, SmallRun, fit
from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.recipe import Recipe, load_recipe
from polytask.run.assembly import config_of, read_recipe, tokenizer_of
from polytask.run.plan import network_of, tokens_of
from polytask.tokenizers.text import TextTokenizer
from polytask.training.logs import read_log

FAR = 20  # times the compute of the largest small run, from which on a prediction says something
HOLDS = 0.02  # relative error up to which a prediction holds
SAME = 0.05  # relative difference of compute up to which a run is the one that was predicted
METRIC = "validation_loss"


@dataclass(frozen=True)
class Prediction:
    """What a file of a prediction says. made: UTC in ISO 8601; times: the compute of the largest small run; interval:
    95%, None where the fit left no residuals."""

    made: str
    metric: str
    law: Law
    runs: tuple[SmallRun, ...]
    name: str
    flops: float
    times: float
    loss: float
    interval: tuple[float, float] | None
    parameters: float | None = None
    tokens: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the law with the names that its form has for its coefficients."""
        plain = dataclasses.asdict(self)
        return plain | {"law": {"form": self.law.form} | self.law.named()}

    @classmethod
    def read(cls, path: Path) -> "Prediction":
        """Raises DataError where there is no such file, or it holds something else."""
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            said["law"] = Law.of(said["law"])
            said["runs"] = tuple(SmallRun(**run) for run in said["runs"])
            said["interval"] = said["interval"] and tuple(said["interval"])
            said |= {name: float(said[name]) for name in ("flops", "times", "loss")}
            datetime.fromisoformat(said["made"])
            return cls(**said)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; name a file that `polytask scaling fit` wrote.") from None
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path} is no prediction; name a file that `polytask scaling fit` wrote.") from None


@dataclass(frozen=True)
class Outcome:
    """A prediction and the run that was made after it; `before`: whether it was written before the run began."""

    prediction: Prediction
    run: SmallRun
    before: bool

    @property
    def error(self) -> float:
        """Relative, of what came out: above 0 where the prediction was too high."""
        return self.prediction.loss / self.run.loss - 1

    @property
    def holds(self) -> bool:
        return self.before and abs(self.error) <= HOLDS


def fit_runs(paths: Sequence[str], *, metric: str = METRIC, form: str = "auto") -> Fit:
    """The law of folders of runs, of folders that hold runs, and of CSV and JSONL files of compute and loss.

    Raises an Error that names the run and what it lacks.
    """
    return fit([run for path in paths for run in _runs_at(Path(path), metric)], form)


def predict(
    found: Fit, target: str, out: Path, changes: Sequence[str] = (), *, data_dir: Path | None = None,
    metric: str = METRIC,
) -> Prediction:  # fmt: skip
    """Writes to `out` what loss a recipe, or a number of FLOPs, will come to, and draws it beside.

    A file of that name is never written over, since a prediction is worth only what it was before the run.
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: a prediction is a JSON file; name one that ends with .json.")
    large = _target(found.law, target, changes, data_dir)
    times = large["flops"] / max(run.flops for run in found.runs)
    if times < FAR:
        warnings.warn(
            f"The prediction is for {times:.3g} times the compute of the largest small run; from {FAR} times on it "
            "says more than that neighbours are alike.",
            Notice,
            stacklevel=2,
        )
    values = [large[name] for name in found.law.quantities]
    made = Prediction(
        datetime.now(UTC).isoformat(timespec="seconds"), metric, found.law, found.runs, times=times,
        loss=found.law.loss(*values), interval=found.interval(*values), **large,
    )  # fmt: skip
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(json.dumps(made.to_dict(), indent=1) + "\n")
    except FileExistsError:
        raise ConfigError(f"{out} is there, and a prediction is not written over; choose another --out.") from None
    draw(made, out.with_suffix(".png"))
    return made


def check(path: Path, folder: Path) -> Outcome:
    """Holds a prediction to a run that has ended, and draws both beside the prediction.

    Raises ConfigError where the run has another compute than was predicted.
    """
    prediction = Prediction.read(path)
    run = run_of(folder, prediction.metric)
    if abs(run.flops / prediction.flops - 1) > SAME:
        raise ConfigError(
            f"{folder} took {run.flops:.3g} FLOPs and the prediction is for {prediction.flops:.3g}; name the run that "
            "was predicted."
        )
    began = (folder / "recipe.yaml").stat().st_mtime  # written when the run began, and not when it goes on
    outcome = Outcome(prediction, run, datetime.fromisoformat(prediction.made).timestamp() <= began)
    draw(prediction, path.with_suffix(".png"), outcome)
    return outcome


def run_of(folder: Path, metric: str = METRIC) -> SmallRun:
    """What a run took and came to. Raises DataError where it lacks its recipe, its log, its end or the metric there."""
    if not (folder / "recipe.yaml").is_file():
        raise DataError(f"{folder} is no folder of a run: it has no recipe.yaml. Name one that `polytask train` wrote.")
    recipe, log = load_recipe(str(folder / "recipe.yaml")), read_log(folder / "log.jsonl")
    if not log:
        raise DataError(f"{folder} has no log.jsonl with losses; leave it out, or train it again.")
    reached = max(line.get("step", 0) for line in log)
    if reached < recipe.steps:
        raise DataError(
            f"{folder} stopped at step {reached:,} of {recipe.steps:,}; go on with it (--resume), or leave it out."
        )
    last: dict[str, Any] = {}
    for line in log:
        if line.get("step") == recipe.steps:
            last |= line | line.get("evaluation", {})
    if not isinstance(last.get(metric), int | float):
        raise DataError(
            f"{folder}: its log has no {metric} of the last step; set evaluation.every so that it divides the steps, "
            f"or name another --metric: {', '.join(name for name in last if 'loss' in name) or 'there is none'}."
        )
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder} has no tokenizer.json, which its compute depends on; leave it out.")
    config = config_of(recipe, TextTokenizer.load(folder))
    return SmallRun(folder.name, loss=last[metric], **_scale(recipe, config.decoder))


def _scale(recipe: Recipe, config: TransformerConfig) -> dict[str, float]:
    tokens = tokens_of(recipe, config)
    flops = cost.flops_per_token(config, recipe.training.context_length) * tokens
    return {"flops": flops, "parameters": cost.matmul_parameters(config), "tokens": tokens}


def _target(law: Law, target: str, changes: Sequence[str], data_dir: Path | None) -> dict[str, Any]:
    """The name and scale of the run to predict."""
    try:
        flops = float(target)
    except ValueError:
        recipe = read_recipe(target, changes, data_dir)
        return {"name": recipe.name} | _scale(recipe, _network(recipe))
    if not 0 < flops < float("inf"):
        raise ConfigError(f"--predict {target}: a number of FLOPs is above 0, such as 1e15.")
    split = dict(zip(law.quantities, law.best_split(flops))) if len(law.quantities) > 1 else {}
    return {"name": f"{flops:.3g} FLOPs", "flops": flops} | split


def _network(recipe: Recipe) -> TransformerConfig:
    """What reads and writes, as it will be trained; where the data is not there yet, with as large a vocabulary as the
    recipe allows."""
    try:
        return config_of(recipe, tokenizer_of(recipe)).decoder
    except DataError:
        return network_of(recipe)[0].decoder


def _runs_at(path: Path, metric: str) -> Iterator[SmallRun]:
    if path.suffix in (".csv", ".jsonl") and path.is_file():
        yield from _rows(path)
    elif (path / "recipe.yaml").is_file() or not path.is_dir():
        yield run_of(path, metric)
    else:
        folders = sorted(file.parent for file in path.glob("*/recipe.yaml"))
        if not folders:
            raise DataError(f"{path} holds no runs; name folders that `polytask train` wrote, or a CSV or JSONL file.")
        for folder in folders:
            yield run_of(folder, metric)


def _rows(path: Path) -> Iterator[SmallRun]:
    """Of columns loss and flops (or compute), perhaps name, parameters and tokens; compute is 6 N D where it lacks."""
    for number, row in enumerate(_plain(path), 1):
        where = f"{path} row {number}"
        values = {name: _number(row, name, where) for name in ("loss", "flops", "compute", "parameters", "tokens")}
        parameters, tokens = values["parameters"], values["tokens"]
        flops = values["flops"] or values["compute"]
        if flops is None and parameters and tokens:
            flops = 6 * parameters * tokens
        if flops is None or values["loss"] is None:
            raise DataError(f"{where}: a run needs the columns flops (or parameters and tokens) and loss.")
        yield SmallRun(str(row.get("name") or where), flops, values["loss"], parameters, tokens)


def _plain(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8; write it as CSV or JSONL.") from None
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        raise DataError(f"{path} is not JSONL; write one JSON object a line.") from None
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is not JSONL of objects; write one JSON object a line.")
    return rows


def _number(row: Mapping[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name} is '{value}', which is no number.") from None


def draw(made: Prediction, picture: Path, outcome: Outcome | None = None) -> None:
    """Small runs, the law, its prediction and, once there is one, what came out, over compute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    unit = ", nats a token" if made.metric.endswith("loss") else ""
    axes = figure.add_subplot(xlabel="compute, FLOPs", ylabel=made.metric.replace("_", " ") + unit)
    flops = [run.flops for run in made.runs]
    if made.law.quantities == ("flops",):
        along = np.geomspace(min(flops), max(made.flops, *flops), 200)
        axes.plot(along, [made.law.loss(x) for x in along], color="tab:gray", label=made.law.form)
    else:
        fitted = [made.law.loss(*(getattr(run, name) for name in made.law.quantities)) for run in made.runs]
        axes.plot(flops, fitted, "x", color="tab:gray", label=made.law.form)
    axes.plot(flops, [run.loss for run in made.runs], "o", color="tab:blue", label="small runs")
    low, high = made.interval or (made.loss, made.loss)
    bars = [[max(0.0, made.loss - low)], [max(0.0, high - made.loss)]]
    label = f"predicted {made.loss:.4f}, {made.times:.3g} times the compute"
    axes.errorbar([made.flops], [made.loss], yerr=bars, fmt="D", color="tab:orange", capsize=4, label=label)
    if outcome is not None:
        label = f"came out {outcome.run.loss:.4f}, the prediction off by {outcome.error:+.2%}"
        axes.plot([outcome.run.flops], [outcome.run.loss], "*", markersize=12, color="tab:green", label=label)
    axes.set_xscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(picture, dpi=120)
