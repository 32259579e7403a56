"""The picture tokenizer of a model that reads or draws pictures token by token, in a folder within the model's:

config.json, model.safetensors   the autoencoder that makes codes of pictures
layout.json                      how texts and pictures lie among each other
grid.safetensors                 vectors of rows and columns of codes, which formats of others have no place for
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polytask.errors import CheckpointError
from polytask.nn.position import Grid, GridEmbedding
from polytask.tokenizers.text import TextTokenizer

FOLDER = "picture_tokenizer"
GRID = "grid.safetensors"


def write(model: Path, tokenizer: TextTokenizer) -> None:
    """Puts it into a model's folder, where the tokenizer has one."""
    from polytask.interop import networks  # which reads folders of models

    if tokenizer.drawing is None:
        return
    vocabulary = tokenizer.drawing.vocabulary
    networks.save(model / FOLDER, tokenizer.drawing.autoencoder)
    layout = {"text_length": vocabulary.special if vocabulary.padding else None}
    (model / FOLDER / "layout.json").write_text(json.dumps(layout))


def read(model: Path, tokenizer: TextTokenizer) -> TextTokenizer:
    """The tokenizer with that of a model's folder, where there is one. Raises CheckpointError."""
    from polytask.interop import networks

    folder = model / FOLDER
    if not folder.is_dir():
        return tokenizer
    try:
        layout = json.loads((folder / "layout.json").read_text())
        return tokenizer.with_pictures(networks.load(folder, check=False), layout["text_length"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'layout.json'} does not say how pictures are laid out: {error}") from None


def write_grid(model: Path, grid: GridEmbedding) -> None:
    """Puts a network's vectors of rows and columns beside the picture tokenizer of its folder."""
    part = {name: str(getattr(grid.part, name)) for name in ("first", "height", "width")}
    save_file({"weight": grid.weight.detach().contiguous()}, model / FOLDER / GRID, metadata=part)


def read_grid(model: Path) -> tuple[Grid, Tensor] | None:
    """What `write_grid` put there, None where it did not. Raises CheckpointError."""
    file = model / FOLDER / GRID
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            part = {name: int(value) for name, value in opened.metadata().items() if name != "format"}
            return Grid(**part), opened.get_tensor("weight")
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{file} holds no vectors of rows and columns ({error}); copy it again.") from None
