"""/v1/embeddings: one vector for each text."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.errors import TooLong
from polytask.inference.reading import mean_states
from polytask.serving.asking import find, note, note_prompt
from polytask.serving.prompts import Prompt, expect_ids, prompts_of
from polytask.serving.refusal import Json
from polytask.serving.schema import Named, expect
from polytask.serving.shelf import Served
from polytask.serving.stream import while_there

router = APIRouter()
MOST = 2048  # inputs of one request, as the OpenAI API has it
BATCH = 4096  # tokens that are read between two steps of those who write


class EmbeddingBody(Named):
    """Texts, or ids of tokens."""

    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


@router.post("/v1/embeddings")
async def embeddings(http: HttpRequest, body: EmbeddingBody) -> Response:
    """The mean of the network's final hidden states over each text, scaled to length 1."""
    served = find(http, body.model)
    expect(body.dimensions is None, "'dimensions': vectors are as wide as the model; leave it out.", "dimensions")
    inputs = prompts_of(body.input)
    expect(len(inputs) <= MOST, f"'input': {len(inputs)} are more than the {MOST} that a request may hold.", "input")
    note_prompt(http, inputs)
    texts = await asyncio.to_thread(_ids, served, inputs, http.app.state.settings.prompt)
    vectors = await while_there(http, _vectors(served, texts))
    read = sum(map(len, texts))
    note(http, prompt_tokens=read)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": read, "total_tokens": read}
    return Json({"object": "list", "data": data, "model": served.name, "usage": usage})


def _ids(served: Served, inputs: Sequence[str | list[int]], most: int | None) -> list[list[int]]:
    """Ids of each input, after what opens a text. Raises Refusal and TooLong."""
    tokenizer, room = served.model.tokenizer, min(served.model.config.context_length, most or 2**31)
    opener = [tokenizer.special["<|text|>"]] if "<|text|>" in tokenizer.special else list(tokenizer.begin)
    texts = []
    for number, one in enumerate(inputs):
        expect(len(one) > 0, f"'input[{number}]' is empty.", "input", None)
        if isinstance(one, str):
            served.expect_short(one)
            one = [*opener, *tokenizer.encode(one)]
        expect_ids(served, one, "input")
        if len(one) > room:
            raise TooLong(f"'input[{number}]' has {len(one)} tokens, but {room} are read at most; shorten it.")
        texts.append(one)
    return texts


async def _vectors(served: Served, texts: Sequence[list[int]]) -> list[np.ndarray]:
    """Similar lengths are read together, and others may write in between."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: dict[int, np.ndarray] = {}
    while order:
        size = max(1, BATCH // len(texts[order[-1]]))
        batch, order = order[-size:], order[:-size]
        read = [texts[i] for i in batch]
        states = await served.worker.call(
            lambda read=read: mean_states(served.model.network.decoder, read).cpu().numpy()
        )
        vectors |= zip(batch, states)
    return [vectors[i] for i in range(len(texts))]


def _written(vector: np.ndarray, form: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()
