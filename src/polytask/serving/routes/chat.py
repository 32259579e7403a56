"""/v1/chat/completions."""

from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Request
from polytask.serving.asking import answer, find, new_id, note, note_prompt, now, streamed, submit, usage
from polytask.serving.calls import CallPart, ToolText, joined
from polytask.serving.conversation import (
    Messages,
    chat_request,
    expect_chat,
    forces,
    held,
    tool_form,
    turns,
    without_pictures,
)
from polytask.serving.logprobs import Token, chat_logprobs
from polytask.serving.refusal import Json, about
from polytask.serving.schema import (
    STREAMED,
    UNREASONED,
    WORDY,
    Dials,
    Named,
    StreamOptions,
    Strict,
    Usual,
    expect,
    expect_usual,
    sampling,
)
from polytask.serving.shelf import Served
from polytask.serving.stream import DONE, event
from polytask.serving.tools import Form
from polytask.serving.worker import Job

router = APIRouter()
Tokens = Annotated[int, Field(ge=1, lt=2**31)]


class FunctionTool(Strict):
    """A function that the model may call; `parameters` is its JSON Schema."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Strict):
    type: Literal["function"]
    function: FunctionTool


class ChatBody(Named, Dials, Usual):
    """A conversation to be gone on with."""

    messages: Messages
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: Annotated[list[str], Field(fail_fast=True)] | None = None
    audio: Any = None
    prediction: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None


UNUSUAL = {  # what is usual of a field that changes nothing, and why no more can be had
    "reasoning_effort": (("none", "medium"), UNREASONED),
    "verbosity": (("medium",), WORDY),
    "modalities": ((["text"],), "this route answers with texts alone"),
    "audio": ((), "no model here makes sounds"),
    "prediction": ((), "no text is taken here to guess the answer from"),
    "functions": ((), "functions are told as 'tools'"),
    "function_call": (("none",), "functions are chosen by 'tool_choice'"),
    "web_search_options": ((), "this server fetches nothing"),
}


@router.post("/v1/chat/completions", responses=STREAMED)
async def chat(http: HttpRequest, body: ChatBody) -> Response:
    """The assistant's next turn."""
    served = find(http, body.model, talks=True)
    _expect_possible(body)
    expect_chat(served)
    form = tool_form(served, body.tools or [], body.tool_choice)
    said = await turns(served, body.messages, [f"messages[{number}].content" for number in range(len(body.messages))])
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []] if form else []
    note_prompt(http, without_pictures(said))
    frame = {"id": new_id("chatcmpl"), "created": now(), "model": served.name, "system_fingerprint": None}

    def build() -> list[Request]:
        return [chat_request(served, said, tools, dials)]

    names = _names(body, form)
    with about("messages", **names):
        dials = _dials(served, body, form)
        if body.stream:
            job = await submit(http, served, build, body.priority)
            return streamed(http, served, job, _events(http, served, body, job, form, frame), "messages", **names)
        requests, completions = await answer(http, served, build, body.priority)
    choices = [_choice(served, body, form, index, one) for index, one in enumerate(completions)]
    return Json({**frame, "object": "chat.completion", "choices": choices, "usage": usage(requests, completions)})


def _expect_possible(body: ChatBody) -> None:
    """Raises Refusal for what no server of texts can do."""
    expect(body.logprobs or not body.top_logprobs, "'top_logprobs' needs 'logprobs': true.", "top_logprobs", None)
    expect_usual(body, [(name, getattr(body, name), *words) for name, words in UNUSUAL.items()])


def _names(body: ChatBody, form: Form | None) -> dict[str, str]:
    """What this request calls dials."""
    most = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    return {"max_tokens": most, "guide": "tools" if forces(form, body.tool_choice) else "response_format"}


def _dials(served: Served, body: ChatBody, form: Form | None) -> Sampling:
    logprobs = max(body.top_logprobs or 0, 1) if body.logprobs else 0
    tools = [tool.function.model_dump() for tool in body.tools or []]
    wanted = body.response_format and body.response_format.guide()
    guide = held(served, form, tools, body.tool_choice, body.parallel_tool_calls is not False, wanted)
    most = body.max_completion_tokens or body.max_tokens
    return sampling(served, "chat", body, most, logprobs=logprobs, guide=guide)


def _parts(served: Served, body: ChatBody, form: Form | None) -> ToolText:
    """An answer that may call tools; one of a form may look like a call of what is none."""
    formed = body.response_format is not None and body.response_format.type != "text"
    names = [tool.function.name for tool in body.tools or []]
    return ToolText(form, served.model.tokenizer, body.parallel_tool_calls is not False, names if formed else None)


def _choice(served: Served, body: ChatBody, form: Form | None, index: int, one: Completion) -> dict[str, Any]:
    text, calls = _parts(served, body, form).push(one.text, one.ids)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        message["tool_calls"] = [_call(call) for call in joined(calls)]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(served, body, zip(one.ids, one.logprobs or [])),
        "finish_reason": _finish(one, bool(calls)),
    }


def _call(part: CallPart) -> dict[str, Any]:
    opening = {"id": part.id, "type": "function"} if part.id else {}
    return {**opening, "function": {**({"name": part.name} if part.id else {}), "arguments": part.arguments}}


def _finish(one: Completion, called: bool) -> str | None:
    return "tool_calls" if called and one.finish != "length" else one.finish


def _logprobs(served: Served, body: ChatBody, tokens: Iterable[Token]) -> dict[str, Any] | None:
    return chat_logprobs(served.model.tokenizer.writing, tokens, body.top_logprobs or 0) if body.logprobs else None


async def _events(
    http: HttpRequest, served: Served, body: ChatBody, job: Job, form: Form | None, frame: dict[str, Any]
) -> AsyncIterator[bytes]:  # fmt: skip
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    frame = {**frame, "object": "chat.completion.chunk"}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**frame, "choices": [choice], **({"usage": None} if with_usage else {})})

    silent, completions, called = set(range(job.requests[0].sampling.n)), [], set[int]()
    parts = {index: _parts(served, body, form) for index in silent}
    async for piece in job:
        if piece.index in silent:  # only now, so that a request that still waits has not begun in a client's eyes
            silent.remove(piece.index)
            yield chunk(piece.index, {"role": "assistant", "content": "", "refusal": None})
        text, calls = parts[piece.index].push(piece.text, piece.completion and piece.completion.ids)
        if text or piece.tokens:
            yield chunk(piece.index, {"content": text}, None, _logprobs(served, body, piece.tokens))
        for call in calls:
            called.add(piece.index)
            yield chunk(piece.index, {"tool_calls": [{"index": call.number, **_call(call)}]})
        if piece.completion is not None:
            completions.append(piece.completion)
            yield chunk(piece.index, {}, _finish(piece.completion, piece.index in called))
    total = usage(job.requests, completions)
    note(http, **total)
    if with_usage:
        yield event({**frame, "choices": [], "usage": total})
    yield DONE
