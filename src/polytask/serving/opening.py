"""Pictures that clients send: out of texts, and small before anything keeps them."""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from polytask.errors import TaskError, TooLong
from polytask.serving.refusal import Refusal
from polytask.serving.shelf import Served
from polytask.tasks.picture import decode, fitted, png

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="pictures")  # what is small as a file may be large when it is open


async def opening(function: Callable[[], T]) -> T:
    """What a function gives that opens pictures of clients, few at once, so that they take little memory together."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function)


def sent(value: Any, param: str) -> bytes:
    """The file in a data URL, or in bare base64. Raises Refusal; addresses are not asked."""
    if value == "":
        raise Refusal(400, f"'{param}': the picture is empty.", param=param)
    if not isinstance(value, str):
        raise Refusal(400, f"'{param}': a picture is sent as a data URL (data:image/png;base64,...).", param=param)
    if "://" in value[:20]:
        raise Refusal(400, f"'{param}': this server fetches nothing; send the picture itself as a data URL "
                           "(data:image/png;base64,...).", param=param, code="unsupported_value")  # fmt: skip
    head, comma, rest = value.partition(",")
    try:
        if comma and not (head.startswith("data:") and head.endswith(";base64")):
            raise binascii.Error
        return base64.b64decode(rest if comma else value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"'{param}': this is no data URL in base64 (data:image/png;base64,...).",
                      param=param) from None  # fmt: skip


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Mistakes with a picture become a Refusal that names its field."""
    try:
        yield
    except TaskError as error:
        raise Refusal(400, f"'{param}': {error}", param=param) from None


def square(image: "Image", side: int, resize: bool) -> "Image":
    """The picture at side x side pixels. Raises TaskError where it has others and may not be resized."""
    if image.size != (side, side) and not resize:
        raise TaskError(
            f"It has {image.width} x {image.height} pixels and the model draws {side} x {side}; send one of that size, "
            "or 'resize': true."
        )
    return fitted(image, side)


def expect_side(data: bytes, side: int, param: str) -> None:
    """Raises Refusal for a picture of another size than side x side pixels."""
    with naming(param):
        square(decode(data), side, False)


async def small(served: Served, found: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Pictures, each with the field that it is in, as PNGs of the size that a model reads. Raises Refusal where one is
    broken or the model reads none, and TooLong."""
    pictures = served.model.tokenizer.pictures
    if not found:
        return []
    if pictures is None:
        raise Refusal(400, f"'{found[0][0]}': '{served.name}' reads texts alone, and this is a picture; ask a model "
                           "for pictures.", param=found[0][0], code="unsupported_value")  # fmt: skip
    if (size := len(found) * pictures.vocabulary.tokens) > served.model.config.context_length:
        raise TooLong(
            f"{len(found)} pictures have {size} tokens, but this model reads {served.model.config.context_length}; "
            "send fewer."
        )
    return await opening(lambda: [shrunk(data, pictures.size, param) for param, data in found])


def shrunk(data: bytes, side: int, param: str) -> bytes:
    """The picture as a PNG of side x side pixels, cut to a square. Raises Refusal where it is broken."""
    with naming(param):
        return png(fitted(decode(data), side))
