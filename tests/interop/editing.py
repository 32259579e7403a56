"""Changes to copies of folders, and what is then expected of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polytask.errors import CheckpointError
from polytask.interop import hf
from polytask.interop.folder import read_folder
from tests.interop.families import case


def change(folder: Path, **words) -> None:
    file = folder / "config.json"
    old = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (old | words).items() if value is not ...}))


def tensors(folder: Path, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def same_weights(folder: Path, name: str) -> None:
    expected = hf.load_network(case(name).folder, torch.float64).state_dict()
    found = hf.load_network(folder, torch.float64).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def with_tokenizer(folder: Path, size: int = 90) -> Path:
    from tokenizers import Tokenizer, models

    pieces = ["<s>", "</s>", *(chr(33 + n) for n in range(size - 2))]
    made = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="!"))
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    return folder


def refused(folder: Path, *words: str, error=CheckpointError) -> None:
    with pytest.raises(error) as raised:
        hf.load_network(read_folder(with_tokenizer(folder)).path)
    said = str(raised.value)
    assert all(word in said for word in words), said
    assert said.count("\n") == 0
