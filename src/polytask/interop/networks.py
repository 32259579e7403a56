"""Networks that are no language models by themselves (CLIP, autoencoders, priors), in folders that anyone can read.

config.json          the architecture, and what is known of the network
model.safetensors    the weights
checksums.json       SHA-256 of every other file
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from polytask.errors import CheckpointError, ConfigError
from polytask.interop import hf
from polytask.interop.atomic import atomic_folder, verify
from polytask.interop.folder import filled, locate
from polytask.models.networks import is_network
from polytask.nn.part import Part, from_plain, to_plain


def save(path: str | Path, network: Any, about: Mapping[str, Any] | None = None) -> None:
    """Writes a folder that `load` reads, all of it or nothing. Raises CheckpointError where that cannot be done."""
    description = {
        "polytask": version("polytask"),
        "architecture": to_plain(network.config),
        "about": dict(about or {}),
    }
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in network.state_dict().items()}
    with atomic_folder(Path(path)) as folder:
        (folder / "config.json").write_text(json.dumps(description, indent=1, ensure_ascii=False))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(
    path: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", check: bool = True
) -> Any:  # fmt: skip
    """The network of a folder of ours or of open weights, in evaluation mode. check: verify its checksums, which a part
    inside of another folder lacks. Raises CheckpointError."""
    folder = locate(path)
    if hf.is_folder(folder):
        return hf.load_network(folder, dtype, device)
    if check:
        verify(folder)
    return filled(folder, _config(folder)).to(device, dtype).eval()


def _config(folder: Path) -> Part:
    file = folder / "config.json"
    try:
        config = from_plain(json.loads(file.read_text())["architecture"])
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{file} does not describe a polytask network: {error}") from None
    if not is_network(config):
        raise CheckpointError(f"{file} describes a {type(config).__name__}, which is no network.")
    return config
