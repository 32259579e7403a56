"""/v1/embeddings: one vector for each text, and by a CLIP for each picture."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.errors import TooLong
from polytask.inference.matching import TOGETHER
from polytask.inference.reading import mean_states
from polytask.serving.asking import note, note_prompt
from polytask.serving.conversation import Message, Messages, Part, picture
from polytask.serving.opening import naming, opening
from polytask.serving.prompts import Prompt, expect_ids, prompts_of
from polytask.serving.refusal import Refusal, about, written
from polytask.serving.schema import Named, expect
from polytask.serving.shelf import Served, ServedMatcher, Shelf
from polytask.serving.stream import while_there
from polytask.tasks.picture import decode, fitted, to_tensor

router = APIRouter()
MOST = 2048  # inputs of one request, as the OpenAI API has it
Embedded = tuple[dict[int, np.ndarray], int]  # vectors by the places of their inputs, and tokens that were read


class EmbeddingBody(Named):
    """Texts, or ids of tokens; pictures as parts of a message have them. messages: in place of `input` one message with
    one text or picture, as vLLM has it."""

    input: Prompt | Annotated[list[str | Part], Field(min_length=1, fail_fast=True)] | None = None
    messages: Messages | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class Given:
    """An input: a text, ids of tokens, or the file of a picture; where: its field."""

    content: str | list[int] | bytes
    where: str


@router.post("/v1/embeddings")
async def embeddings(http: HttpRequest, body: EmbeddingBody) -> Response:
    """Vectors of length 1: of a CLIP its embeddings of texts and of pictures, which lie in one space; of a language
    model the mean of its final hidden states over each text."""
    inputs = _inputs(body)
    served = _find(http, body.model, inputs)
    expect(body.dimensions in (None, served.width), f"'dimensions': vectors of '{served.name}' have {served.width} "
           "numbers; leave it out.", "dimensions")  # fmt: skip
    note_prompt(http, ["[picture]" if isinstance(one.content, bytes) else one.content for one in inputs])
    embed = _averaged(served, inputs, http) if isinstance(served, Served) else _matched(served, inputs)
    vectors, read = await while_there(http, embed)
    note(http, prompt_tokens=read)
    usage = {"prompt_tokens": read, "total_tokens": read}
    frame = {"object": "list", "model": served.name, "usage": usage}
    content = await asyncio.to_thread(_body, frame, vectors, body.encoding_format)
    return Response(content, media_type="application/json")


def _inputs(body: EmbeddingBody) -> list[Given]:
    """Raises Refusal where there is none, where one is empty, and where there are too many."""
    given = body.input
    if body.messages is not None:
        expect(given is None, "'messages': give this or 'input', not both.", "messages")
        several, wheres = _parts(body.messages)
    else:
        if given is None:
            raise Refusal(400, "'input': give a text, or texts and pictures in a list.", param="input")
        several = prompts_of(given)
        alone = isinstance(given, str) or isinstance(given[0], int)
        wheres = ["input"] if alone else [f"input[{number}]" for number in range(len(several))]
    expect(len(several) <= MOST, f"'input': {len(several)} are more than the {MOST} that a request may hold.", "input")
    return [_given(one, where) for one, where in zip(several, wheres, strict=True)]


def _parts(messages: Sequence[Message]) -> tuple[list[str | Part], list[str]]:
    """The only part of the only message, and its field. Raises Refusal."""
    content, where = messages[0].content, "messages[0].content"
    parts = content if isinstance(content, list) else [content or ""]
    alone = len(messages) == len(parts) == 1 and messages[0].role == "user"
    expect(alone, "'messages': a vector is of one message of a user with one text or picture; give several as items of "
           "'input'.", "messages")  # fmt: skip
    return [*parts], [f"{where}[0]" if isinstance(content, list) else where]


def _given(one: str | list[int] | Part, where: str) -> Given:
    if isinstance(one, Part) and one.text is None:
        return Given(picture(one, "user", where), f"{where}.image_url")
    content = (one.text or "") if isinstance(one, Part) else one
    expect(len(content) > 0, f"'{where}' is empty.", where, None)
    return Given(content, where)


def _find(http: HttpRequest, name: str | None, inputs: Sequence[Given]) -> Served | ServedMatcher:
    """A model that reads these inputs. Raises Refusal."""
    shelf: Shelf = http.app.state.shelf
    seen = next((one.where for one in inputs if isinstance(one.content, bytes)), None)
    kinds = ServedMatcher if seen and name is None else (Served, ServedMatcher)
    what = "embeds pictures" if seen else "embeds texts"
    served = shelf.able(name, lambda each: isinstance(each, kinds), what)
    assert isinstance(served, Served | ServedMatcher)
    if seen and isinstance(served, Served):
        raise Refusal(400, f"'{seen}': '{served.name}' embeds texts alone, and this is a picture; ask a CLIP.",
                      param=seen, code="unsupported_value")  # fmt: skip
    note(http, model=served.name)
    return served


def _ids(served: Served, inputs: Sequence[Given], most: int | None) -> list[list[int]]:
    """Ids of each input, after what opens a text. Raises Refusal."""
    tokenizer, room = served.model.tokenizer, min(served.model.engine.length, most or 2**31)
    opener = [tokenizer.special["<|text|>"]] if "<|text|>" in tokenizer.special else list(tokenizer.begin)
    texts = []
    for one in inputs:
        ids = one.content
        if isinstance(ids, str):
            with about(one.where):
                served.expect_short(ids)
            ids = [*opener, *tokenizer.encode(ids)]
            expect(len(ids) > 0, f"'{one.where}' is empty: '{served.name}' has no token for it.", one.where, None)
        assert isinstance(ids, list)  # pictures were refused
        expect_ids(served, ids, "input")
        words = f"'{one.where}' has {len(ids)} tokens, but {room} are read at most; shorten it."
        expect(len(ids) <= room, words, one.where, "context_length_exceeded")
        texts.append(ids)
    return texts


async def _averaged(served: Served, inputs: Sequence[Given], http: HttpRequest) -> Embedded:
    """Similar lengths are read together, and others may write in between."""
    texts = await asyncio.to_thread(_ids, served, inputs, http.app.state.settings.prompt)
    order, pace = sorted(range(len(texts)), key=lambda i: len(texts[i])), served.model.engine.scheduler.pace
    vectors: dict[int, np.ndarray] = {}
    async with served.worker.admitted():
        while order:
            size = max(1, pace.tokens // len(texts[order[-1]]))  # what may be read between two steps of those who write
            batch, order = order[-size:], order[:-size]
            read = [texts[i] for i in batch]
            states = await served.worker.call(
                lambda read=read: mean_states(served.model.network.decoder, read).cpu().numpy()
            )
            vectors |= zip(batch, states)
    read_tokens = sum(map(len, texts))
    served.worker.meter.read(read_tokens)
    return vectors, read_tokens


async def _matched(served: ServedMatcher, inputs: Sequence[Given]) -> Embedded:
    """By a CLIP; pictures are opened when their pass is next, so that few are held."""
    matcher, vectors = served.model.matcher, dict[int, np.ndarray]()
    texts = await asyncio.to_thread(_clip_ids, served, inputs)
    async with served.worker.admitted():
        for batch in _batches(sorted(texts, key=lambda i: len(texts[i]))):
            read = [texts[i] for i in batch]
            vectors |= zip(batch, await served.worker.run(lambda read=read: _plain(matcher.embed_ids(read))))
        for batch in _batches([i for i in range(len(inputs)) if i not in texts]):
            seen = await opening(lambda batch=batch: _pixels([inputs[i] for i in batch], matcher.side))
            vectors |= zip(batch, await served.worker.run(lambda seen=seen: _plain(matcher.embed_pictures(seen))))
    return vectors, sum(map(len, texts.values()))


def _clip_ids(served: ServedMatcher, inputs: Sequence[Given]) -> dict[int, list[int]]:
    """Ids of each text by its place. Raises Refusal."""
    found = {}
    for number, one in enumerate(inputs):
        expect(not isinstance(one.content, list), f"'{one.where}': '{served.name}' is asked by texts and pictures, not "
               "by ids.", one.where)  # fmt: skip
        if isinstance(one.content, str):
            try:
                served.expect_short(one.content)
                (found[number],) = served.model.matcher.tokens([one.content])
            except TooLong as error:
                raise Refusal(400, f"'{one.where}': {error}", param=one.where,
                              code="context_length_exceeded") from None  # fmt: skip
    return found


def _batches(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[begin : begin + TOGETHER] for begin in range(0, len(places), TOGETHER)]


def _pixels(pictures: Sequence[Given], side: int) -> torch.Tensor:
    """(B, 3, S, S), cut to squares as in training. Raises Refusal for one that is broken."""
    found = []
    for one in pictures:
        assert isinstance(one.content, bytes)
        with naming(one.where):
            found.append(to_tensor(fitted(decode(one.content), side)))
    return torch.stack(found)


def _plain(vectors: torch.Tensor) -> np.ndarray:
    return vectors.float().cpu().numpy()


def _body(frame: dict[str, Any], vectors: dict[int, np.ndarray], form: str | None) -> bytes:
    """JSON, one vector after the other: between two of them, which may hold millions of numbers in all, others have
    their turn."""
    items = [
        written({"object": "embedding", "index": index, "embedding": _numbers(vectors[index], form)})
        for index in range(len(vectors))
    ]
    return written(frame).removesuffix(b"}") + b',"data":[' + b",".join(items) + b"]}"


def _numbers(vector: np.ndarray, form: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()
