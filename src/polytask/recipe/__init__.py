"""A recipe: the one file a user writes, from YAML to a validated, frozen value.

    recipe = load_recipe("demo", ["training.steps=100"])     # a shipped recipe by name, or a path
    recipe.sources()                                         # what to read
    recipe.network(vocab_size)                               # what to build
    recipe.training_config(seed=...)                         # how to train it

Keys and their values stand in `polytask.recipe.schema`.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from polytask.data.clean import Clean
from polytask.data.mixture import Mixture
from polytask.data.sources import SourceSpec, check_options
from polytask.errors import ConfigError, Error
from polytask.recipe.document import Document, dump, read_document
from polytask.recipe.pictures import check_drawing, check_network
from polytask.recipe.schema import (
    Data,
    Evaluation,
    EvaluationTask,
    Network,
    Parallel,
    Section,
    Source,
    Tokenizer,
    Training,
)  # fmt: skip
from polytask.recipe.sentences import sentences
from polytask.registry import nearest
from polytask.tasks import get_task
from polytask.tokenizers.dropout import SEGMENTATIONS, Dropout

if TYPE_CHECKING:
    from polytask.models.networks import Language
    from polytask.tokenizers.image import JointVocabulary
    from polytask.training.config import TrainingConfig

RECIPES = Path(__file__).parents[1] / "recipes"
_NEAR = 0.8  # Jaccard similarity above which Lee et al. 2021 call two documents near duplicates


class Recipe(Section):
    """All of a run but the machine it runs on."""

    name: str = ""
    seed: int = Field(default=0, ge=0)
    model: Network
    tokenizer: Tokenizer = Tokenizer()
    data: Data
    training: Training
    evaluation: Evaluation = Evaluation()
    parallel: Parallel = Parallel()
    drawing: dict[str, Any] = {}  # of `inference.dials.Drawing`: how what is trained draws, unless asked otherwise

    def sources(self) -> tuple[SourceSpec, ...]:
        """What to train on, each under a name of its own."""
        clean = self._clean()
        specs: list[SourceSpec] = []
        for source in self.data.sources:
            given = source.model_dump()
            spec = SourceSpec(**given, clean=clean, base=self.data.folder)
            taken = {other.name for other in specs}
            names = [spec.name, *(f"{spec.name}-{number}" for number in range(2, len(specs) + 3))]
            specs.append(dataclasses.replace(spec, name=next(name for name in names if name not in taken)))
        return tuple(specs)

    def evaluated(self) -> tuple[tuple[EvaluationTask, SourceSpec], ...]:
        """The tasks to score while training, with where their examples are."""
        same = ("task", "from_", "name", "columns", "fields", "where", "split", "options", "limit")
        return tuple(
            (task, SourceSpec(**{key: getattr(task, key) for key in same}, base=self.data.folder))
            for task in self.evaluation.tasks
        )

    def mixture(self) -> Mixture:
        """How the sources are mixed; by their weights unless the recipe says otherwise or none states one."""
        mixing, specs = self.data.mixture, self.sources()
        if mixing.by == "stages":
            stages = tuple((stage.until, stage.weights) for stage in mixing.stages)
            return Mixture(stages=stages)
        if mixing.by == "size" or all(spec.weight is None for spec in specs):
            return Mixture(temperature=mixing.temperature)
        return Mixture({spec.name: 1.0 if spec.weight is None else spec.weight for spec in specs})

    def network(self, vocab_size: int, pictures: "JointVocabulary | None" = None) -> "Language":
        """The network of the recipe's system for so many ids, those of pictures included. Raises ConfigError naming the
        key."""
        from polytask.models.catalogue import build_config
        from polytask.models.networks import Language, with_decoder
        from polytask.nn.position import Grid

        if self.model.system is None:
            raise ConfigError(f"model: it comes from {self.model.from_}; read its configuration there.")
        wish = self.tokenizer.pictures
        if (self.model.system == "dalle") != (wish is not None and wish.text_length is not None):
            raise ConfigError(
                "model: dalle and tokenizer.pictures.text_length go together, for a text, padded, with its picture "
                "behind; set both or neither."
            )
        longest = max(self.training.context_length, self.training.encoder_length or 0)
        sizes: dict[str, Any] = {"vocab_size": vocab_size, "context_length": longest}
        if pictures is not None and pictures.padding:
            sizes = {"text": pictures.text, "text_length": pictures.special, "codes": pictures.codes}
            sizes |= {"height": pictures.height, "width": pictures.width}
        sizes |= self.model.changes
        if self.training.dropout is not None:
            sizes["dropout"] = self.training.dropout
        config = build_config(self.model.system, self.model.size, **sizes)
        if not isinstance(config, Language):
            raise ConfigError(f"model: {self.model.system} draws pictures; this recipe's data is of texts.")
        if self.looks and wish is not None:
            raise ConfigError(
                f"tokenizer.pictures: {self.model.system} looks at pictures by itself; leave the key out."
            )
        if pictures is not None and not pictures.padding:
            config = with_decoder(config, grid=Grid(pictures.first, pictures.height, pictures.width))
        if (held := config.decoder.context_length) < longest:
            raise ConfigError(
                f"model.context_length={held} is shorter than training's rows of {longest} tokens; "
                "leave it out to have as many."
            )
        return self.reading(config)

    @property
    def looks(self) -> bool:
        """Whether its network looks at pictures by itself."""
        from polytask.models.catalogue import looks

        return self.model.system is not None and looks(self.model.system)

    @property
    def dropout(self) -> Dropout | None:
        """Of the merges of its tokenizer, in what is learnt."""
        rate, times = self.tokenizer.dropout, self.tokenizer.segmentations
        return Dropout(rate, times or SEGMENTATIONS, self.seed) if rate else None

    @property
    def draws(self) -> bool:
        """Whether it trains a network for pictures. Raises ConfigError for an unknown system."""
        from polytask.models.catalogue import draws

        return self.model.system is not None and draws(self.model.system)

    def picture_network(self, **known: Any) -> Any:
        """The network for pictures of the recipe's system. `known`: sizes that follow from the tokenizer, the data or
        the frozen networks, of which it takes those that it has. Raises ConfigError naming the key.
        """
        from polytask.models.catalogue import build_config, dials_of

        assert self.model.system is not None
        has = dials_of(self.model.system)
        sizes = {name: value for name, value in known.items() if name in has}
        if self.training.dropout is not None and "dropout" in has:
            sizes["dropout"] = self.training.dropout
        return build_config(self.model.system, None, **(sizes | self.model.changes))

    @property
    def batch_rows(self) -> int:
        """Rows that a step sees, over all micro-batches and processes."""
        training = self.training
        return training.batch_rows or max(1, (training.batch_tokens or 0) // training.context_length)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        tokens = self.batch_rows * self.training.context_length
        return self.training.steps or max(1, -(-(self.training.tokens or 0) // tokens))

    def objective_of(self, config: "Language") -> str:
        """The run's objective: as the recipe says, else the one that the network is made for."""
        decoder = config.decoder
        made_for = "seq2seq" if decoder.encoder_layers else "prefix" if decoder.prefix else "next_token"
        return self.training.objective or made_for

    def reading(self, config: "Language") -> "Language":
        """The configuration of a network that later reads its prompts as in this run, from both sides or from one."""
        from polytask.models.networks import with_decoder

        chosen = {source.objective or self.objective_of(config) for source in self.data.sources}
        if {"prefix", "next_token"} <= chosen:
            raise ConfigError(
                "Some sources have the objective prefix and others next_token, but a model reads its prompts one way: "
                "set training.objective, or the same `objective` in all of data.sources."
            )
        return with_decoder(config, prefix="prefix" in chosen)

    def training_config(self, precision: str | None = None) -> "TrainingConfig":
        """For the trainer. `precision` replaces "auto", which only the machine can decide. Raises ConfigError."""
        from polytask.training.config import FIELDS, TrainingConfig

        evaluation, best = self.evaluation, self.evaluation.keep_best
        given = {key: value for key, value in self.training.model_dump().items() if key in FIELDS}
        derived = {
            "steps": self.steps,
            "seed": self.seed,
            "warmup": self._part(self.training.warmup),
            "decay": self._part(self.training.decay),
            "betas": tuple(self.training.betas),
            "evaluate_every": evaluation.every,
            "patience": evaluation.patience,
            "keep_best": best.metric if best else None,
            "best": best.best if best else "lowest",
        }
        if self.training.precision == "auto":
            derived["precision"] = precision or "float32"
        return TrainingConfig(**(given | derived))

    def dump(self) -> str:
        """The recipe with everything resolved, as YAML that `load_recipe` reads back to an equal one."""
        return dump(_said(self))

    def _clean(self) -> Clean | None:
        clean = self.data.clean
        if clean is None:
            return None
        near = _NEAR if clean.near is True else clean.near or None
        return Clean(clean.exact, near, tuple(clean.decontaminate), clean.ngram, tuple(clean.columns))

    def _part(self, value: float) -> int:
        """Steps, from a number of them or a share of the run below 1."""
        return round(value * self.steps) if value < 1 else int(value)


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = (), data_dir: str | Path | None = None) -> Recipe:
    """A recipe by path, or one that polytask comes with by name; `overrides` are "training.lr=1e-3" and the like.

    data_dir: where relative paths of data start, in place of `data.folder`.
    Raises ConfigError naming file, line and key, with the nearest name where one is unknown.
    """
    path = _find(path_or_name)
    document = read_document(path, overrides)
    data = document.data
    data.setdefault("name", path.stem)
    if isinstance(data.get("data"), dict):
        if data_dir is not None:
            data["data"]["folder"] = str(Path(data_dir).expanduser().resolve())
        elif path.parent.resolve() != RECIPES.resolve():
            _start_paths(data["data"], path)
    _start_tasks(data, path)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError(sentences(Recipe, document, error)) from None
    _check(recipe, document)
    return recipe


def names() -> list[str]:
    """The recipes that polytask comes with."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    shipped = RECIPES / f"{path_or_name}.yaml"
    if path.name == str(path_or_name) and shipped.is_file():
        return shipped
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the recipe inside of it.")
    raise ConfigError(f"There is no recipe '{path_or_name}', neither a file nor a name: {nearest(path.stem, names())}")


def _start_paths(data: dict[str, Any], recipe: Path) -> None:
    """Relative paths of a user's recipe start where the recipe lies, from wherever it is run."""
    here = recipe.resolve().parent
    folder = data.get("folder")
    if folder is None or isinstance(folder, str):
        data["folder"] = str(here / Path(folder or ".").expanduser())


def _start_tasks(data: dict[str, Any], recipe: Path) -> None:
    """Tasks that are files of the user's own are named from where the recipe lies, too."""
    here = recipe.resolve().parent
    for section, key in (("data", "sources"), ("evaluation", "tasks")):
        held = data.get(section)
        listed = held.get(key) if isinstance(held, dict) else None
        for item in listed if isinstance(listed, list) else []:
            task = item.get("task") if isinstance(item, dict) else None
            if isinstance(task, str) and task.endswith((".yaml", ".yml")):
                item["task"] = str(here / Path(task).expanduser())


def _check(recipe: Recipe, document: Document) -> None:
    """What can be known to fail before any data is read: the network, the training, the names of sources and stages."""
    if recipe.model.system is not None:
        _locate(document, ("model",), lambda: check_network(recipe))
    _locate(document, ("drawing",), lambda: check_drawing(recipe))
    _locate(document, ("training",), recipe.training_config)
    _locate(document, ("data", "clean"), recipe._clean)
    for index, source in enumerate(recipe.data.sources):
        _check_task(source, document, ("data", "sources", index))
    for index, spec in enumerate(recipe.sources()[: len(recipe.data.sources)]):
        _locate(document, ("data", "sources", index, "options"), lambda spec=spec: check_options(spec))
    for index, task in enumerate(recipe.evaluation.tasks):
        _check_task(task, document, ("evaluation", "tasks", index))
    known = [spec.name for spec in recipe.sources()]
    for index, stage in enumerate(recipe.data.mixture.stages):
        for name in stage.weights:
            if name not in known:
                where = document.where(("data", "mixture", "stages", index, "weights", name))
                raise ConfigError(f"{where}: a stage weighs source '{name}', not in the data: {nearest(name, known)}")


def _check_task(said: Source | EvaluationTask, document: Document, place: tuple[str | int, ...]) -> None:
    _locate(document, (*place, "task"), lambda: get_task(said.task))
    if said.task == "translation":
        for name in ("source_lang", "target_lang"):
            if name in said.fields:
                lang = said.fields[name]
                _locate(document, (*place, "fields", name), lambda lang=lang: get_task("translation", target_lang=lang))


def _locate(document: Document, section: tuple[str | int, ...], action: Any) -> None:
    """Adds file and line to an error that `action` raises about a key of the section."""
    try:
        action()
    except Error as error:
        text = str(error)
        keys = [path for path in document.lines | document.overridden if path[: len(section)] == section]
        # The key that is at fault is the first one that the sentence speaks of.
        at = {path: re.search(rf"\b{re.escape(str(path[-1]))}\b", text) for path in keys if len(path) > len(section)}
        named = {path: match.start() for path, match in at.items() if match}
        path = min(named, key=lambda path: named[path]) if named else section
        raise type(error)(f"{document.where(path)}: {text}") from error


def _said(value: Any) -> Any:
    """Plain data without what is empty by default, which says nothing and would bury the rest."""
    if isinstance(value, BaseModel):
        plain = {}
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if inner not in (None, {}, [], "") or inner != field.get_default(call_default_factory=True):
                plain[field.alias or name] = _said(inner)
        return plain | (value.model_extra or {})
    return [_said(item) for item in value] if isinstance(value, list) else value


__all__ = ["RECIPES", "Recipe", "load_recipe", "names"]
