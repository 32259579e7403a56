"""/v1/images: pictures from texts, changed, and in other ways."""

from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.dials import expect_prompts
from polytask.serving.asking import able, note_prompt, now
from polytask.serving.drawing import DIFFUSION, Asked, Diffusing, Drawn, b64, chosen, draw, paint
from polytask.serving.multipart import KIND, form
from polytask.serving.opening import naming, opening, square
from polytask.serving.refusal import Json, about
from polytask.serving.schema import MOST, Named, expect
from polytask.serving.shelf import Served, ServedPictures, Shelved
from polytask.tasks.picture import decode, png

router = APIRouter()
TOKENS = ("temperature", "top_k")
File = Annotated[bytes, Field(json_schema_extra={"format": "binary"})]


class PictureBody(Named, Diffusing):
    """How pictures are drawn; `seed` and the dials are polytask's own."""

    n: int | None = Field(None, ge=1, le=MOST)
    size: str | None = Field(None, max_length=20)
    response_format: Literal["b64_json", "url"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    moderation: Literal["auto", "low"] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=0, lt=2**31)


class GenerationBody(PictureBody):
    """A text that says what is to be drawn, or a label of a model that draws by label."""

    prompt: str = Field(min_length=1)


class VariationBody(PictureBody):
    """A picture that is to be drawn in other ways, on the way `towards` another one, or turned by what a caption says,
    `from` one `to` another; all but `image` is polytask's own."""

    image: File
    towards: File | None = None
    before: str | None = Field(None, alias="from")
    after: str | None = Field(None, alias="to", min_length=1)


class EditBody(PictureBody):
    """A picture that is to be changed. mask: transparent where it is to be drawn anew."""

    image: File
    prompt: str = Field(min_length=1)
    mask: File | None = None


def _as_form(body: type[PictureBody]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {KIND: {"schema": body.model_json_schema()}}}}


@router.post("/v1/images/generations")
async def generations(http: HttpRequest, body: GenerationBody) -> Response:
    """Pictures of what the prompt says."""
    served = able(http, body.model, "drawing", "draws pictures")
    return await _drawn(http, served, "drawing", body, Asked(body.prompt))


@router.post("/v1/images/edits", openapi_extra=_as_form(EditBody))
async def edits(http: HttpRequest) -> Response:
    """A picture changed: where a mask is transparent so that the whole fits the prompt, or as the prompt says."""
    body = await _read(http, EditBody)
    served = able(http, body.model, "editing", "edits pictures")
    return await _drawn(http, served, "editing", body, Asked(body.prompt, body.image, body.mask))


@router.post("/v1/images/variations", openapi_extra=_as_form(VariationBody))
async def variations(http: HttpRequest) -> Response:
    """Pictures that show the same in other ways."""
    body = await _read(http, VariationBody)
    served = able(http, body.model, "variations", "draws variations of pictures")
    asked = Asked(image=body.image, towards=body.towards, before=body.before, after=body.after)
    return await _drawn(http, served, "variations", body, asked)


B = TypeVar("B", bound=PictureBody)


async def _read(http: HttpRequest, body: type[B]) -> B:
    """A form as a body. Raises Refusal, and RequestValidationError for what a field cannot hold."""
    texts, files = await form(http)
    for name, several in files.items():
        expect(len(several) == 1, f"'{name[:100]}': {len(several)} files came; this server takes one.", name[:100])
    given: dict[str, Any] = {**texts, **{name: several[0] for name, several in files.items()}}
    try:
        return body.model_validate(given, strict=False)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found, body=given) from None


async def _drawn(http: HttpRequest, served: Shelved, task: str, body: PictureBody, asked: Asked) -> Response:
    """The answer to all three. Raises Refusal, ConfigError, TooLong and SamplingError."""
    note_prompt(http, asked.prompt)
    pixels = served.about["pixels"]
    _expect_possible(served, body, f"{pixels}x{pixels}")
    seed = chosen(body.seed)
    if isinstance(served, ServedPictures):
        drawn = await paint(http, served, task, asked, body, body.n, seed)
    else:
        assert isinstance(served, Served)
        drawn = await _by_tokens(http, served, task, body, asked, seed)
    return Json({
        "created": now(), "model": served.name, "size": f"{pixels}x{pixels}", "output_format": "png", "seed": seed,
        "data": [b64(picture) for picture in drawn.pictures], "usage": drawn.usage,
    })  # fmt: skip


async def _by_tokens(
    http: HttpRequest, served: Served, task: str, body: PictureBody, asked: Asked, seed: int
) -> Drawn:  # fmt: skip
    expect(asked.mask is None, f"'mask': '{served.name}' changes pictures as the prompt says; leave it out.", "mask")
    with about("prompt"):
        expect_prompts([asked.prompt])
    given = {name: value for name in TOKENS if (value := getattr(body, name)) is not None}
    sampling = served.model.sampling(task, **{"n": body.n or 1, "seed": seed, "temperature": 1.0, **given})
    served.expect_short(asked.prompt)
    example: dict[str, Any] = {"caption": asked.prompt}
    if task == "editing":
        image = await opening(lambda: _sized(served, asked.image, body.resize is True))
        example = {"image": image, "instruction": asked.prompt}
    return await draw(http, served, task, example, sampling)


def _sized(served: Served, image: bytes, resize: bool) -> bytes:
    """The file of a picture as large as those that a model draws. Raises Refusal."""
    with naming("image"):
        return png(square(decode(image), served.about["pixels"], resize))


def _expect_possible(served: Shelved, body: PictureBody, size: str) -> None:
    """Raises Refusal for what this server, or this model, cannot do."""
    expect(body.response_format != "url", "'response_format': this server keeps no pictures and so has no addresses of "
           "them; ask for 'b64_json'.", "response_format")  # fmt: skip
    fits = body.size in (None, "auto", size)
    expect(fits, f"'size': '{served.name}' draws pictures of {size} and no others; leave it out.", "size")
    foreign, way = (TOKENS, "by diffusion") if isinstance(served, ServedPictures) else (DIFFUSION, "token by token")
    for name in foreign:
        expect(getattr(body, name) is None, f"'{name}': '{served.name}' draws {way}; leave it out.", name)
