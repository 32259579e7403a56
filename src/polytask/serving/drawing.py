"""From what a client wants drawn to pictures, by a model of either kind."""

import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest

from polytask.errors import TaskError
from polytask.inference.drawing import show
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Request
from polytask.pictures import PictureModel
from polytask.pictures.embeddings import TURN, WAY
from polytask.serving.asking import answer, note, usage
from polytask.serving.opening import naming, opening, square
from polytask.serving.refusal import about
from polytask.serving.schema import Strict, expect
from polytask.serving.shelf import Served, ServedPictures
from polytask.serving.stream import while_there
from polytask.tasks import prompt
from polytask.tasks.picture import decode, erased, png

if TYPE_CHECKING:
    from PIL.Image import Image


class Diffusing(Strict):
    """How a model draws by diffusion, all of it polytask's own; what is not said is as the model's folder has it.

    candidates: of so many the best by the model's own CLIP come back. details, theta: of variations. resize: whether
    pictures and masks of another size are fitted.
    """

    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100)
    picture_guidance: float | None = Field(None, ge=0, le=100)
    sampler: str | None = Field(None, max_length=100)
    spacing: str | None = Field(None, max_length=100)
    eta: float | None = Field(None, ge=0, le=1)
    gamma: float | None = Field(None, ge=0, le=1)
    threshold: Literal["static", "dynamic", "none"] | None = None
    percentile: float | None = Field(None, gt=0, le=1)
    prior_steps: int | None = Field(None, ge=1, le=256)  # the prior's run cannot be ended by whoever hangs up
    prior_guidance: float | None = Field(None, ge=0, le=100)
    prior_candidates: int | None = Field(None, ge=1, le=8)
    augmentation: float | Annotated[list[float], Field(max_length=8)] | Annotated[str, Field(max_length=40)] | None = (
        None
    )
    candidates: int | None = Field(None, ge=1, le=64)
    details: bool | None = None
    theta: float | None = Field(None, ge=0, le=1)
    resize: bool | None = None

    def said(self, *names: str) -> dict[str, Any]:
        """Those of the fields that a request has."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


DIFFUSION = tuple(name for name in Diffusing.model_fields if name != "resize")
VARYING = ("details", "theta")
DIALS = tuple(name for name in DIFFUSION if name not in ("candidates", *VARYING))  # fields of `Drawing`


def chosen(seed: int | None) -> int:
    """The seed that is wanted, or one by chance."""
    return secrets.randbelow(2**32) if seed is None else seed


@dataclass(frozen=True)
class Asked:
    """What is to be drawn, changed or varied: files as they came. where: what holds the files in the body; said: the
    field of the prompt. towards: of variations, what they go to; before, after: captions, from the one to the other.
    """

    prompt: str = ""
    image: bytes = b""
    mask: bytes | None = None
    towards: bytes | None = None
    before: str | None = None
    after: str | None = None
    where: str = ""
    said: str = "prompt"

    @property
    def usual(self) -> int:
        """Pictures, unless said."""
        return WAY if self.towards is not None else TURN if self.after is not None else 1


@dataclass(frozen=True)
class Drawn:
    """Pictures as PNGs, and where a model draws by tokens how many it took, as the OpenAI API has them."""

    pictures: list[bytes]
    usage: dict[str, Any] | None = None


async def paint(
    http: HttpRequest, served: ServedPictures, task: str, asked: Asked, body: Diffusing, n: int | None, seed: int | None
) -> Drawn:  # fmt: skip
    """Pictures by diffusion. Raises Refusal, ConfigError, TooLong and SamplingError."""
    _expect_possible(served, task, asked, body)
    dials = body.said(*DIALS) | {"n": n or asked.usual, "seed": chosen(seed)}
    served.model.wish(dials)
    pictures = _count(served, body, dials)

    async def drawn() -> list[bytes]:
        ask = await opening(lambda: _asking(served.model, task, asked, body, dials))
        with about(asked.said if asked.after is None else f"{asked.where}to"):
            return [png(picture) for picture in await served.worker.paint(ask, pictures)]

    found = await while_there(http, drawn())
    note(http, pictures=len(found))
    return Drawn(found)


def _expect_possible(served: ServedPictures, task: str, asked: Asked, body: Diffusing) -> None:
    """Raises Refusal for what goes with another task, another model or another field."""
    drawn = task != "variations" and not served.model.config.changes
    expect(body.candidates is None or drawn, "'candidates': the best of many is chosen by how it fits a caption, which "
           "nothing here is; leave it out.", "candidates")  # fmt: skip
    expect(body.candidates is None or served.model.painter.matcher is not None,
           f"'candidates': '{served.name}' holds no CLIP to choose by; leave it out.", "candidates")  # fmt: skip
    for name in VARYING:
        expect(getattr(body, name) is None or task == "variations", f"'{name}' is of variations; leave it out.", name)
    captions = {"from": asked.before, "to": asked.after}
    for name, other in (("from", "to"), ("to", "from")):
        lacks = captions[name] is not None and captions[other] is None
        expect(not lacks, f"'{asked.where}{name}' goes with 'to' another caption, 'from' which it turns; say both.",
               f"{asked.where}{other}", None)  # fmt: skip
    expect(asked.towards is None or asked.after is None, f"'{asked.where}towards' a picture and 'to' a caption exclude "
           "each other; say one.", f"{asked.where}towards", None)  # fmt: skip
    expect(body.theta is None or asked.after is not None, "'theta' says how far to turn 'from' a caption 'to' another; "
           "say both, or leave it out.", "theta", None)  # fmt: skip


def _count(served: ServedPictures, body: Diffusing, dials: Mapping[str, Any]) -> int:
    """Pictures that a request takes of the queue: all that are drawn, or enlarged, until some of them come back. Raises
    Refusal where they are more than could ever run."""
    n, tries = dials["n"], served.model.painter.tries(dials)
    expect(body.candidates is None or body.candidates >= n, f"'candidates': of fewer than n={n} pictures not so many "
           "can come back.", "candidates", None)  # fmt: skip
    expect(tries == 1 or served.model.painter.matcher is not None, f"'augmentation': '{served.name}' holds no CLIP to "
           "choose a level by; name a single one.", "augmentation")  # fmt: skip
    count, most = (body.candidates or n) * tries, served.worker.limit
    name = "candidates" if body.candidates else "augmentation"
    expect(count == n or count <= most, f"'{name}': {count} pictures would be drawn, and {most} is the most that this "
           "server draws at once; ask for fewer.", name, None)  # fmt: skip
    return count


def _asking(
    served: PictureModel, task: str, asked: Asked, body: Diffusing, dials: Mapping[str, Any]
) -> "Callable[[PictureModel], list[Image]]":
    """What a model is asked, with pictures of its own size. Raises Refusal."""
    fit = body.resize is True or (task == "variations" and body.resize is None)
    dials = {**dials, **body.said("candidates")}

    def opened(data: bytes, field: str) -> "Image":
        with naming(f"{asked.where}{field}"):
            return square(decode(data), served.side, fit)

    if task == "drawing":
        return lambda model: model.draw(asked.prompt, **dials)
    image = opened(asked.image, "image")
    if task == "variations":
        return _varying(image, None if asked.towards is None else opened(asked.towards, "towards"), asked, body, dials)
    if served.config.changes and asked.mask is None:
        return lambda model: model.edit(image, asked.prompt, **dials)
    source, data = ("image", asked.image) if asked.mask is None else ("mask", asked.mask)
    with naming(f"{asked.where}{source}"):
        mask = square(_erased(data), served.side, fit)
    return lambda model: model.edit(image, asked.prompt, mask, **dials)


def _erased(data: bytes) -> "Image":
    """What is to be drawn anew, white on black. Raises TaskError where that is nothing."""
    mask = erased(data)
    if mask is None or mask.point([255 * (alpha > 127) for alpha in range(256)]).getbbox() is None:
        raise TaskError(
            "Nothing is transparent, and what is to be drawn anew must be, in the mask or in the picture itself; a "
            "mask in black and white, as Python and the command line take it, has to be made transparent where it is "
            "white."
        )
    return mask


def _varying(
    image: "Image", other: "Image | None", asked: Asked, body: Diffusing, dials: Mapping[str, Any]
) -> "Callable[[PictureModel], list[Image]]":
    own = {**dials, **body.said(*VARYING)}
    before, after = asked.before, asked.after
    if other is not None:
        return lambda model: model.interpolate(image, other, **own)
    if before is not None and after is not None:
        return lambda model: model.difference(image, before, after, **own)
    return lambda model: model.variations(image, **own)


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
