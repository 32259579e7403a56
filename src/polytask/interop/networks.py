"""Networks that are no language models by themselves (CLIP, U-Nets, priors), in folders that anyone can read.

config.json          the architecture, and what is known of the network
model.safetensors    the weights
tokenizer.json       of its captions, where it reads any
parts/NAME/          folders of the frozen networks that it needs to draw, such as unCLIP's CLIP and prior
README.md            the model card
checksums.json       SHA-256 of every other file
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from polytask import runtime
from polytask.errors import CheckpointError, ConfigError, Error
from polytask.interop import hf
from polytask.interop.atomic import atomic_folder, share_files, verify
from polytask.interop.folder import filled, locate
from polytask.models.classifier import ClassifierConfig
from polytask.models.clip import CLIPConfig
from polytask.models.dvae import AutoencoderConfig
from polytask.models.networks import Picturing, is_network
from polytask.nn.part import Part, from_plain, to_plain
from polytask.tokenizers.text import TextTokenizer


@dataclass(frozen=True)
class NetworkFolder:
    """What a folder says, weights apart. tokenizer: None where it has none. parts: folders by name."""

    path: Path
    config: Any
    about: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)


def save(path: str | Path, network: Any, about: Mapping[str, Any] | None = None, **words: Any) -> None:
    """Writes a folder that `load` reads, all of it or nothing; `words` are more of `write`.

    Raises CheckpointError where that cannot be done.
    """
    with atomic_folder(Path(path)) as folder:
        write(folder, network, about=about, **words)


def write(
    folder: Path, network: Any, *, about: Mapping[str, Any] | None = None, tokenizer: TextTokenizer | None = None,
    card: str = "", weights: Mapping[str, Tensor] | None = None, parts: Mapping[str, Path] | None = None,
) -> None:  # fmt: skip
    """Puts a network's files into an existing folder; `weights` stand in for its own, parts are copied."""
    description = {
        "polytask": runtime.version(),
        "architecture": to_plain(network.config),
        "about": dict(about or {}),
    }
    state = weights if weights is not None else network.state_dict()
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    (folder / "config.json").write_text(json.dumps(description, indent=1, ensure_ascii=False))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(folder)
    if card:
        (folder / "README.md").write_text(card)
    for name, path in (parts or {}).items():
        share_files(path, folder / "parts" / name)


def read(path: str | Path, *, check: bool = True) -> NetworkFolder:
    """Everything of a folder of ours or of open weights but the weights. check: verify its checksums, which a part
    inside of another folder lacks. Raises CheckpointError."""
    folder = locate(path)
    tokenizer = TextTokenizer.load(folder) if (folder / "tokenizer.json").is_file() else None
    if hf.is_folder(folder):
        return NetworkFolder(folder, hf.read_config(folder), {}, tokenizer)
    if check:
        verify(folder)
    config, about = _described(folder)
    parts = {place.name: place for place in sorted((folder / "parts").glob("*")) if place.is_dir()}
    return NetworkFolder(folder, config, about, tokenizer, parts)


def is_drawing(path: str | Path) -> bool:
    """Whether a folder of ours holds a network that learned from pictures alone; a damaged one is not known to.
    Raises CheckpointError where there is none."""
    return _is_ours(path, Picturing)


def is_clip(path: str | Path) -> bool:
    """Whether a folder of ours or of open weights holds a CLIP; a damaged one is not known to. Raises CheckpointError
    where there is none."""
    folder = locate(path)
    try:
        return isinstance(hf.read_config(folder) if hf.is_folder(folder) else _described(folder)[0], CLIPConfig)
    except Error:
        return False


def is_classifier(path: str | Path) -> bool:
    """The same of a classifier of pictures, which are of ours alone."""
    return _is_ours(path, ClassifierConfig)


def is_autoencoder(path: str | Path) -> bool:
    """The same of an autoencoder of pictures."""
    return _is_ours(path, AutoencoderConfig)


def _is_ours(path: str | Path, kind: Any) -> bool:
    folder = locate(path)
    try:
        return not hf.is_folder(folder) and isinstance(_described(folder)[0], kind)
    except CheckpointError:
        return False


def load(
    path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", check: bool = True
) -> Any:
    """The network of a folder of ours or of open weights, in evaluation mode. Raises CheckpointError."""
    folder = locate(path)
    if hf.is_folder(folder):
        return hf.load_network(folder, dtype, str(device))
    if check:
        verify(folder)
    return filled(folder, _described(folder)[0]).to(device, dtype).eval()


def _described(folder: Path) -> tuple[Part, dict[str, Any]]:
    file = folder / "config.json"
    try:
        description = json.loads(file.read_text())
        config = from_plain(description["architecture"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{file} does not describe a polytask network: {error}") from None
    if not is_network(config):
        raise CheckpointError(f"{file} describes a {type(config).__name__}, which is no network.")
    return config, description.get("about", {})
