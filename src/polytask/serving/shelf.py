"""The models that a server holds, by the names that clients know."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from polytask.errors import ConfigError, TooLong
from polytask.model import Model
from polytask.serving.metrics import Figures
from polytask.serving.names import expect_name
from polytask.serving.refusal import unknown
from polytask.serving.settings import Settings
from polytask.serving.worker import Worker


@dataclass
class Served:
    """A model with its name, the thread that runs it and when it was loaded (seconds since 1970)."""

    name: str
    model: Model
    worker: Worker
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def room(self) -> int | None:
        """Bytes of text that the model could ever read, None where that is not known. A tokenizer may shorten a text
        before it cuts it (blanks, marks that are joined), by less than the factor here."""
        spelling, truncated = self.model.tokenizer.piece(0), self.model.truncate
        if spelling is None or truncated:
            return None
        longest = max(len(self.model.tokenizer.piece(i) or ()) for i in range(self.model.tokenizer.vocab_size))
        return 4 * longest * self.model.config.context_length

    def expect_short(self, *texts: str) -> None:
        """Raises TooLong for texts that could never fit; cutting them into tokens would take memory and time."""
        if self.room is not None and (size := sum(map(len, texts))) > self.room:
            raise TooLong(
                f"The text has {size} characters, which no {self.model.config.context_length} tokens hold; shorten it."
            )


class Shelf:
    """Models by name; the first one is asked where a request names none."""

    def __init__(self, models: Mapping[str, Model], settings: Settings, figures: Figures):
        if not models:
            raise ConfigError("serve: there is no model to serve; name a checkpoint folder.")
        for name in models:
            expect_name(name)
        self._served = {
            name: Served(name, model, Worker(model.engine, settings.queue, settings.seconds, figures.meter(name)))
            for name, model in models.items()
        }

    def get(self, name: str | None) -> Served:
        """Raises Refusal (404) with the nearest name."""
        if name is None:
            return next(iter(self))
        if name not in self._served:
            raise unknown("model", name, self._served, "model")
        return self._served[name]

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def close(self) -> None:
        for served in self:
            served.worker.close()
