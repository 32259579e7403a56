"""Pictures at the border: files become PIL images in RGB, those become tensors, and back.

An example of a task holds a picture as the bytes of its file. `encoded` makes such bytes of whatever a user has,
`decode` is the only place that reads them.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NewType, TypeVar

from polytask.errors import TaskError
from polytask.registry import nearest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")
Picture = NewType("Picture", bytes)
"""The type of a task's field that holds a picture."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that runs another program, as EPS does
MOST_PIXELS = 50_000_000  # a file of few bytes can unpack to any number
FITS = ("crop", "pad", "stretch")
Fit = Literal["crop", "pad", "stretch"]


def decode(data: bytes) -> "Image":
    """The picture in RGB: alpha over white, 16 bits scaled to 8, CMYK and palettes converted, of an animation the first
    frame, turned as its EXIF says.

    Raises TaskError where it is broken, of no known format, of zero size, or of more than MOST_PIXELS.
    """
    return _opened(data, _rgb)


def erased(data: bytes) -> "Image | None":
    """Where the picture is transparent, white on black; None where it has no transparency. Raises as `decode`."""
    return _opened(data, _transparency)


def _opened(data: bytes, converted: "Callable[[Image], T]") -> "T":
    from PIL import Image, ImageOps

    if not data:
        raise TaskError("The picture is empty: it has no bytes.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if not 0 < width * height <= MOST_PIXELS:
                limit = "one without any pixel cannot be read" if not width * height else f"{MOST_PIXELS:,} is the most"
                raise TaskError(f"The picture has {width} x {height} pixels; {limit}.")
            image.load()
            return converted(ImageOps.exif_transpose(image))
    except TaskError:
        raise
    except Image.UnidentifiedImageError:
        raise TaskError(f"This is no picture that is read; give one of {', '.join(FORMATS)}.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = next((f"{int(word):,}" for word in re.findall(r"\d+", str(error))), "too many")
        raise TaskError(f"The picture has {size} pixels; {MOST_PIXELS:,} is the most.") from None
    except Exception as error:  # a decoder raises whatever a broken file makes it stumble over
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise TaskError(f"The picture is broken and cannot be read ({reason}).") from None


def _rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if _has_alpha(image):
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return image.convert("RGB")


def _has_alpha(image: "Image") -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _transparency(image: "Image") -> "Image | None":
    from PIL import ImageOps

    return ImageOps.invert(image.convert("RGBA").getchannel("A")) if _has_alpha(image) else None


def _eight_bits(image: "Image") -> "Image":
    """Grey of 16 bits (modes I;16 and I), or of floats from 0 to 1 (mode F), as grey of 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 255 / 65535)
    return Image.fromarray(np.nan_to_num(values).clip(0, 255).round().astype(np.uint8))


def opened(value: Any) -> "Image":
    """`decode` of what `encoded` takes; what is wrong with a file says its path. Raises TaskError."""
    try:
        return decode(encoded(value))
    except TaskError as error:
        if isinstance(value, Path) and not str(error).startswith(str(value)):
            raise TaskError(f"{value}: {error}") from None
        raise


def encoded(value: Any) -> Picture:
    """The picture as bytes from bytes, a PIL image, a `pathlib.Path`, {"bytes": ...} or a "data:image/...;base64," URL.

    A path as a plain string is refused, for examples also come from strangers over the network: what they write must
    never open a file. Raises TaskError.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return Picture(bytes(value))
    if isinstance(value, Path):
        return read_file(value)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # as data sets in Parquet hold pictures
        return Picture(value["bytes"])
    if isinstance(value, str) and value.startswith("data:image/") and ";base64," in value[:64]:
        try:
            return Picture(base64.b64decode(value.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise TaskError(f"The picture's data URL is not base64 ({error}).") from None
    from PIL import Image

    if isinstance(value, Image.Image):
        return png(value)
    what = f"the text {value[:40]!r}" if isinstance(value, str) else type(value).__name__
    raise TaskError(f"A picture is its bytes, a PIL image, a pathlib.Path or a data URL in base64, not {what}.")


def at_home(value: Any) -> Any:
    """What a user of Python gives as a picture, for `encoded` and `opened`: a plain string is the path of a file,
    unless it is a data URL. Nothing that came over the network may pass here."""
    return Path(value) if isinstance(value, str) and not value.startswith("data:") else value


def exact(image: "Image", side: int, resize: bool, what: str = "picture") -> "Image":
    """The picture at side x side pixels. Raises TaskError where it has others and may not be resized."""
    if image.size != (side, side) and not resize:
        raise TaskError(
            f"The {what} has {image.width} x {image.height} pixels and the model draws {side} x {side}; say that it "
            "may be resized (resize=True, --resize), or give one of that size."
        )
    return fitted(image, side)


def read_file(path: str | Path) -> Picture:
    """The bytes of a picture's file. Raises TaskError where it cannot be read."""
    try:
        return Picture(Path(path).expanduser().read_bytes())
    except OSError as error:
        raise TaskError(f"{path}: the picture cannot be read ({error.strerror}).") from None


def png(image: "Image") -> Picture:
    """The bytes of the picture as a PNG, always the same for the same pixels."""
    if 0 in image.size:
        raise TaskError(f"The picture has {image.width} x {image.height} pixels; one without any cannot be used.")
    file = io.BytesIO()
    try:
        image.save(file, format="PNG")
    except OSError:  # a mode that PNG lacks
        _rgb(image).save(file, format="PNG")
    return Picture(file.getvalue())


def fitted(image: "Image", size: int | tuple[int, int], how: Fit = "crop") -> "Image":
    """The picture at `size` (width, height; one number: square), unchanged where it has that already.

    how     "crop" scales until it covers the size and cuts evenly from the sides that stand out, "pad" scales until it
            fits and puts white around it, "stretch" changes its proportions. Bicubic, smoothed where it shrinks.

    Raises TaskError for another word or a size below 1.
    """
    from PIL import Image, ImageOps

    wanted = (size, size) if isinstance(size, int) else tuple(size)
    if len(wanted) != 2 or min(wanted) < 1:
        raise TaskError(f"A picture's size is one or two numbers of pixels, 1 or more, not {size!r}.")
    if how not in FITS:
        raise TaskError(f"A picture is fitted by {', '.join(FITS)}, not by '{how}': {nearest(str(how), FITS)}")
    if image.size == wanted:
        return image
    if how == "crop":
        return ImageOps.fit(image, wanted, Image.Resampling.BICUBIC)
    if how == "pad":
        return ImageOps.pad(image, wanted, Image.Resampling.BICUBIC, color="white")
    return image.resize(wanted, Image.Resampling.BICUBIC)


def to_tensor(images: "Image | Sequence[Image]") -> "Tensor":
    """(3, H, W) float32 in [-1, 1] of one picture, (B, 3, H, W) of several of one size."""
    import numpy as np
    import torch

    if isinstance(images, Sequence):
        return torch.stack([to_tensor(image) for image in images])
    return scaled(torch.from_numpy(np.array(images.convert("RGB"))).permute(2, 0, 1))


def scaled(pixels: "Tensor") -> "Tensor":
    """float32 in [-1, 1] of uint8."""
    return pixels.float().div_(127.5).sub_(1.0)


def to_picture(pixels: "Tensor") -> "Image":
    """The picture of (3, H, W) in [-1, 1], or (1, H, W) of grey; what lies outside is cut off.

    Raises TaskError on NaN or another shape.
    """
    import torch
    from PIL import Image

    if pixels.dim() != 3 or pixels.shape[0] not in (1, 3):
        raise TaskError(f"A picture has 3 channels (or 1), rows and columns, not the shape {tuple(pixels.shape)}.")
    values = pixels.detach().float().cpu()
    if torch.isnan(values).any():
        raise TaskError("The pixels hold NaN, which no picture can show; the network or the sampling has diverged.")
    bytes_ = ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


def contact_sheet(pictures: "Sequence[Image]", columns: int | None = None, scale: int = 1, gap: int = 2) -> "Image":
    """The pictures in rows on white, each `scale` times as large; as wide as high unless `columns` says otherwise.

    Raises TaskError without any picture.
    """
    from math import ceil, sqrt

    from PIL import Image

    if not pictures:
        raise TaskError("A contact sheet needs at least one picture.")
    across = columns or ceil(sqrt(len(pictures)))
    width, height = (max(image.size[axis] for image in pictures) * scale + gap for axis in (0, 1))
    rows = ceil(len(pictures) / across)
    sheet = Image.new("RGB", (min(across, len(pictures)) * width + gap, rows * height + gap), "white")
    for number, image in enumerate(pictures):
        large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        sheet.paste(large, (number % across * width + gap, number // across * height + gap))
    return sheet
