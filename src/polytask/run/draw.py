"""polytask draw, edit, variations: pictures into a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import ConfigError
from polytask.interop import networks
from polytask.pictures import PictureModel
from polytask.tasks.picture import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET = 256  # pixels that a picture takes on a contact sheet, about


def open_drawing(path: str, **words: Any) -> PictureModel:
    """The model of a folder that draws. Raises CheckpointError, and ConfigError where it is one that writes."""
    runtime.prepare()
    if not networks.is_drawing(path):
        raise ConfigError(f"{path} holds a language model, which neither draws nor reads pictures; name another model.")
    return PictureModel.load(path, **words)


def draw(model: str, prompt: str, out: Path, loading: Mapping[str, Any], dials: Mapping[str, Any]) -> list[Path]:
    """Draws a caption or a label into PNGs, and a contact sheet where there are several; the files."""
    place = _place(out)
    return write(open_drawing(model, **loading).draw(prompt, **dials), place)


def edit(
    model: str, picture: Path, prompt: str, mask: Path | None, out: Path, loading: Mapping[str, Any],
    dials: Mapping[str, Any],
) -> list[Path]:  # fmt: skip
    place = _place(out)
    return write(open_drawing(model, **loading).edit(picture, prompt, mask, **dials), place)


def variations(
    model: str, picture: Path, out: Path, loading: Mapping[str, Any], dials: Mapping[str, Any]
) -> list[Path]:
    place = _place(out)
    return write(open_drawing(model, **loading).variations(picture, **dials), place)


def _place(out: Path) -> Path:
    """The folder, before anything is drawn. Raises ConfigError where it cannot be one."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder for the pictures.")
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(pictures: "list[Image]", out: Path) -> list[Path]:
    """1.png, 2.png, ... and sheet.png."""
    files = []
    for number, picture in enumerate(pictures, 1):
        files.append(out / f"{number}.png")
        picture.save(files[-1])
    if len(pictures) > 1:
        files.append(out / "sheet.png")
        contact_sheet(pictures, scale=max(1, SHEET // pictures[0].width)).save(files[-1])
    return files
