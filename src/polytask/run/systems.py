"""The systems of the field: what is published of them beside what we build, and what that costs."""

from typing import Any

from polytask.errors import ConfigError
from polytask.models import built, cost
from polytask.models.catalogue import PRESETS
from polytask.models.config import TransformerConfig
from polytask.models.published import Published
from polytask.models.unet import UNetConfig, step_flops
from polytask.nn.part import Part
from polytask.plan import memory_by_term
from polytask.registry import nearest
from polytask.run.show import architecture, fields, words


def catalogue() -> dict[str, Published]:
    """Every published row by its name, SYSTEM-SIZE, or SYSTEM alone where no size is public."""
    return {
        f"{system}-{size}" if size else system: row for system in PRESETS for size, row in PRESETS.get(system).items()
    }


def find(name: str) -> tuple[str, Published]:
    """The row of that name, in any case of letters. Raises ConfigError naming the nearest, or a system's sizes."""
    rows, lower = catalogue(), name.lower()
    if lower in rows:
        return lower, rows[lower]
    if lower in PRESETS:
        raise ConfigError(f"{lower} comes in sizes; name one: {', '.join(f'{lower}-{s}' for s in PRESETS.get(lower))}.")
    raise ConfigError(f"There is no system '{name}': {nearest(lower, rows)}")


def listing() -> list[dict[str, Any]]:
    """One plain row for each: name, parameters as built and as printed and why they differ, year, paper and what is
    special."""
    return [
        {"name": name, **_counts(row), "difference": row.difference, **_origin(row)}
        for name, row in catalogue().items()
    ]


def describe(name: str, precision: str = "bfloat16") -> dict[str, Any]:
    """All that is known of a row: published figures, and where it can be built its parts and costs (bytes and FLOPs).

    Memory is that of one row of the context's length: to train in mixed precision with AdamW, everything kept, and to
    serve with weights and cache in `precision`. Raises ConfigError for an unknown name or precision.
    """
    _check(precision)
    name, row = find(name)
    about = {"name": name, "title": row.publication.title, **_origin(row), "source": row.source}
    about |= {"parameters": _counts(row), "why they differ": row.difference}
    about |= _costs(row.config, precision) if row.config else {"architecture": "not public"}
    about |= {"published training": _plain(row.training), "printed, but not built": _plain(row.printed)}
    return about | {"not public": list(row.publication.unpublished)}


def compare(names: list[str], precision: str = "bfloat16") -> dict[str, dict[str, Any]]:
    """By name: the figures of `describe` that can stand side by side, None where they are not public."""
    _check(precision)
    if len(names) < 2:
        raise ConfigError(f"compare takes two or more systems; look at one with: polytask systems show {names[0]}")
    return {name: _column(row, precision) for name, row in map(find, names)}


def _counts(row: Published) -> dict[str, int | float | None]:
    """What our network has, of which one token meets `active`, beside what was printed."""
    config = row.config
    total = active = None
    if isinstance(config, TransformerConfig):
        total, active = cost.parameters(config), cost.active_parameters(config)
    elif config is not None:
        total = active = built.parameters(config)
    return {
        "total": total,
        "active": active,
        "published": _plain(row.parameters),
        "published active": _plain(row.active),
    }


def _origin(row: Published) -> dict[str, Any]:
    publication = row.publication
    return {"year": publication.year, "paper": publication.paper, "special": publication.special}


def _costs(config: Part, precision: str) -> dict[str, Any]:
    return _of_text(config, precision) if isinstance(config, TransformerConfig) else _of_pictures(config, precision)


def _of_pictures(config: Part, precision: str) -> dict[str, Any]:
    """Of a network that is counted as it is built; the U-Nets among them draw, step by step."""
    parts = built.parameters_by_part(config)
    weights = sum(parts.values()) * cost.PRECISION_BYTES[precision]
    costs: dict[str, Any] = {"by part": parts, "architecture": fields(config)}
    if isinstance(config, UNetConfig):
        forward = step_flops(config)
        costs["FLOPs a picture and step"] = {"to train": 3 * forward, "to draw": forward}
    return costs | {"memory to serve": {"weights": weights, "total": weights}}


def _of_text(config: TransformerConfig, precision: str) -> dict[str, Any]:
    flops = cost.flops_per_token(config, config.context_length)
    return {
        "by part": {part: count for part, count in cost.parameters_by_part(config).items() if count},
        "architecture": architecture(config),
        "FLOPs a token": {"to train": flops, "to serve": flops / 3},  # the way back takes two thirds
        "memory to train": _summed(memory_by_term(config, rows=1, length=config.context_length, precision=precision)),
        "memory to serve": _summed(_serving(config, precision)),
    }


def _serving(config: TransformerConfig, precision: str) -> dict[str, int]:
    """Bytes of the weights, and of the keys and values of one text as long as the context."""
    return {
        "weights": cost.PRECISION_BYTES[precision] * cost.parameters(config),
        "keys and values": cost.kv_bytes(config, config.context_length, precision),
    }


def _check(precision: str) -> None:
    if precision not in cost.PRECISION_BYTES:
        raise ConfigError(f"--precision: there is no '{precision}': {nearest(precision, cost.PRECISION_BYTES)}")


def _summed(terms: dict[str, int]) -> dict[str, int]:
    return {**terms, "total": sum(terms.values())}


def _column(row: Published, precision: str) -> dict[str, Any]:
    config, publication = row.config, row.publication
    column: dict[str, Any] = {"year": publication.year, "paper": publication.paper}
    column |= {f"parameters, {kind}": count for kind, count in _counts(row).items()}
    column["why they differ"] = row.difference or None
    if isinstance(config, TransformerConfig):
        column |= _columns_of_text(config, precision)
    elif config is not None:
        costs = _of_pictures(config, precision)
        column |= fields(config) | {"memory to serve": costs["memory to serve"]["total"]}
        column |= {
            f"FLOPs a picture and step, {name}": n for name, n in costs.get("FLOPs a picture and step", {}).items()
        }
    return column | {"published tokens": _plain(row.training.get("tokens")), "special": publication.special}


def _columns_of_text(config: TransformerConfig, precision: str) -> dict[str, Any]:
    heads, kv_heads, head_dim = config.attention_of(0).sizes(config.dim)
    costs = _of_text(config, precision)
    return {
        "layers": config.layers, "encoder layers": config.encoder_layers, "width": config.dim, "heads": heads,
        "key/value heads": kv_heads, "head width": head_dim, "context": config.context_length,
        "vocabulary": config.vocab_size, "windows": [part.window for part in config.attentions],
        "feed-forward": [_fed(part) for part in _turns(config.feedforward)], "positions": words(config.position),
        "norm": words(config.norm), "placement": config.placement,
        "FLOPs a token": costs["FLOPs a token"]["to train"], "memory to train": costs["memory to train"]["total"],
        "memory to serve": costs["memory to serve"]["total"],
    }  # fmt: skip


def _turns(parts: Any) -> tuple[Any, ...]:
    return parts if isinstance(parts, tuple) else (parts,)


def _fed(part: Part) -> str:
    """Kind and sizes alone: a column is narrow."""
    sizes = [f"{getattr(part, name):,}" for name in ("count", "width") if hasattr(part, name)]
    return f"{type(part).__name__} {' x '.join(sizes)}"


def _plain(value: Any) -> Any:
    """Printed values as JSON has them; large ones that are whole lose their decimals."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value >= 1000 and value.is_integer() else value
