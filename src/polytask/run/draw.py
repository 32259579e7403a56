"""polytask draw, edit, variations: pictures into a folder."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.errors import ConfigError
from polytask.inference.dials import Drawing, expect_prompts
from polytask.interop import networks
from polytask.model import Model
from polytask.pictures import PictureModel
from polytask.tasks.picture import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

BY_TOKENS = ("temperature", "top_k", "upper", "rows", "resize")  # options of models that draw so
NUMBERED = re.compile(r"(?:sheet-\d+-)?(\d+)\.png", re.IGNORECASE)  # files of an earlier run
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


def _opened(path: str, prompt: str, loading: Mapping[str, Any], dials: Mapping[str, Any]) -> Model | PictureModel:
    """The model, which has all of the dials. Raises ConfigError."""
    expect_prompts([prompt])
    model = open_drawing(path, **loading)
    diffuses = isinstance(model, PictureModel)
    others = BY_TOKENS if diffuses else Drawing.__dataclass_fields__.keys() - {"n", "seed"}
    for name in dials:
        if name in others:
            way = "by diffusion" if diffuses else "token by token"
            raise ConfigError(
                f"--{name.replace('_', '-')}: {path} draws {way}, which has no such option; leave it out."
            )
    return model


def draw(model: str, prompt: str, out: Path, loading: Mapping[str, Any], dials: Mapping[str, Any]) -> list[Path]:
    """Draws a caption or a label into PNGs, and a contact sheet where there are several; the files."""
    place, opened = _place(out), _opened(model, prompt, loading, dials)
    return write(opened.draw(prompt, **dials), place)


def edit(
    model: str, picture: Path, prompt: str, mask: Path | None, resize: bool, out: Path, loading: Mapping[str, Any],
    dials: Mapping[str, Any],
) -> list[Path]:  # fmt: skip
    place, opened = _place(out), _opened(model, prompt, loading, dials)
    if isinstance(opened, PictureModel):
        return write(opened.edit(picture, prompt, mask, resize=resize, **dials), place)
    if mask is not None:
        raise ConfigError(f"--mask: {model} changes a whole picture as the instruction says; leave the mask out.")
    return write(opened.edit(picture, prompt, resize=resize, **dials), place)


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
    """The folder, which is made when there is something to put there. Raises ConfigError where it cannot be one."""
    there = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {out}: {there} is a file; name a folder for the pictures.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: nothing may be written in {there} (permission denied); name another folder.")
    return out


def write(pictures: "list[Image]", out: Path) -> list[Path]:
    """1.png, 2.png, ... and sheet-1-2.png, or the numbers behind those that are there; nothing is written over."""
    out.mkdir(parents=True, exist_ok=True)
    while True:  # until no other has taken one of the same numbers meanwhile
        found = [NUMBERED.fullmatch(name) for name in os.listdir(out)]
        first = 1 + max((int(match[1]) for match in found if match), default=0)
        made = {f"{number}.png": picture for number, picture in enumerate(pictures, first)}
        if len(pictures) > 1:
            sheet = contact_sheet(pictures, scale=max(1, SHEET // pictures[0].width))
            made[f"sheet-{first}-{first + len(pictures) - 1}.png"] = sheet
        if written := _written(made, out):
            return written


def _written(made: "Mapping[str, Image]", out: Path) -> list[Path]:
    """The files, or none of them where there is one already."""
    files: list[Path] = []
    for name, picture in made.items():
        try:
            with open(out / name, "xb") as file:
                files.append(out / name)
                picture.save(file, "PNG")
        except FileExistsError:
            for own in files:
                own.unlink()
            return []
    return files
