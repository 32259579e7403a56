"""How a server runs: its limits, and the keys it asks for."""

import hashlib
import hmac
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from polytask.errors import ConfigError
from polytask.serving.names import is_host

VARIABLE = "POLYTASK_API_KEYS"


@dataclass(frozen=True)
class Settings:
    """keys: see `Keys`, None asks for none. body: bytes of a request at most. prompt: tokens of a prompt at most (by
    default what the model reads). queue: requests that may wait for each model, beside those that run. seconds: what a
    request may take in all. stall: seconds that a reader may take nothing. cors: origins whose pages may ask.
    log_prompts: whether the log holds what was asked. hosts: names that a server without keys answers to, beside
    localhost and addresses. header: seconds that a connection may be open without a whole header on it. connections:
    how many may be open.
    """

    keys: "Keys | None" = None
    body: float = 4 << 20
    prompt: int | None = None
    queue: int = 64
    seconds: float = 600.0
    stall: float = 60.0
    cors: tuple[str, ...] = ()
    log_prompts: bool = False
    hosts: tuple[str, ...] = ()
    header: float = 30.0
    connections: int = 512

    def __post_init__(self) -> None:
        for name in ("body", "prompt", "queue", "seconds", "stall", "header", "connections"):
            value, own = getattr(self, name), name in ("stall", "header")
            if value is not None and not 0 < value < math.inf:
                option = name if own else f"--max-{name}"
                raise ConfigError(f"serve: {option} is {value!r}; it must be above 0, and finite.")
        for name in self.hosts:
            if not is_host(name):
                raise ConfigError(
                    f"serve: '{name}' is no name of a host; write it without https:// and port, as in box.lan."
                )


class Keys:
    """Keys of the API. Their hashes alone are held, and all are compared each time, so that time tells nothing."""

    def __init__(self, keys: Iterable[str]):
        self._hashes = [_hash(key) for key in keys]

    def allow(self, key: str) -> bool:
        given = _hash(key)
        return sum(hmac.compare_digest(given, known) for known in self._hashes) > 0


def read_keys(file: str | Path | None = None) -> Keys | None:
    """The keys of a file, one a line, and of the environment variable POLYTASK_API_KEYS, with commas between them; None
    where neither is there. Raises ConfigError for a file without keys, and for keys that no header can carry."""
    found = [key.strip() for key in os.environ.get(VARIABLE, "").split(",")]
    if VARIABLE in os.environ and not any(found):
        raise ConfigError(f"{VARIABLE} is set but holds no key; put keys in it with commas between them, or unset it.")
    if file is not None:
        found += _lines(Path(file))
    keys = [key for key in found if key]
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"Key {number} of the API has characters that no header can carry; use letters and digits."
            )
    return Keys(keys) if keys else None


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{file}: the file of API keys cannot be read: {reason}.") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"{file}: there is no key in the file of API keys; write one a line.")
    return keys


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
