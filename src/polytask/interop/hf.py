"""Folders as Hugging Face has them: open weights load straight into our Transformer, and ours go out as such.

    config.json              names the family (`model_type`) and its sizes
    model.safetensors        the weights, or shards with model.safetensors.index.json
    tokenizer.json           the tokenizer
    generation_config.json   which ids begin, end and pad
    picture_tokenizer/       of a model of ours that reads or draws pictures

A family is data: how its config.json reads, how it is written, and one table of names that is read both ways. The
families stand in systems/ and are found by their model_type.
"""

import json
import re
import warnings
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polytask.errors import CheckpointError, ConfigError, Notice
from polytask.interop import picture_tokenizer, shards
from polytask.interop.atomic import atomic_folder
from polytask.interop.rows import Row
from polytask.models.config import TransformerConfig
from polytask.models.networks import build
from polytask.models.transformer import Transformer
from polytask.nn.part import Part
from polytask.registry import Registry, nearest
from polytask.tokenizers.text import TextTokenizer

SHARD_BYTES = 5_000_000_000
FAMILIES = Registry(
    "model_type",
    {
        name: f"polytask.systems.open_weights.{place}"
        for name, place in {
            "gpt2": "gpt:GPT2",
            "gpt_neo": "gpt:GPT_NEO",
            "opt": "gpt:OPT",
            "gptj": "neox:GPTJ",
            "gpt_neox": "neox:GPT_NEOX",
            "bloom": "bloom:BLOOM",
            "falcon": "bloom:FALCON",
            "llama": "llama:LLAMA",
            "mistral": "llama:MISTRAL",
            "qwen2": "llama:QWEN2",
            "qwen3": "llama:QWEN3",
            "gemma": "gemma:GEMMA",
            "gemma2": "gemma:GEMMA2",
            "t5": "encoder_decoders:T5",
            "marian": "encoder_decoders:MARIAN",
            "mixtral": "mixtral:MIXTRAL",
            "clip": "clip:CLIP",
            "llava": "llava:LLAVA",
        }.items()
    },
    CheckpointError,
)


Kinds = type[Part] | tuple[type[Part], ...]


@dataclass(frozen=True)
class Family:
    """How one family of open weights is kept.

    architecture: the class that transformers builds. parts: the kinds of norm, feed-forward and position that `write`
    takes. read: config.json to ours; it raises ConfigError, naming the key, for what we do not have. rows: the table of
    names, theirs as they stand below `prefix` or with it. copies: tensors that may be written once more under another
    name, theirs to theirs. spellings: beginnings of names that some folders write otherwise, theirs to the table's.
    ignored: patterns of buffers that old checkpoints carry and that are computed here. other_rows: a table by which
    some folders are kept and none is written. config: the kind of configuration that `read` gives. settled: what
    config.json says, with what it leaves to the tensors of its folder.
    """

    model_type: str
    architecture: str
    read: Callable[[Mapping[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]
    rows: Callable[[Any], list[Row]]
    parts: tuple[Kinds, Kinds, Kinds] = (Part, Part, Part)
    prefix: str = ""
    copies: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    other_rows: Callable[[Any], list[Row]] | None = None
    config: type[Part] = TransformerConfig
    settled: Callable[[Mapping[str, Any], Path], Mapping[str, Any]] | None = None

    def rows_of(self, config: Part, names: Collection[str]) -> list[Row]:
        """The table that tensors of these names follow."""
        for rows in filter(None, (self.rows, self.other_rows)):
            table = rows(config)
            wanted = {row.theirs for row in table}
            if wanted <= {self.full_name(name, wanted) for name in names}:
                return table
        return self.rows(config)

    def full_name(self, name: str, known: Container[str]) -> str:
        """The name in the table of a tensor that a folder calls `name`; `name` where it has none."""
        for start, ours in self.spellings.items():
            if name.startswith(start):
                name = ours + name[len(start) :]
        return next((n for n in (name, self.prefix + name) if n in known or n in self.copies), name)


def is_folder(path: str | Path) -> bool:
    """Whether config.json there is of Hugging Face's kind: it names a model_type."""
    return "model_type" in _words(Path(path)) if (Path(path) / "config.json").is_file() else False


def read_config(path: str | Path) -> Any:
    """The network that a folder's config.json describes. Raises CheckpointError naming the key that we do not have."""
    words = _words(Path(path))
    return _with_grid(_read(_family(words, Path(path)), words, Path(path)), Path(path))


def _with_grid(config: Any, path: Path) -> Part:
    """With what only polytask reads of a folder."""
    found = picture_tokenizer.read_grid(path)
    return config if found is None else replace(config, grid=found[0])


def family_of(path: str | Path) -> Family:
    """The family of a folder. Raises CheckpointError where it is none of ours."""
    return _family(_words(Path(path)), Path(path))


def load_network(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu", *,
    config: Part | None = None,
) -> Any:  # fmt: skip
    """The network of a folder with its weights, in evaluation mode.

    Weights are allocated once, in `dtype`, and filled tensor by tensor. config: stands in for the folder's own, of
    which it may differ in what has no weights (dropout). Raises CheckpointError naming the tensor that is missing,
    unexpected or of another shape.
    """
    path = Path(path)
    words = _words(path)
    family = _family(words, path)
    config = _with_grid(_read(family, words, path), path) if config is None else config
    if "auto_map" in words:
        warnings.warn(
            f"{path} brings code of its own (auto_map in config.json), which was not run; polytask's own "
            f"{family.model_type} network is used.", Notice, stacklevel=2,
        )  # fmt: skip
    with torch.device("meta"):
        network = build(config).to(dtype)
    found = shards.stored(path)
    rows = family.rows_of(config, found)
    tensors, copies = _matched(family, rows, found, path)
    for row in rows:
        _expect_shape(tensors[row.theirs], row.view.shape(network.get_parameter(row.ours)))
    network = network.to_empty(device=device)
    with torch.no_grad():
        for row in sorted(rows, key=lambda row: (tensors[row.theirs].file, tensors[row.theirs].start)):
            _fill(row, tensors[row.theirs], network.get_parameter(row.ours))
        if (beside := picture_tokenizer.read_grid(path)) is not None:
            network.grid.weight.copy_(beside[1])
        network.fill_buffers()
        for copy, row in copies:
            _expect_same(copy, row, network.get_parameter(row.ours))
    return network.eval()


def export(
    path: str | Path, network: Any, tokenizer: TextTokenizer | None = None, *, shard_bytes: int = SHARD_BYTES
) -> None:  # fmt: skip
    """Writes a folder that transformers and others load, all of it or nothing. The picture tokenizer of a model that
    reads or draws pictures goes beside, with its vectors of rows and columns, where polytask finds it again and others
    do not look.

    Weights keep their precision; those above `shard_bytes` go into several files. Raises CheckpointError where no
    family holds the network, and where `path` exists.
    """
    family, words = describe(network.config)
    grid = network.grid if isinstance(network, Transformer) else None
    if grid is not None and (tokenizer is None or tokenizer.drawing is None):
        raise CheckpointError("This network reads codes of pictures; export it with its tokenizer, which makes them.")
    rows = family.rows(network.config)
    by_name = {row.theirs: row for row in rows}
    ours = dict(network.named_parameters())
    if changed := [row.ours for row in rows if row.ours not in ours]:
        raise CheckpointError(
            f"{changed[0]} is not a plain tensor: merge adapters, and load without int8 and int4, to export."
        )

    def make(name: str) -> Tensor:
        mine = ours[by_name[name].ours].detach()
        theirs = torch.empty(by_name[name].view.shape(mine), dtype=mine.dtype)
        for whole, part in by_name[name].view.pairs(theirs, mine):
            whole.copy_(part)
        return theirs

    sizes = {row.theirs: row.view.shape(ours[row.ours]) for row in rows}
    weight = next(iter(ours.values()))
    theirs = tokenizer and tokenizer.for_others()
    words |= {"architectures": [family.architecture], "model_type": family.model_type}
    words |= theirs.generation if theirs else {}
    words["dtype"] = str(weight.dtype).removeprefix("torch.")
    with atomic_folder(Path(path), ours=False) as folder:
        _write_json(folder / "config.json", words)
        shards.write(folder, sizes, weight.dtype, make, shard_bytes)
        if tokenizer is not None and theirs is not None:
            theirs.save(folder)
            picture_tokenizer.write(folder, tokenizer)
            if grid is not None:
                picture_tokenizer.write_grid(folder, grid)


def describe(config: Part) -> tuple[Family, dict[str, Any]]:
    """The family that holds such a network, and its config.json: the first that reads what it wrote as the same.

    Raises CheckpointError that names the nearest family and in what it differs.
    """
    differing: dict[str, list[str]] = {}
    for name in FAMILIES:
        family: Family = FAMILIES.get(name)
        if not isinstance(config, family.config):
            continue
        if not all(isinstance(part, kind) for part, kind in zip(_made_of(config), family.parts)):
            continue
        try:
            words = family.write(config)
            again = family.read(words)
            if bool(getattr(again, "encoder_layers", 0)) != bool(getattr(config, "encoder_layers", 0)):
                continue
            differing[name] = _differences(config, again)
        except ConfigError:  # the family has no such combination
            continue
        if not differing[name]:
            return family, words
    if not differing:
        names = ", ".join(type(part).__name__ for part in _made_of(config))
        raise CheckpointError(f"No open format has this network's parts together: {names}.")
    name = min(differing, key=lambda name: len(differing[name]))
    raise CheckpointError(
        f"No open format holds this network as it is; the nearest, {name}, has another {', '.join(differing[name])}."
    )


def _made_of(config: Any) -> tuple[Part, ...]:
    """The parts of a language network that tell families apart; another network has its kind alone."""
    if isinstance(config, TransformerConfig):
        return config.norm, config.feedforward_of(0), config.position
    return (config,)


def _differences(a: Part, b: Part) -> list[str]:
    """Fields that decide what a network computes and differ."""
    a, b = _comparable(a), _comparable(b)
    return [f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)]


def _comparable(config: Part) -> Part:
    if isinstance(config, TransformerConfig):
        return replace(_unrolled(config), dropout=0.0, initialization="gpt", grid=None)
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    return replace(config, **{n: _comparable(p) for n, p in parts.items() if isinstance(p, TransformerConfig)})


def _unrolled(config: TransformerConfig) -> TransformerConfig:
    """With parts that take turns written out for each layer, and what None stands for."""
    _, kv_heads, width = config.attention_of(0).sizes(config.dim)
    attention = tuple(
        replace(
            part, kv_heads=kv_heads, head_dim=width, scale=part.scale or width**-0.5, output_bias=part.biased_output
        )
        for part in map(config.attention_of, range(config.layers))
    )
    fed = tuple(map(config.feedforward_of, range(config.layers)))
    return replace(config, attention=attention, feedforward=fed)


def _write_json(file: Path, words: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(words, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _words(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON ({error}); copy it again from its source.") from None
    if not isinstance(words, dict):
        raise CheckpointError(f"{file} holds a {type(words).__name__}, not the words of a configuration.")
    return words


def _family(words: Mapping[str, Any], folder: Path) -> Family:
    name = str(words.get("model_type"))
    if name not in FAMILIES and "auto_map" in words:
        raise CheckpointError(
            f"{folder} brings code of its own (auto_map in config.json) for model_type '{name}', and polytask never "
            f"runs code that comes with weights; {nearest(name, FAMILIES)}"
        )
    if name not in FAMILIES:
        raise CheckpointError(
            f"{folder}: polytask has no architecture '{name}' (model_type in config.json): {nearest(name, FAMILIES)}"
        )
    if words.get("quantization_config"):
        raise CheckpointError(
            f"{folder} holds quantised weights (quantization_config in config.json); take the folder in bfloat16, "
            "float16 or float32 and load it with int8=True or int4=True to save memory."
        )
    return FAMILIES.get(name)


def _read(family: Family, words: Mapping[str, Any], folder: Path) -> TransformerConfig:
    where = folder / "config.json"
    if words.get("is_causal") not in (None, True):
        raise CheckpointError(
            f"{where}: is_causal={words['is_causal']!r} asks for tokens that see later ones; polytask has none."
        )
    try:
        return family.read(words if family.settled is None else family.settled(words, folder))
    except KeyError as error:
        raise CheckpointError(f"{where} lacks {error}, which {family.model_type} needs.") from None
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{where}: a value is of a kind that {family.model_type} does not have: {error}."
        ) from None


def _matched(
    family: Family, rows: list[Row], found: Mapping[str, shards.Stored], folder: Path
) -> tuple[dict[str, shards.Stored], list[tuple[shards.Stored, Row]]]:  # fmt: skip
    """The stored tensor of each row by their full name, and the copies with the row that they repeat."""
    wanted = {row.theirs: row for row in rows}
    tensors, copies = {}, []
    for name, tensor in found.items():
        full = family.full_name(name, wanted)
        if full in wanted:
            tensors[full] = tensor
        elif full in family.copies:
            copies.append((tensor, wanted[family.copies[full]]))
        elif not any(re.search(pattern, name) for pattern in family.ignored):
            raise CheckpointError(
                f"{tensor.file} has {name}, which a {family.model_type} network of this config.json has not."
            )
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(f"{folder} lacks the tensor {missing[0]}, which its config.json calls for.")
    return tensors, copies


def _expect_shape(tensor: shards.Stored, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.file} has {tensor.name} of shape {tensor.shape}, and config.json calls for {shape}."
        )


def _fill(row: Row, tensor: shards.Stored, ours: Tensor) -> None:
    (theirs, mine), *others = row.view.pairs(torch.empty(tensor.shape, device="meta"), ours)
    if not others and theirs.is_contiguous() and mine.is_contiguous():
        return tensor.read_into(mine)
    for theirs, mine in row.view.pairs(tensor.read(), ours):
        mine.copy_(theirs)


def _expect_same(copy: shards.Stored, row: Row, ours: Tensor) -> None:
    flat = ours.view(-1)
    _expect_shape(copy, tuple(ours.shape))
    if not all(torch.equal(flat[start : start + len(part)], part.to(flat)) for start, part in copy.parts()):
        raise CheckpointError(
            f"{copy.file} has {copy.name}, which differs from {row.theirs}, though config.json ties the two; it may "
            "lack tie_word_embeddings: false."
        )
