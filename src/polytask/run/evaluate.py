"""polytask eval: a checkpoint on a file of a task; and the tasks that are scored while a recipe trains."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.data.places import judging_split
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError, SandboxError
from polytask.evaluation.evaluate import evaluate as evaluate_task
from polytask.evaluation.report import Report
from polytask.inference.sampling import Sampling
from polytask.interop import networks
from polytask.interop.folder import fingerprint, locate
from polytask.registry import nearest
from polytask.run.source import source
from polytask.tasks import Task, Text, check, get_task
from polytask.tasks.builtin.code import Code

if TYPE_CHECKING:
    from polytask.models.transformer import Transformer
    from polytask.recipe import Recipe
    from polytask.tokenizers.text import TextTokenizer

POOL = 1000  # rows, beside those that are asked, from which shots are drawn
GENERATED = 500  # examples of a generated world, which has no end, where no limit says another number
BATCH = 64
JUDGED = {"drawing", "captioning", "editing"}  # of a generated world: by rule, scenes of each number of objects apart
RANKING = ("candidates", "clip")  # how one of many drawings is chosen


def evaluate(
    model_path: str, task_name: str, data: str, columns: Mapping[str, str], fields: Mapping[str, str], *,
    where: Mapping[str, str] | None = None, limit: int | None = None, shots: int = 0, unsafe: bool = False,
    split: str | None = None, sampling: Mapping[str, Any] | None = None, loading: Mapping[str, Any] | None = None,
    quiet: bool = False, drawing: Mapping[str, Any] | None = None, templates: Sequence[str] | None = None,
    judge: str | None = None,
) -> Report:  # fmt: skip
    """The report of a checkpoint on a user's file, or on a split of a folder, a data set of the hub or "blocksworld".

    sampling and loading: fields of Sampling and words of Model.load; greedy and as the model is, where not said.
    drawing: fields of `pictures.Drawing`, where the model draws by diffusion, and for any that draws candidates and
    clip, so that the best of so many is judged. templates: of `PictureMatcher`, where it is a CLIP. judge: see
    `_beside_real`. unsafe: programs run even without a sandbox. split: "test", else "validation", where there is one
    and none is named.
    Raises an Error that says what is wrong with the model, the file or its rows; the file is read first.
    """
    from polytask.run.ask import open_model

    folder = locate(model_path)
    chooses = "a CLIP" if networks.is_clip(folder) else "a classifier" if networks.is_classifier(folder) else ""
    if templates and chooses != "a CLIP":
        raise ConfigError(f"--template: {folder} holds no CLIP, of which alone templates are.")
    if judge is not None or networks.is_autoencoder(folder):
        spec = SourceSpec("drawing", data, dict(columns), where=dict(where or {}))
        return _beside_real(folder, task_name, shots, spec, limit, split, drawing, sampling, judge, loading, quiet)
    words: dict[str, Any] = {"split": split or judging_split(data), "where": dict(where or {})}
    if chooses:
        if task_name != "classification" or shots or drawing:
            raise ConfigError(f"{folder} holds {chooses}; it is judged by task classification, without shots or dials.")
        spec = source(model_path, task_name, data, columns, fields, limit=limit, **words)
        return _of_chooser(folder, spec, templates, loading, quiet)
    if networks.is_drawing(folder):
        said = {**(drawing or {}), **(sampling or {})}
        return _of_drawing(folder, task_name, data, columns, where, limit, split, said, loading or {}, quiet)
    generated = data in GENERATORS
    judged = generated and task_name in JUDGED and not shots
    _expect_dials(drawing or {}, folder, judged and task_name == "drawing")
    wanted = GENERATED if limit is None and generated else limit
    most = None if wanted is None else wanted + (POOL if shots else 0)
    dials = Sampling(**(sampling or {}))
    spec = source(model_path, task_name, data, columns, fields, limit=most, **words)
    if split and not generated and [file.name for file in spec.place().files] == [Path(data).name]:
        raise ConfigError(f"--split {split}: {data} is one file; a folder or a data set of the hub has splits.")
    if judged:
        return _of_pictures(folder, replace(spec, task=task_name), limit, split, sampling, drawing, loading, quiet)
    rows = list(read(spec))
    model = open_model(str(folder), **{"truncate": "right", **(loading or {})})
    task = spec.task if not isinstance(spec.task, str) else get_task(spec.task)
    task = _without_sandbox(task) if unsafe else task
    marks = {"data": spec.fingerprint(), "model": fingerprint(folder)}
    with _bar(quiet) as progress, _counting_cuts() as cuts:
        report = evaluate_task(
            model, task, rows, shots=shots, shot_examples=rows, limit=wanted, sampling=dials, batch=BATCH,
            progress=progress, fingerprints=marks,
        )  # fmt: skip
    if not generated:
        report.reproduce["files"] = [file.name for file in spec.place().files]
    if cuts:
        report.notes.append(_of_cuts(len(cuts)))
    return report


def _expect_dials(drawing: Mapping[str, Any], folder: Path, ruled: bool) -> None:
    """Raises ConfigError for dials that are not of a model that writes; ruled: it draws, and a rule judges that."""
    for name in drawing:
        if name not in RANKING:
            raise ConfigError(f"--{name}: {folder} holds a model that writes; it is of models that draw by diffusion.")
        if not ruled:
            raise ConfigError(f"--{name}: it is of drawings that a rule judges: --task drawing --data blocksworld.")


def _of_cuts(count: int) -> str:
    cut = f"{count:,} prompts were" if count > 1 else "1 prompt was"
    return f"{cut} longer than the model reads and lost the end of a text; the figures count them."


def _of_chooser(
    folder: Path, spec: SourceSpec, templates: Sequence[str] | None, loading: Mapping[str, Any] | None, quiet: bool
) -> Report:
    """Every row is classified among its own labels, else among those of the classifier, else, by a CLIP, among those
    of all rows."""
    from polytask.pictures.matching import PLAIN, PictureMatcher
    from polytask.run.ask import open_any

    rows, model = list(read(spec)), open_any(folder, **(loading or {}))
    if isinstance(model, PictureMatcher):
        model = replace(model, templates=templates or PLAIN)
        every = sorted({row["label"] for row in rows if row.get("label")})
    else:
        every = model.labels
    rows = [row if row.get("labels") else {**row, "labels": every} for row in rows]
    marks = {"data": spec.fingerprint(), "model": fingerprint(folder)}
    with _bar(quiet) as progress:
        report = evaluate_task(
            model, get_task("classification"), rows, batch=BATCH, progress=progress, fingerprints=marks
        )
    if isinstance(model, PictureMatcher):
        report.reproduce["templates"] = list(model.templates)
    if spec.from_ not in GENERATORS:
        report.reproduce["files"] = [file.name for file in spec.place().files]
    return report


def _of_drawing(
    folder: Path, task: str, data: str, columns: Mapping[str, str], where: Mapping[str, str] | None, limit: int | None,
    split: str | None, dials: Mapping[str, Any], loading: Mapping[str, Any], quiet: bool,
) -> Report:  # fmt: skip
    from polytask.run.ask import plain_loading
    from polytask.run.judge import evaluate_drawing

    if task not in ("drawing", "editing"):
        raise ConfigError(
            f"--task {task}: {folder} holds a model that draws; it is judged by task drawing or, where it changes "
            "pictures as an instruction says, editing."
        )
    ranking, dials = _apart(dials)
    spec = SourceSpec(task, data, dict(columns), where=dict(where or {}), split=split)
    with _bar(quiet) as progress:
        return evaluate_drawing(
            str(folder), spec, limit=limit, split=split, drawing=dials, ranking=ranking,
            loading=plain_loading(folder, loading), progress=progress,
        )  # fmt: skip


def _apart(dials: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that choose among drawings, and the others."""
    ranking = {name: value for name, value in dials.items() if name in RANKING}
    return ranking, {name: value for name, value in dials.items() if name not in RANKING}


def _beside_real(
    folder: Path, task: str, shots: int, spec: SourceSpec, limit: int | None, split: str | None,
    drawing: Mapping[str, Any] | None, sampling: Mapping[str, Any] | None, judge: str | None,
    loading: Mapping[str, Any] | None, quiet: bool,
) -> Report:  # fmt: skip
    """judge: the folder of a classifier or a CLIP by which drawings are compared with real pictures, see
    `run.likeness`, or "pixels", see `run.reconstruction`, by which an autoencoder is judged in any case."""
    from polytask.run.ask import plain_loading
    from polytask.run.likeness import evaluate_likeness
    from polytask.run.reconstruction import PIXELS, evaluate_pixels

    if networks.is_clip(folder) or networks.is_classifier(folder):
        raise ConfigError(f"--judge: {folder} holds a network that draws nothing; leave it out.")
    if task != "drawing" or shots:
        raise ConfigError(f"{folder} is judged beside real pictures by --task drawing, without shots.")
    if not networks.is_drawing(folder):
        _expect_dials(drawing or {}, folder, True)
        if judge == PIXELS:
            raise ConfigError(
                f"--judge {PIXELS}: {folder} is no network of pictures alone; name the autoencoder of its pictures."
            )
    if networks.is_autoencoder(folder) and judge not in (None, PIXELS):
        raise ConfigError(f"--judge: {folder} holds an autoencoder, which is judged by {PIXELS}; leave it out.")
    ranking, dials = _apart({**(drawing or {}), **(sampling or {})})
    loading = loading or {}
    with _bar(quiet) as progress:
        words: dict[str, Any] = {"limit": limit, "split": split, "progress": progress}
        if judge in (None, PIXELS):
            return evaluate_pixels(
                folder, spec, dials={**ranking, **dials}, loading=plain_loading(folder, loading), **words
            )
        return evaluate_likeness(folder, judge, spec, dials=dials, ranking=ranking, loading=loading, **words)


def _of_pictures(
    folder: Path, source: SourceSpec, limit: int | None, split: str | None, sampling: Mapping[str, Any] | None,
    ranking: Mapping[str, Any] | None, loading: Mapping[str, Any] | None, quiet: bool,
) -> Report:  # fmt: skip
    from polytask.run.ask import open_model
    from polytask.run.judge import evaluate_seen

    model = open_model(str(folder), **(loading or {}))
    with _bar(quiet) as progress:
        return evaluate_seen(
            model, folder, source, limit=limit, split=split, sampling=sampling or {}, ranking=ranking or {},
            progress=progress,
        )  # fmt: skip


def _without_sandbox(task: Task) -> Task:
    if not isinstance(task, Code):
        raise ConfigError(f"--unsafe is for task code, which runs programs; '{task.name}' runs none.")
    return replace(task, unsafe=True)


@dataclass(frozen=True)
class _Watched:
    """A task of a recipe's `evaluation`, with the rows that it is scored on."""

    name: str
    task: Task
    rows: list[dict[str, Any]]
    limit: int | None
    shots: int
    sampling: Sampling
    metric: str | None


def scoring(
    recipe: "Recipe", network: "Transformer", tokenizer: "TextTokenizer"
) -> Callable[[int], dict[str, float]] | None:
    """The trainer's function of a step that scores the recipe's tasks: {"NAME/metric": value}; None without tasks.

    Rows are read here, so that a mistake in them is told before training begins.
    """
    if not recipe.evaluation.tasks or not recipe.evaluation.every:
        return None
    watched = list(_watched(recipe, tokenizer))

    def score(step: int) -> dict[str, float]:
        from polytask.run.watched import model_in_training

        model = model_in_training(network, tokenizer)
        metrics: dict[str, float] = {}
        for one in list(watched):
            try:
                with _counting_cuts():
                    found = _score(model, one, recipe.seed)
            except SandboxError as error:  # a run of hours does not end for it
                watched.remove(one)
                print(f"Note: {one.name} is no longer scored. {error}", file=sys.stderr)
                continue
            metrics |= {f"{one.name}/{name}": value for name, value in found.items()}
        return metrics

    return score


def _watched(recipe: "Recipe", tokenizer: "TextTokenizer") -> Iterator[_Watched]:
    taken: set[str] = set()
    for said, spec in recipe.evaluated():
        numbers = (f"{spec.name}-{number}" for number in range(2, len(recipe.evaluation.tasks) + 2))
        name = next(name for name in (spec.name, *numbers) if name not in taken)
        taken.add(name)
        rows = _rows(spec, said.limit, said.shots)
        task = spec.task if not isinstance(spec.task, str) else get_task(spec.task)
        sampling = _sampling(name, said.sampling, task, rows, tokenizer)
        yield _Watched(name, task, rows, said.limit, said.shots, sampling, said.metric)


def _rows(spec: SourceSpec, limit: int | None, shots: int) -> list[dict[str, Any]]:
    most = None if limit is None else limit + (POOL if shots else 0)
    return list(islice(read(replace(spec, limit=most)), most))


def _sampling(
    name: str, said: Mapping[str, Any], task: Task, rows: Sequence[dict[str, Any]], tokenizer: "TextTokenizer"
) -> Sampling:
    """As the recipe says. A network that is new babbles to the limit, so it ends at twice the longest right answer."""
    known = [field.name for field in fields_of(Sampling)]
    for word in said:
        if word not in known:
            raise ConfigError(f"evaluation: sampling of '{name}' has no '{word}': {nearest(word, known)}")
    last = [segment for row in rows for segment in task.segments(check(task, row))[-1:] if segment.target]
    targets = [segment.text for segment in last if isinstance(segment, Text)]
    longest = max(map(len, tokenizer.encode_lists(targets)), default=128)
    return Sampling(**{"max_tokens": 2 * longest + 2, **said})


def _score(model: Any, one: _Watched, seed: int) -> dict[str, float]:
    report = evaluate_task(
        model, one.task, one.rows, shots=one.shots, shot_examples=one.rows, limit=one.limit, sampling=one.sampling,
        seed=seed, batch=BATCH, intervals=False,
    )  # fmt: skip
    if one.metric is None:
        return report.metrics
    if one.metric not in report.metrics:
        raise ConfigError(
            f"evaluation: '{one.name}' is to be scored by '{one.metric}', which task '{one.task.name}' does not "
            f"measure: {nearest(one.metric, report.metrics)}"
        )
    return {one.metric: report.metrics[one.metric]}


@contextmanager
def _counting_cuts() -> Iterator[list[str]]:
    """Collects what `Model` would warn of, a text at a time; other warnings pass."""
    from polytask.inference.shortening import TruncationWarning

    cuts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        yield cuts
        cuts += [str(one.message) for one in caught if issubclass(one.category, TruncationWarning)]
    for one in caught:
        if not issubclass(one.category, TruncationWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)
