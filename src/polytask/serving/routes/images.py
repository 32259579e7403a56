"""/v1/images: pictures from texts, changed, and in other ways."""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.sampling import Sampling
from polytask.pictures import Drawing
from polytask.serving.asking import able, note_prompt, now
from polytask.serving.drawing import Drawn, b64, draw, opening, paint
from polytask.serving.multipart import KIND, form
from polytask.serving.refusal import Json
from polytask.serving.schema import Named, expect
from polytask.serving.shelf import Served, ServedPictures, Shelved
from polytask.tasks.picture import erased

router = APIRouter()
MOST = 10  # pictures of a request, as the OpenAI API has it
DIFFUSION = ("steps", "guidance", "sampler", "threshold")
TOKENS = ("temperature", "top_k")


class PictureBody(Named):
    """How pictures are drawn; what comes after `moderation` is polytask's own."""

    n: int | None = Field(None, ge=1, le=MOST)
    size: str | None = Field(None, max_length=20)
    response_format: Literal["b64_json", "url"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    output_format: Literal["png"] | None = None
    moderation: Literal["auto", "low"] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100)
    sampler: str | None = Field(None, max_length=100)
    threshold: str | None = Field(None, max_length=100)
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=0, lt=2**31)


class GenerationBody(PictureBody):
    """A text that says what is to be drawn, or a label of a model that draws by label."""

    prompt: str


class VariationBody(PictureBody):
    """A picture that is to be drawn in other ways. resize: whether one of another size is fitted."""

    image: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]
    resize: bool | None = None


class EditBody(VariationBody):
    """A picture that is to be changed. mask: transparent where it is to be drawn anew."""

    prompt: str
    mask: Annotated[bytes | None, Field(json_schema_extra={"format": "binary"})] = None


def _as_form(body: type[PictureBody]) -> dict[str, Any]:
    schema = {"schema": body.model_json_schema()}
    return {"requestBody": {"required": True, "content": {KIND: schema}}}


@router.post("/v1/images/generations")
async def generations(http: HttpRequest, body: GenerationBody) -> Response:
    """Pictures of what the prompt says."""
    served = able(http, body.model, "drawing", "draws pictures")
    note_prompt(http, body.prompt)
    _expect_possible(served, body)
    if isinstance(served, ServedPictures):
        wish = _wish(body)
        drawn = await paint(http, served, lambda: served.model.drawing([body.prompt], wish), wish.n)
        return _answer(served, drawn, wish.seed)
    assert isinstance(served, Served)
    sampling = _sampling(served, body, "drawing")
    return _answer(served, await draw(http, served, "drawing", {"caption": body.prompt}, sampling), sampling.seed)


@router.post("/v1/images/edits", openapi_extra=_as_form(EditBody))
async def edits(http: HttpRequest) -> Response:
    """A picture changed: where a mask is transparent so that the whole fits the prompt, or as the prompt says."""
    body = await _read(http, EditBody)
    served = able(http, body.model, "editing", "edits pictures")
    note_prompt(http, body.prompt)
    _expect_possible(served, body)
    if isinstance(served, ServedPictures):
        mask = await opening(lambda: erased(body.image if body.mask is None else body.mask))
        expect(mask is not None, "'mask': nothing is transparent; what is to be drawn anew must be, in 'mask' or in "
               "'image'.", "mask", None)  # fmt: skip
        wish, model, resize = _wish(body), served.model, bool(body.resize)
        drawn = await paint(http, served, lambda: model.editing(body.image, body.prompt, mask, wish, resize), wish.n)
        return _answer(served, drawn, wish.seed)
    assert isinstance(served, Served)
    expect(body.mask is None, f"'mask': '{served.name}' changes pictures as the prompt says; leave it out.", "mask")
    sampling = _sampling(served, body, "editing")
    example = {"image": body.image, "instruction": body.prompt}
    return _answer(served, await draw(http, served, "editing", example, sampling), sampling.seed)


@router.post("/v1/images/variations", openapi_extra=_as_form(VariationBody))
async def variations(http: HttpRequest) -> Response:
    """Pictures that show the same in other ways."""
    body = await _read(http, VariationBody)
    served = able(http, body.model, "variations", "draws variations of pictures")
    assert isinstance(served, ServedPictures)
    _expect_possible(served, body)
    wish, resize = _wish(body), body.resize is not False
    drawn = await paint(http, served, lambda: served.model.varying(body.image, wish, resize), wish.n)
    return _answer(served, drawn, wish.seed)


B = TypeVar("B", bound=PictureBody)


async def _read(http: HttpRequest, body: type[B]) -> B:
    """A form as a body. Raises Refusal, and RequestValidationError for what a field cannot hold."""
    texts, files = await form(http)
    for name, several in files.items():
        expect(len(several) == 1, f"'{name[:100]}': {len(several)} files came; this server takes one.", name[:100])
    given: Mapping[str, Any] = texts | {name: several[0] for name, several in files.items()}
    try:
        return body.model_validate(given, strict=False)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found, body=given) from None


def _expect_possible(served: Shelved, body: PictureBody) -> None:
    """Raises Refusal for what this server, or this model, cannot do."""
    expect(body.response_format != "url", "'response_format': this server keeps no pictures and so has no addresses of "
           "them; ask for 'b64_json'.", "response_format")  # fmt: skip
    own = f"{served.about['pixels']}x{served.about['pixels']}"
    fits = body.size in (None, "auto", own)
    expect(fits, f"'size': '{served.name}' draws pictures of {own} and no others; leave it out.", "size")
    foreign, way = (TOKENS, "by diffusion") if isinstance(served, ServedPictures) else (DIFFUSION, "token by token")
    for name in foreign:
        expect(getattr(body, name) is None, f"'{name}': '{served.name}' draws {way}; leave it out.", name)


def _seed(body: PictureBody) -> int:
    return secrets.randbelow(2**32) if body.seed is None else body.seed


def _wish(body: PictureBody) -> Drawing:
    """Raises ConfigError."""
    given = {name: value for name in DIFFUSION if (value := getattr(body, name)) is not None}
    if given.get("threshold") == "none":
        given["threshold"] = None
    return Drawing(n=body.n or 1, seed=_seed(body), **given)


def _sampling(served: Served, body: PictureBody, task: str) -> Sampling:
    given = {name: value for name in TOKENS if (value := getattr(body, name)) is not None}
    return served.model.sampling(task, **{"n": body.n or 1, "seed": _seed(body), "temperature": 1.0, **given})


def _answer(served: Shelved, drawn: Drawn, seed: int | None) -> Json:
    pixels = served.about["pixels"]
    return Json({
        "created": now(), "model": served.name, "size": f"{pixels}x{pixels}", "output_format": "png", "seed": seed,
        "data": [b64(picture) for picture in drawn.pictures], "usage": drawn.usage and _usage(served, drawn.usage),
    })  # fmt: skip


def _usage(served: Shelved, total: Mapping[str, int]) -> dict[str, Any]:
    return {
        "input_tokens": total["prompt_tokens"], "output_tokens": total["completion_tokens"],
        "total_tokens": total["total_tokens"],
        "input_tokens_details": {"text_tokens": total["prompt_tokens"], "image_tokens": 0},
    }  # fmt: skip
