"""From what a client wants drawn to pictures, by a model of either kind."""

import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest

from polytask.diffusion.samplers import SAMPLERS
from polytask.errors import ConfigError, TaskError
from polytask.inference.drawing import show
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Request
from polytask.pictures import Drawing, PictureModel
from polytask.serving.asking import answer, note, usage
from polytask.serving.opening import naming, opening, square
from polytask.serving.refusal import Refusal, about
from polytask.serving.schema import Strict
from polytask.serving.shelf import Served, ServedPictures
from polytask.serving.stream import while_there
from polytask.tasks import prompt
from polytask.tasks.picture import decode, erased, png

if TYPE_CHECKING:
    from PIL.Image import Image


class Diffusing(Strict):
    """How a model draws by diffusion, all of it polytask's own. resize: whether pictures and masks of another size are
    fitted."""

    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100)
    picture_guidance: float | None = Field(None, ge=0, le=100)
    sampler: str | None = Field(None, max_length=100)
    threshold: Literal["static", "dynamic", "none"] | None = None
    resize: bool | None = None

    def wish(self, n: int | None, seed: int | None) -> Drawing:
        """Raises Refusal for a sampler that there is not, with the nearest."""
        given = {name: value for name in DIFFUSION if (value := getattr(self, name)) is not None}
        if self.sampler is not None:
            try:
                SAMPLERS.get(self.sampler)
            except ConfigError as error:
                raise Refusal(400, f"'sampler': {error}", param="sampler") from None
        if self.threshold == "none":
            given["threshold"] = None
        return Drawing(n=n or 1, seed=chosen(seed), **given)


DIFFUSION = ("steps", "guidance", "picture_guidance", "sampler", "threshold")


def chosen(seed: int | None) -> int:
    """The seed that is wanted, or one by chance."""
    return secrets.randbelow(2**32) if seed is None else seed


@dataclass(frozen=True)
class Asked:
    """What is to be drawn, changed or varied: files as they came. where: what holds `image` and `mask` in the body;
    said: the field of the prompt."""

    prompt: str = ""
    image: bytes = b""
    mask: bytes | None = None
    where: str = ""
    said: str = "prompt"


@dataclass(frozen=True)
class Drawn:
    """Pictures as PNGs, and where a model draws by tokens how many it took, as the OpenAI API has them."""

    pictures: list[bytes]
    usage: dict[str, Any] | None = None


async def paint(
    http: HttpRequest, served: ServedPictures, task: str, asked: Asked, wish: Drawing, resize: bool | None
) -> Drawn:  # fmt: skip
    """Pictures by diffusion. Raises Refusal, ConfigError, TooLong and SamplingError."""

    if wish.picture_guidance is not None and not served.model.config.changes:
        said = f"'picture_guidance': '{served.name}' follows no instructions; leave it out."
        raise Refusal(400, said, param="picture_guidance")

    async def drawn() -> list[bytes]:
        ask = await opening(lambda: _asking(served.model, task, asked, wish, resize))
        with about(asked.said):
            pictures = await served.worker.paint(ask, wish.n)
        return [png(picture) for picture in pictures]

    found = await while_there(http, drawn())
    note(http, pictures=len(found))
    return Drawn(found)


def _asking(
    served: PictureModel, task: str, asked: Asked, wish: Drawing, resize: bool | None
) -> "Callable[[PictureModel], list[Image]]":
    """What a model is asked, with pictures of its own size. Raises Refusal."""
    dials, side = vars(wish), served.side
    if task == "drawing":
        return lambda model: model.draw(asked.prompt, **dials)
    with naming(f"{asked.where}image"):
        image = square(decode(asked.image), side, resize is True or (task == "variations" and resize is None))
    if task == "variations":
        return lambda model: model.variations(image, **dials)
    if served.config.changes and asked.mask is None:
        return lambda model: model.edit(image, asked.prompt, **dials)
    source, data = ("image", asked.image) if asked.mask is None else ("mask", asked.mask)
    with naming(f"{asked.where}{source}"):
        mask = erased(data)
        if mask is None or mask.point([255 * (alpha > 127) for alpha in range(256)]).getbbox() is None:
            raise TaskError(
                "Nothing is transparent, and what is to be drawn anew must be, in the mask or in the picture itself."
            )
        mask = square(mask, side, resize is True)
    return lambda model: model.edit(image, asked.prompt, mask, **dials)


async def draw(
    http: HttpRequest, served: Served, task: str, example: Mapping[str, Any], sampling: Sampling
) -> Drawn:  # fmt: skip
    """Pictures of a task that draws, token by token. Raises Refusal."""

    def build() -> list[Request]:
        with about("prompt"):
            return [served.model.request(prompt(served.model.task(task), example), sampling)]

    requests, completions = await answer(http, served, build)
    await finish(http, served, completions)
    return Drawn([one.picture for one in completions if one.picture is not None], _usage(served, requests, completions))


async def finish(http: HttpRequest, served: Served, completions: list[Completion]) -> None:
    """Gives completions that are pictures what they show."""
    pictures = served.model.tokenizer.drawing
    assert pictures is not None  # else the request was refused
    await served.worker.call(lambda: show(completions, pictures))
    drawn = sum(one.picture is not None for one in completions)
    served.worker.meter.drew(drawn)
    note(http, pictures=drawn)


def _usage(served: Served, requests: list[Request], completions: list[Completion]) -> dict[str, Any]:
    total, pictures = usage(requests, completions), served.model.tokenizer.drawing
    assert pictures is not None
    seen = sum(i >= pictures.vocabulary.first for request in requests for i in request.ids)
    return {
        "input_tokens": total["prompt_tokens"], "output_tokens": total["completion_tokens"],
        "total_tokens": total["total_tokens"],
        "input_tokens_details": {"text_tokens": total["prompt_tokens"] - seen, "image_tokens": seen},
    }  # fmt: skip


def b64(picture: bytes) -> dict[str, str]:
    """A picture as the OpenAI API sends it."""
    return {"b64_json": b64encode(picture).decode()}
