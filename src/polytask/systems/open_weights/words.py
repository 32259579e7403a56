"""What the families' config.json have in common: activations, rotary positions, and keys that we must refuse."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.part import unlike_number
from polytask.nn.position import LinearScaling, Llama3Scaling, Rotary, Scaling, Yarn

Words = Mapping[str, Any]
T = TypeVar("T")


def parts(c: TransformerConfig) -> tuple[Attention, Any, Any, Any]:
    """(attention, feed-forward, norm, position) of the first layer, to be read into config.json's words."""
    return c.attention_of(0), c.feedforward_of(0), c.norm, c.position


_ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu",
    "relu": "relu", "relu2": "relu_squared", "silu": "silu", "swish": "silu",
    "quick_gelu": "quick_gelu",
}  # fmt: skip


def number(words: Words, key: str, *default: Any, whole: bool = False, zero: bool = False) -> Any:
    """A number above 0, or with `zero` at least 0; the first default where the key is not given.

    Raises ConfigError that names the key for anything else, and KeyError where it is needed; null passes where None is
    a default.
    """
    value = words.get(key, default[0]) if default else words[key]
    if (value is None and None in default) or not (wanted := unlike_number(value, whole=whole, zero=zero)):
        return value
    raise ConfigError(f"{key}={value!r} {wanted}")


def size(words: Words, key: str, *default: Any) -> Any:
    """A whole number of at least 1; see `number`."""
    return number(words, key, *default, whole=True)


def first(words: Words, *keys: str) -> Any:
    """The size by the first key that is there: published folders know some by two names."""
    return size(words, next((key for key in keys if words.get(key) is not None), keys[0]))


def in_turn(parts: Sequence[T]) -> T | tuple[T, ...]:
    """The shortest run of parts that, taken in turn, gives one for each layer; alone where they are all the same."""
    whole = len(parts)
    size = next(n for n in range(1, whole + 1) if all(parts[i] == parts[i % n] for i in range(whole)))
    return parts[0] if size == 1 else tuple(parts[:size])


def only(words: Words, key: str, *allowed: Any) -> Any:
    """The value of a key, the first of `allowed` where it is not given. Raises ConfigError for any other."""
    value = words.get(key, allowed[0])
    if value not in allowed:
        known = " or ".join(repr(one) for one in allowed)
        raise ConfigError(f"{key}={value!r} asks for what polytask does not have; it reads {known}.")
    return value


def activation(words: Words, key: str, default: str) -> str:
    """Our name of an activation."""
    return _ACTIVATIONS[only({key: words.get(key) or default}, key, *_ACTIVATIONS)]


def their_activation(ours: str, tanh: str = "gelu_pytorch_tanh") -> str:
    return tanh if ours == "gelu_tanh" else next(name for name, mine in _ACTIVATIONS.items() if mine == ours)


def rotary(words: Words, *, theta: float = 10_000.0, fraction: float = 1.0) -> Rotary:
    """Rotary positions from `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (published folders).

    theta and fraction: what the family has where config.json does not say.
    """
    key = "rope_scaling" if words.get("rope_scaling") else "rope_parameters"
    said = words.get(key) or {}
    if not isinstance(said, Mapping):
        raise ConfigError(f"{key}={said!r} must name the values of rotary positions by their keys.")
    base = number(said, "rope_theta", None) or number(words, "rope_theta", None) or theta
    share = number(said if "partial_rotary_factor" in said else words, "partial_rotary_factor", None, zero=True)
    return Rotary(float(base), fraction=fraction if share is None else share, scaling=_scaling(words, said))


def whole_rotary(words: Words, *, theta: float = 10_000.0) -> Rotary:
    """`rotary` for families of which all channels turn."""
    part = rotary(words, theta=theta)
    only({"partial_rotary_factor": part.fraction}, "partial_rotary_factor", 1.0)
    return part


def _scaling(words: Words, said: Words) -> Scaling | None:
    kind = said.get("rope_type", said.get("type", "default"))
    only({"rope_type": kind}, "rope_type", "default", "linear", "llama3", "yarn")
    if kind == "default":
        return None
    key = "original_max_position_embeddings"
    original = size(words, key, None) or size(said, key, None) or size(words, "max_position_embeddings")
    factor = float(number(said, "factor"))
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "llama3":
        return Llama3Scaling(
            factor, original, low=number(said, "low_freq_factor"), high=number(said, "high_freq_factor")
        )
    return Yarn(
        factor, original,
        fast=number(said, "beta_fast", None) or 32.0, slow=number(said, "beta_slow", None) or 1.0,
        size=_yarn_size(factor, said), truncate=said.get("truncate", True),
    )  # fmt: skip


def _yarn_size(factor: float, said: Words) -> float | None:
    one, all_dim = (number(said, key, None, zero=True) for key in ("mscale", "mscale_all_dim"))
    given = number(said, "attention_factor", None)
    if given is not None or not (one and all_dim) or factor <= 1:
        return given
    return (0.1 * one * math.log(factor) + 1.0) / (0.1 * all_dim * math.log(factor) + 1.0)


def rope(part: Rotary) -> dict[str, Any]:
    """Inverse of `rotary`, in the words of published folders, which old and new versions of transformers read."""
    scaling, said = part.scaling, dict[str, Any]()
    if isinstance(scaling, LinearScaling):
        said = {"rope_type": "linear"}
    elif isinstance(scaling, Llama3Scaling):
        said = {"rope_type": "llama3", "low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    elif isinstance(scaling, Yarn):
        said = {"rope_type": "yarn", "beta_fast": scaling.fast, "beta_slow": scaling.slow}
        said |= {"truncate": scaling.truncate} | ({} if scaling.size is None else {"attention_factor": scaling.size})
    if scaling is None:
        return {"rope_theta": part.theta}
    original = {"original_max_position_embeddings": scaling.original} if scaling.original else {}
    return {"rope_theta": part.theta, "rope_scaling": {**said, "factor": scaling.factor, **original}}
