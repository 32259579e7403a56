"""Models of other projects become checkpoints of ours, and ours become folders that other tools load."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polytask.errors import CheckpointError, ConfigError
from polytask.interop import FORMATS, hf, hub, picture_tokenizer, shards
from polytask.interop.atomic import check_replaceable
from polytask.interop.folder import Folder, load_network, read_folder, write_folder
from polytask.models import cost


@dataclass(frozen=True)
class Made:
    """A folder that was written: what it holds, in words, and commands to go on with."""

    path: Path
    kind: str
    parameters: int
    next: list[str]


def import_model(source: str, out: Path) -> Made:
    """Writes a checkpoint folder from a folder as Hugging Face has them, or from a model of its hub.

    Weights keep their precision. Raises CheckpointError and TokenizerError; nothing is left half-written.
    """
    check_replaceable(out)
    if not Path(source).exists() and not hub.is_name(source):
        raise CheckpointError(
            f"There is no folder at {source}; import takes a folder as Hugging Face has them, or a model of its hub by "
            "its name, owner/name."
        )
    folder = read_folder(source)
    if not hf.is_folder(folder.path):
        raise ConfigError(f"{source} is a polytask checkpoint already; copy the folder, or use it where it is.")
    network = load_network(folder, dtype=_precision(folder))
    about = {"name": Path(source).name, **folder.about, "from": source, "licence": _licence(folder.path)}
    readme = folder.path / "README.md"
    card = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else f"# {about['name']}\n"
    write_folder(out, network, folder.tokenizer, card=card, about={k: v for k, v in about.items() if v})
    place = shlex.quote(str(out))
    following = [
        f"polytask chat {place}" if folder.tokenizer.conventions.template else f"polytask generate {place} ...",
        f"polytask eval {place} --task TASK --data FILE",
        f"polytask tune {place} --task TASK --data FILE --lora",
    ]
    return Made(out, str(folder.about["open weights"]), cost.parameters(folder.config), following)


def export_model(model: str, to: str, out: Path) -> Made:
    """Writes a model in another project's format, the weights in the precision that they have.

    Raises CheckpointError, also where the format has no architecture for the network.
    """
    write = FORMATS.get(to)
    folder = read_folder(model)
    family, _ = hf.describe(folder.config)
    write(out, load_network(folder, dtype=_precision(folder)), folder.tokenizer)
    place, kind = shlex.quote(str(out)), f"{family.model_type} ({family.architecture})"
    if (sight := folder.tokenizer.sight) is not None:
        say = f"from transformers import {family.architecture} as M; print(M.from_pretrained({str(out)!r}))"
        each = f"{sight.vocabulary.tokens} tokens {sight.vocabulary.placeholder}"
        kind += f", to be given pictures of {sight.size} pixels, from -1 to 1, as {each} each"
        following = [f"python -c {shlex.quote(say)}"]
    else:
        task = "text2text-generation" if folder.config.decoder.encoder_layers else "text-generation"
        say = f"from transformers import pipeline; print(pipeline('{task}', {str(out)!r})('...'))"
        options = _vllm(family.model_type, folder.config)
        following = [f"python -c {shlex.quote(say)}"]
        following += [] if options is None else [" ".join(["vllm serve", place, *options])]
    if folder.tokenizer.drawing is not None:
        kind += f", which others read for texts alone ({picture_tokenizer.FOLDER}/ beside is polytask's)"
    return Made(out, kind, cost.parameters(folder.config), [*following, f"polytask show {place}"])


def _vllm(model_type: str, config: Any) -> list[str] | None:
    """The options by which vLLM (0.32) serves a folder, None where it does not."""
    if config.decoder.encoder_layers or model_type == "gpt_neo":
        return None
    windows = {config.attention_of(layer).window for layer in range(config.layers)}
    mixed = model_type in ("qwen2", "qwen3") and len(windows) > 1  # which vLLM's own code for these refuses
    return ["--model-impl", "transformers"] if mixed else []


def _precision(folder: Folder) -> torch.dtype:
    """The precision of the folder's weights, where it is one that we compute in."""
    kept = {tensor.dtype for tensor in shards.stored(folder.path).values()}
    return kept.pop() if len(kept) == 1 and kept < {torch.float32, torch.bfloat16, torch.float16} else torch.float32


def _licence(folder: Path) -> str:
    """What the card's head says."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines() if readme.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
