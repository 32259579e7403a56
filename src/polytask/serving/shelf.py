"""The models that a server holds, by the names that clients know."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch.nn import Module

from polytask.errors import ConfigError, TooLong
from polytask.inference.room import weight_bytes
from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.pictures.matching import PictureMatcher
from polytask.pictures.painter import Painter
from polytask.serving.matcher_worker import MatcherWorker
from polytask.serving.metrics import Figures, ModelMeter
from polytask.serving.names import expect_name
from polytask.serving.picture_worker import PictureWorker
from polytask.serving.refusal import AGAIN, Refusal, unknown
from polytask.serving.settings import Settings
from polytask.serving.worker import Worker
from polytask.tasks.picture import Picture
from polytask.tasks.task import Asking, Field, Task
from polytask.tokenizers.text import TextTokenizer

Loaded = Model | PictureModel | PictureMatcher


@dataclass(kw_only=True)
class Shelved(ABC):
    """A model of any kind with its name, what runs it and when it was loaded (seconds since 1970)."""

    name: str
    model: Any
    worker: Worker | PictureWorker | MatcherWorker
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tasks(self) -> list[str]:
        """What it can be asked."""
        return self.model.able

    @abstractmethod
    def asking(self, task: str) -> Asking:
        """A task that it can be asked, with its fields."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What clients are told of it."""

    @property
    @abstractmethod
    def networks(self) -> list[Module]:
        """All that it holds."""

    @cached_property
    def weights(self) -> int:
        """Bytes of its networks."""
        return sum(map(weight_bytes, self.networks))

    def stats(self) -> dict[str, float]:
        """Figures of it at this moment."""
        return {"weight_bytes": self.weights}


@dataclass(kw_only=True)
class Served(Shelved):
    """A language model, which may read and draw pictures too."""

    model: Model
    worker: Worker

    def asking(self, task: str) -> Task:
        return self.model.task(task)

    @property
    def about(self) -> dict[str, Any]:
        pictures = self.model.tokenizer.pictures
        return {
            "max_model_len": self.model.engine.length, "parameters": self.model.info["parameters"],
            "pixels": pictures and pictures.size,
        }  # fmt: skip

    @property
    def networks(self) -> list[Module]:
        return [self.model.network]

    def stats(self) -> dict[str, float]:
        return {**super().stats(), **vars(self.model.engine.stats())}

    @property
    def talks(self) -> bool:
        """Whether it knows turns; a base model does not."""
        return self.model.tokenizer.template is not None or "<|assistant|>" in self.model.tokenizer.special

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return self.model.config.dim

    @cached_property
    def room(self) -> int | None:
        """Bytes of text that the model could ever read, None where that is not known. A tokenizer may shorten a text
        before it cuts it (blanks, marks that are joined), by less than the factor here."""
        return None if self.model.truncate else _room(self.model.tokenizer, self.model.config.context_length)

    def expect_short(self, *texts: str) -> None:
        """Raises TooLong for texts that could never fit; cutting them into tokens would take memory and time."""
        _expect_room(self.room, self.model.config.context_length, texts)


def _room(tokenizer: TextTokenizer, tokens: int) -> int | None:
    if tokenizer.piece(0) is None:
        return None
    return 4 * tokens * max(len(tokenizer.piece(i) or ()) for i in range(tokenizer.vocab_size))


def _expect_room(room: int | None, tokens: int, texts: Sequence[str]) -> None:
    if room is not None and (size := sum(map(len, texts))) > room:
        raise TooLong(f"The text has {size} characters, which no {tokens} tokens hold; shorten it.")


@dataclass(frozen=True)
class Pictured:
    """A task of a model that is none of language."""

    name: str
    fields: Mapping[str, Field]


_IMAGE = Field(Picture, help="the picture")
DIFFUSED = {
    "drawing": Pictured("drawing", {"caption": Field(help="what the picture is to show, or a label")}),
    "editing": Pictured(
        "editing",
        {
            "image": _IMAGE,
            "mask": Field(Picture, required=False, help="transparent where the picture is to be drawn anew"),
            "instruction": Field(help="what the whole is to show afterwards"),
        },
    ),
    "variations": Pictured(
        "variations",
        {
            "image": _IMAGE,
            "towards": Field(Picture, required=False, help="another picture, and those on the way to it are drawn"),
            "from": Field(required=False, help="with `to`: what a caption says now"),
            "to": Field(required=False, help="what it shall say; pictures turn to that"),
        },
    ),
}
INSTRUCTED = Pictured(
    "editing",
    {
        "image": _IMAGE,
        "mask": Field(Picture, required=False, help="transparent where it may be changed; everywhere without one"),
        "instruction": Field(help="what is to be changed"),
    },
)


MATCHED = Pictured(
    "classification",
    {
        "image": _IMAGE,
        "labels": Field(list[str], help="the possible labels, any texts"),
        "templates": Field(list[str], required=False, help="texts into which a label is put at {}"),
    },
)


@dataclass(kw_only=True)
class ServedPictures(Shelved):
    """A model that draws by diffusion."""

    model: PictureModel
    worker: PictureWorker

    @property
    def about(self) -> dict[str, Any]:
        return {
            "max_model_len": None if self.model.labels else self.model.text_length - 1,
            "parameters": self.model.info["parameters"], "pixels": self.model.side, "labels": self.model.labels,
            "steps": min(engine.model.config.steps for engine in self.model.engines),
        }  # fmt: skip

    def asking(self, task: str) -> Pictured:
        return INSTRUCTED if task == "editing" and self.model.config.changes else DIFFUSED[task]

    @property
    def networks(self) -> list[Module]:
        return _painting(self.model.painter)

    def stats(self) -> dict[str, float]:
        return {**self.worker.stats(), **super().stats()}


def _painting(painter: Painter) -> list[Module]:
    own = [each for each in (painter.network, painter.clip, painter.prior) if each is not None]
    return [*own, *(_painting(painter.base) if painter.base else [])]


@dataclass(kw_only=True)
class ServedMatcher(Shelved):
    """A CLIP, which makes vectors of texts and of pictures, and chooses the text that fits a picture best."""

    model: PictureMatcher
    worker: MatcherWorker

    @property
    def tasks(self) -> list[str]:
        return [MATCHED.name]

    def asking(self, task: str) -> Pictured:
        return MATCHED

    @property
    def about(self) -> dict[str, Any]:
        matcher = self.model.matcher
        return {
            "max_model_len": matcher.length, "parameters": self.model.info["parameters"], "pixels": matcher.side,
        }  # fmt: skip

    @property
    def networks(self) -> list[Module]:
        return [self.model.matcher.network]

    def stats(self) -> dict[str, float]:
        return {**self.worker.stats(), **super().stats()}

    @property
    def width(self) -> int:
        """Of its embeddings."""
        return self.model.matcher.network.config.embed

    @cached_property
    def room(self) -> int | None:
        """As a language model's."""
        return _room(self.model.matcher.tokenizer, self.model.matcher.length)

    def expect_short(self, *texts: str) -> None:
        """Raises TooLong for texts that could never fit."""
        _expect_room(self.room, self.model.matcher.length, texts)


class Shelf:
    """Models by name; where a request names none, the first one that can answer it is asked."""

    def __init__(self, models: Mapping[str, Loaded], settings: Settings, figures: Figures):
        if not models:
            raise ConfigError("serve: there is no model to serve; name a checkpoint folder.")
        for name in models:
            expect_name(name)
        self._shelved = {name: _shelved(name, model, settings, figures.meter(name)) for name, model in models.items()}

    def get(self, name: str | None) -> Shelved:
        """Raises Refusal (404) with the nearest name."""
        if name is None:
            return next(iter(self))
        if name not in self._shelved:
            raise unknown("model", name, self._shelved, "model")
        return self._shelved[name]

    def able(self, name: str | None, fits: Callable[[Shelved], bool], what: str) -> Shelved:
        """A model that fits. Raises Refusal where the one that is named does not, or none does."""
        others = [each for each in self if fits(each)]
        if not others:
            raise Refusal(501, f"No model of this server {what}; serve one that does.", param="model",
                          code="not_implemented", headers=AGAIN)  # fmt: skip
        found = others[0] if name is None else self.get(name)
        if not fits(found):
            raise Refusal(400, f"'{found.name}' is no model that {what}; ask '{others[0].name}'.", param="model",
                          code="unsupported_model")  # fmt: skip
        return found

    def held(self) -> dict[str, str]:
        """What each model holds in memory, in words."""
        return {each.name: _held(each.stats()) for each in self}

    def __iter__(self) -> Iterator[Shelved]:
        return iter(self._shelved.values())

    def close(self) -> None:
        for each in self:
            each.worker.close()


def _held(stats: Mapping[str, float]) -> str:
    weights = f"{stats['weight_bytes'] / 2**20:,.1f} MiB of weights"
    if "cache_bytes" not in stats:
        return weights
    cache = f"{stats['cache_bytes'] / 2**20:,.1f} MiB of key/value cache"
    return f"{weights}, {cache} for {stats['cache_tokens']:,} tokens"


def _shelved(name: str, model: Loaded, settings: Settings, meter: ModelMeter) -> Shelved:
    limits = settings.queue, settings.seconds, meter
    if isinstance(model, PictureModel):
        return ServedPictures(name=name, model=model, worker=PictureWorker(model, *limits))
    if isinstance(model, PictureMatcher):
        return ServedMatcher(name=name, model=model, worker=MatcherWorker(settings.queue, settings.seconds))
    return Served(name=name, model=model, worker=Worker(model.engine, *limits))
