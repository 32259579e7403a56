"""The checkpoint folder: files that anyone can read.

    config.json          the architecture, and what is known of the model (data, licences, figures)
    model.safetensors    the weights
    tokenizer.json       the tokenizer
    picture_tokenizer/   the network that makes codes of pictures, of a model that reads or draws some
    tasks/NAME.yaml      tasks of the user's own that the model was trained on
    README.md            the model card
    checksums.json       SHA-256 of every other file

Folders as Hugging Face has them (interop/hf.py) are read in the same way. Weights are safetensors only: nothing here
unpickles a file that a user was handed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polytask import runtime
from polytask.errors import CheckpointError, ConfigError, TokenizerError
from polytask.interop import hf, hub, picture_tokenizer
from polytask.interop.atomic import atomic_folder, sha256, verify
from polytask.interop.shards import INDEX, SINGLE
from polytask.models.config import TransformerConfig
from polytask.models.networks import Language, build
from polytask.models.transformer import Transformer
from polytask.models.vision_language import VisionLanguage, VisionLanguageConfig
from polytask.nn.part import Part, from_plain, to_plain
from polytask.tokenizers.text import TextTokenizer

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Folder:
    """What a checkpoint folder says, weights apart."""

    path: Path
    config: Language
    tokenizer: TextTokenizer
    about: Mapping[str, Any] = field(default_factory=dict)  # data, licences, figures, recipe: whatever the writer knew

    @property
    def task_files(self) -> list[Path]:
        return sorted((self.path / "tasks").glob("*.yaml"))


def write_model(
    folder: Path, network: Transformer | VisionLanguage, tokenizer: TextTokenizer, *, card: str = "",
    about: Mapping[str, Any] | None = None, tasks: Mapping[str, str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Puts a model's files into an existing folder (see `atomic_folder`); `weights` stand in for the network's own."""
    description = {
        "polytask": runtime.version(),
        "architecture": to_plain(network.config),
        "about": dict(about or {}),
    }
    (folder / "config.json").write_text(json.dumps(description, indent=1, ensure_ascii=False))
    state = weights if weights is not None else network.state_dict()
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(folder)
    picture_tokenizer.write(folder, tokenizer)
    if card:
        (folder / "README.md").write_text(card)
    for name, text in (tasks or {}).items():
        (folder / "tasks").mkdir(exist_ok=True)
        (folder / "tasks" / f"{name}.yaml").write_text(text)


def write_folder(
    path: str | Path, network: Transformer | VisionLanguage, tokenizer: TextTokenizer, **words: Any
) -> None:
    """Writes a whole checkpoint folder, atomically; `words` as `write_model` takes them."""
    with atomic_folder(Path(path)) as folder:
        write_model(folder, network, tokenizer, **words)


def locate(path: str | Path) -> Path:
    """The checkpoint folder meant by `path`: itself, the `model` folder of a run, or, where there is nothing at `path`,
    the model of that name on the hub. Raises CheckpointError."""
    if not Path(path).exists() and hub.is_name(str(path)):
        path = hub.fetch(str(path))
    path = Path(path)
    if path.is_file():
        hint = (
            "is a pickle file, which can run code when read; polytask"
            if path.suffix in PICKLES
            else "is a file; polytask"
        )
        raise CheckpointError(f"{path} {hint} loads checkpoint folders with model.safetensors.")
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint at {path}. Train one with: polytask train RECIPE --out {path}")
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file():
            _expect_safetensors(candidate)
            return candidate
    raise CheckpointError(f"{path} is not a checkpoint folder: it has no config.json.")


def _expect_safetensors(folder: Path) -> None:
    if any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return
    pickles = [file.name for file in folder.iterdir() if file.suffix in PICKLES]
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0]}, a pickle, which can run code when read. Convert it to safetensors where you "
            "trust it, with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW FOLDER)."
        )
    raise CheckpointError(f"{folder} has no model.safetensors; copy its weights there, or name another folder.")


def read_folder(path: str | Path, *, check: bool = True) -> Folder:
    """Reads everything but the weights. Raises CheckpointError, and TokenizerError where the tokenizer is another's."""
    folder = locate(path)
    foreign = hf.is_folder(folder)
    if check and (not foreign or (folder / "checksums.json").is_file()):
        verify(folder)
    config, about = _opened(folder) if foreign else _described(folder)
    tokenizer = picture_tokenizer.read(folder, TextTokenizer.load(folder))
    if isinstance(config, VisionLanguageConfig):
        tokenizer = tokenizer.with_sight(config.placeholder, config.states, config.vision.image)
    if (more := tokenizer.size - (size := config.decoder.vocab_size)) > 0:
        raise TokenizerError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, {more} more than the {size} that "
            "the model embeds, so a text with one of those could not be read; it belongs to another model, or tokens "
            "were added to it alone."
        )
    return Folder(folder, config, tokenizer, about)


def _opened(folder: Path) -> tuple[Language, dict[str, Any]]:
    family = hf.family_of(folder)
    if family.config not in (TransformerConfig, VisionLanguageConfig):
        raise CheckpointError(
            f"{folder} holds a {family.model_type} network ({family.architecture}), which alone answers no task; load "
            "it from Python with polytask.interop.hf.load_network."
        )
    return hf.read_config(folder), {"open weights": f"{family.model_type} ({family.architecture})"}


def _described(folder: Path) -> tuple[Language, dict[str, Any]]:
    try:
        description = json.loads((folder / "config.json").read_text())
        config, about = from_plain(description["architecture"]), description.get("about", {})
        if not isinstance(config, Part):
            raise ConfigError("its architecture is none of ours")
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a polytask network: {error}") from None
    if not isinstance(config, Language):
        raise CheckpointError(
            f"{folder} holds a network for pictures alone ({type(config).__name__.removesuffix('Config')}); polytask "
            "show says what it is for, and draw, edit or classify --image ask it."
        )
    return config, about


def fingerprint(folder: Path) -> str:
    """SHA-256 over all that decides what the model of a folder answers, in hex."""
    if (folder / "checksums.json").is_file():
        return sha256(folder / "checksums.json")
    parts = ("*.safetensors", "tokenizer*", f"{picture_tokenizer.FOLDER}/*")
    files = [folder / "config.json", *(file for part in parts for file in sorted(folder.glob(part)))]
    sums = {str(file.relative_to(folder)): sha256(file) for file in files}
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def read_weights(folder: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of model.safetensors, memory-mapped. Raises CheckpointError on a damaged file."""
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in (names or file.keys())}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / 'model.safetensors'} is damaged: {error}") from None


def load_network(folder: Folder, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The network of a folder with its weights, in evaluation mode."""
    if hf.is_folder(folder.path):
        return hf.load_network(folder.path, dtype, device, config=folder.config)
    return filled(folder.path, folder.config).to(device, dtype).eval()


def filled(folder: Path, config: Part) -> Any:
    """The network of a configuration with the weights of a folder, as they are there."""
    with torch.device("meta"):
        network = build(config)
    tensors = read_weights(folder)
    wanted = network.state_dict()
    missing, odd = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    wrong = [name for name in wanted.keys() & tensors.keys() if wanted[name].shape != tensors[name].shape]
    if missing or odd or wrong:
        first = (missing or odd or wrong)[0]
        kind = "lacks" if missing else "has an unknown" if odd else "has another shape of"
        raise CheckpointError(f"{folder / 'model.safetensors'} {kind} {first}: it does not belong to its config.json.")
    network.load_state_dict(tensors, assign=True)  # pages of the file, which are read where they are first needed
    if fill := getattr(network, "fill_buffers", None):  # what no checkpoint holds
        fill()
    return network
