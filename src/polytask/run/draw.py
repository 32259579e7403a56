"""polytask draw, edit, variations: pictures into a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import ConfigError
from polytask.interop import networks
from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.tasks.picture import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET = 256  # pixels that a picture takes on a contact sheet, about


def open_drawing(path: str, **words: Any) -> Model | PictureModel:
    """The model of a folder that draws, by diffusion or token by token.

    Raises CheckpointError, and ConfigError where it is one that writes alone.
    """
    runtime.prepare()
    if networks.is_drawing(path):
        return PictureModel.load(path, **words)
    model = Model.load(path, **words)
    if "drawing" not in model.able:
        raise ConfigError(f"{path} holds a model that draws no pictures; name another one.")
    return model


def draw(model: str, prompt: str, out: Path, loading: Mapping[str, Any], dials: Mapping[str, Any]) -> list[Path]:
    """Draws a caption or a label into PNGs, and a contact sheet where there are several; the files."""
    place = _place(out)
    return write(open_drawing(model, **loading).draw(prompt, **dials), place)


def edit(
    model: str, picture: Path, prompt: str, mask: Path | None, resize: bool, out: Path, loading: Mapping[str, Any],
    dials: Mapping[str, Any],
) -> list[Path]:  # fmt: skip
    place, opened = _place(out), open_drawing(model, **loading)
    if isinstance(opened, PictureModel):
        return write(opened.edit(picture, prompt, mask, resize=resize, **dials), place)
    if mask is not None:
        raise ConfigError(f"--mask: {model} changes a whole picture as the instruction says; leave the mask out.")
    return write(opened.edit(picture, prompt, **dials), place)


@dataclass(frozen=True)
class Wanted:
    """Which variations: those of one picture, those on the way to another, or those that turn from what one caption
    says to what another does. Raises ConfigError where these are mixed."""

    towards: Path | None = None
    before: str | None = None
    after: str | None = None
    theta: float | None = None

    def __post_init__(self) -> None:
        if (self.before is None) != (self.after is None):
            raise ConfigError("--from and --to go together: what a caption says now, and what it shall say.")
        if self.towards is not None and self.before is not None:
            raise ConfigError("--towards a picture and --from a caption --to another exclude each other.")
        if self.theta is not None and self.before is None:
            raise ConfigError("--theta is of --from and --to: how far to go from the one caption to the other.")


def variations(
    model: str, picture: Path, wanted: Wanted, out: Path, loading: Mapping[str, Any], dials: Mapping[str, Any]
) -> list[Path]:
    place, opened = _place(out), open_drawing(model, **loading)
    if not isinstance(opened, PictureModel):
        raise ConfigError(f"{model} draws token by token; variations need a model of system dalle2.")
    if wanted.towards is not None:
        return write(opened.interpolate(picture, wanted.towards, **dials), place)
    if wanted.before is not None and wanted.after is not None:
        far = {} if wanted.theta is None else {"theta": wanted.theta}
        return write(opened.difference(picture, wanted.before, wanted.after, **far, **dials), place)
    return write(opened.variations(picture, **dials), place)


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
