"""The walls of the house: which room may import which, how long files and functions may be, what is never installed."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "polytask"
LEVELS = {
    "errors": -1, "registry": 0, "runtime": 0,
    "nn": 1, "diffusion": 1, "tasks": 1, "blocksworld": 1,
    "models": 2,
    "tokenizers": 3,
    "inference": 4, "data": 4, "interop": 4, "retrieval": 4,
    "training": 5,
    "evaluation": 6, "explain": 6, "plan": 6,
    "systems": 7, "audit": 7,
    "model": 8, "pictures": 8, "recipe": 8,
    "run": 9, "serving": 9,
    "cli": 10,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("polytask.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_arrows_point_down(path):
    if path.parent == ROOT and path.name in ("__init__.py", "__main__.py"):
        return  # the public face names everything, lazily
    here = room(path)
    assert here in LEVELS, f"{here} is a room without a level"
    for other in imported_rooms(ast.parse(path.read_text())) - {here}:
        assert LEVELS[other] < LEVELS[here], f"{here} (level {LEVELS[here]}) imports {other} (level {LEVELS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 400, "look for the second subject in this file"
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_nothing_unpickles():
    for path in FILES:
        for word in ("pickle.load", "torch.load(", "numpy.load(", "allow_pickle=True"):
            assert word not in path.read_text(), f"{path.name} uses {word}"


def test_cuda_builds_of_torchvision_are_absent():
    """They install beside a CPU torch and break whatever imports them."""
    assert find_spec("torchvision") is None
    assert find_spec("torchaudio") is None
