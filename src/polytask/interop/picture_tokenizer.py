"""The picture tokenizer of a model that reads or draws pictures token by token, in a folder within the model's:

config.json, model.safetensors   the autoencoder that makes codes of pictures
layout.json                      how texts and pictures lie among each other
"""

import json
from pathlib import Path

from polytask.errors import CheckpointError
from polytask.tokenizers.text import TextTokenizer

FOLDER = "picture_tokenizer"


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
