"""/v1/responses: the conversation API whose answers are lists of items. Nothing is kept between two requests."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Request
from polytask.serving.asking import answer, find, new_id, note, note_prompt, now, streamed, submit, usage
from polytask.serving.calls import CallPart, ToolText, joined
from polytask.serving.conversation import (
    Call,
    Function,
    Message,
    Parts,
    chat_request,
    expect_chat,
    forces,
    held,
    tool_form,
    turns,
    without_pictures,
)  # fmt: skip
from polytask.serving.logprobs import Offsets, Token, chat_logprobs
from polytask.serving.refusal import Json, Refusal, about
from polytask.serving.schema import (
    STREAMED,
    UNREASONED,
    WORDY,
    Form,
    Named,
    StreamOptions,
    Strict,
    Usual,
    Writing,
    expect,
    expect_usual,
    sampling,
)
from polytask.serving.shelf import Served
from polytask.serving.stream import event
from polytask.serving.tools import Form as ToolForm
from polytask.serving.worker import Job

router = APIRouter()
LOGPROBS = "message.output_text.logprobs"  # what `include` says to have them


class Item(BaseModel):
    """A turn, a call of a tool or what the tool gave."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None


class FunctionTool(Strict):
    """A function that the model may call; `parameters` is its JSON Schema."""

    type: Literal["function"]
    name: str = Field(min_length=1, max_length=200)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Format(Form):
    """The form of the answer; `schema` is a JSON Schema."""

    FIELD, PLACE = "text.format", "schema"
    type: Literal["text", "json_object", "json_schema", "regex", "lark"] = "text"
    own_schema: dict[str, Any] | None = Field(None, alias="schema")

    @property
    def schema_said(self) -> Any:
        return self.own_schema


class TextOptions(Strict):
    format: Format = Field(default_factory=lambda: Format.model_validate({}))
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseBody(Named, Writing, Usual):
    """A conversation to be gone on with."""

    input: str | Annotated[list[Item], Field(min_length=1, max_length=10_000, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: Annotated[list[str], Field(fail_fast=True)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    reasoning: dict[str, Any] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_tool_calls: int | None = None


@router.post("/v1/responses", responses=STREAMED)
async def create(http: HttpRequest, body: ResponseBody) -> Response:
    """The model's answer to a conversation."""
    served = find(http, body.model, talks=True)
    _expect_possible(body)
    expect_chat(served)
    form = tool_form(served, body.tools or [], body.tool_choice)
    messages = _messages(body)
    said = await turns(served, list(messages.values()), list(messages))
    tools, frame = [_tool(tool) for tool in body.tools or []] if form else [], _frame(served, body)
    note_prompt(http, without_pictures(said))

    def build() -> list[Request]:
        return [chat_request(served, said, tools, dials)]

    names = _names(body, form)
    with about("input", **names):
        dials = _sampling(served, body, form)
        if body.stream:
            job = await submit(http, served, build, body.priority)
            return streamed(http, served, job, _events(http, served, body, job, form, frame), "input", **names)
        requests, (one,) = await answer(http, served, build, body.priority)
    parts = _parts(served, body, form)
    text, calls = parts.push(one.text, one.ids)
    tokens = list(zip(one.ids, one.logprobs or []))
    logprobs = _logprobs(served, body, _within(served, text, tokens) if calls else tokens)
    items = _items(text, joined(calls), _status(one, parts, bool(calls)), logprobs)
    return Json({**frame, **_ended(one, usage(requests, [one])), "output": items})


@router.api_route("/v1/responses/{name:path}", methods=["GET", "DELETE"], include_in_schema=False)
async def stored(name: str) -> Response:
    raise Refusal(404, "This server keeps no responses; send the whole conversation as 'input'.", code="not_stored")


def _expect_possible(body: ResponseBody) -> None:
    """Raises Refusal for what a server without a memory, or a model of texts, cannot do."""
    kept = "this server keeps no conversations; send all of it as 'input'."
    for name in ("previous_response_id", "conversation", "prompt"):
        expect(getattr(body, name) is None, f"'{name}': {kept}", name)
    expect(not body.background, "'background': this server answers at once or streams; leave it out.", "background")
    known = set(body.include or []) <= {LOGPROBS}
    expect(known, f"'include': nothing but '{LOGPROBS}' can be had; leave the rest out.", "include")
    asked = LOGPROBS in (body.include or []) or not body.top_logprobs
    expect(asked, f"'top_logprobs' needs '{LOGPROBS}' in 'include'.", "top_logprobs", None)
    reasoning, text = body.reasoning or {}, body.text or TextOptions()
    expect_usual(body, [
        ("reasoning.effort", reasoning.get("effort"), ("none", "medium"), UNREASONED),
        ("reasoning.summary", reasoning.get("summary"), ("auto",), UNREASONED),
        ("text.verbosity", text.verbosity, ("medium",), WORDY),
        ("truncation", body.truncation, ("disabled",), "this server cuts no conversation"),
        ("max_tool_calls", body.max_tool_calls, (), "this server calls no tools by itself"),
    ])  # fmt: skip


def _names(body: ResponseBody, form: ToolForm | None) -> dict[str, str]:
    """What this request calls dials."""
    guide = "tools" if forces(form, body.tool_choice) else Format.FIELD
    return {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "guide": guide}


def _sampling(served: Served, body: ResponseBody, form: ToolForm | None) -> Sampling:
    logprobs = max(body.top_logprobs or 0, 1) if LOGPROBS in (body.include or []) else 0
    tools = [tool.model_dump() for tool in body.tools or []]
    wanted = body.text and body.text.format.guide()
    guide = held(served, form, tools, body.tool_choice, body.parallel_tool_calls is not False, wanted)
    return sampling(served, "chat", body, body.max_output_tokens, logprobs=logprobs, guide=guide)


def _parts(served: Served, body: ResponseBody, form: ToolForm | None) -> ToolText:
    """An answer that may call tools; one of a form may look like a call of what is none."""
    formed = body.text is not None and body.text.format.type != "text"
    names = [tool.name for tool in body.tools or []] if formed else None
    return ToolText(form, served.model.tokenizer, body.parallel_tool_calls is not False, names)


def _logprobs(served: Served, body: ResponseBody, tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Of the tokens of an answer; nothing where they were not asked for."""
    if LOGPROBS not in (body.include or []):
        return []
    return chat_logprobs(served.model.tokenizer.writing, tokens, body.top_logprobs or 0)["content"]


def _within(served: Served, text: str, tokens: Sequence[Token]) -> list[Token]:
    """Those of an answer's tokens that begin in a text, with which it begins."""
    placed = Offsets(served.model.tokenizer.writing).of(tokens)
    return [token for token, (_, _, offset) in zip(tokens, placed) if offset < len(text)]


def _messages(body: ResponseBody) -> dict[str, Message]:
    """The items as messages, by where in the request the content of each is; calls in a row, and a text before them,
    are one turn."""
    messages = dict[str, Message]()
    if body.instructions is not None:
        messages["instructions"] = Message(role="system", content=body.instructions)
    if isinstance(body.input, str):
        return {**messages, "input": Message(role="user", content=body.input)}
    turn: Message | None = None  # the assistant's, as long as nothing but its calls comes
    for number, item in enumerate(body.input):
        where = f"input[{number}]"
        for name in {"message": ("role",), "function_call": ("call_id", "name")}.get(item.type, ("call_id",)):
            if getattr(item, name) is None:
                raise Refusal(400, f"'{where}.{name}' is missing.", param=f"{where}.{name}")
        if item.type == "function_call":
            if turn is None:
                turn = messages[where] = Message(role="assistant")
            turn.tool_calls = turn.tool_calls or []
            turn.tool_calls.append(_call(item))
        elif item.type == "message":
            said = messages[f"{where}.content"] = Message(role=item.role, content=item.content)  # type: ignore[arg-type]
            turn = said if item.role == "assistant" else None
        else:
            turn = None
            messages[f"{where}.output"] = Message(role="tool", content=item.output, tool_call_id=item.call_id)
    return messages


def _call(item: Item) -> Call:
    return Call(id=item.call_id or "", function=Function(name=item.name or "", arguments=item.arguments or "{}"))


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(include={"name", "description", "parameters"},
                                                            exclude_none=True)}  # fmt: skip


def _frame(served: Served, body: ResponseBody) -> dict[str, Any]:
    """A response that has not begun."""
    form = (body.text or TextOptions()).format.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": new_id("resp"), "object": "response", "created_at": now(), "status": "in_progress", "background": False,
        "error": None, "incomplete_details": None, "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens, "max_tool_calls": body.max_tool_calls, "model": served.name,
        "output": [], "parallel_tool_calls": body.parallel_tool_calls is not False, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "store": False, "temperature": body.temperature,
        "text": {"format": form}, "tool_choice": body.tool_choice or "auto",
        "tools": [tool.model_dump() for tool in body.tools or []], "top_p": body.top_p,
        "top_logprobs": body.top_logprobs or 0, "truncation": body.truncation or "disabled", "usage": None,
        "user": body.user, "metadata": body.metadata or {},
    }  # fmt: skip


def _ended(one: Completion, total: dict[str, Any]) -> dict[str, Any]:
    whole = one.finish != "length"
    return {
        "status": "completed" if whole else "incomplete",
        "incomplete_details": None if whole else {"reason": "max_output_tokens"},
        "usage": {
            "input_tokens": total["prompt_tokens"], "input_tokens_details": total["prompt_tokens_details"],
            "output_tokens": total["completion_tokens"], "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": total["total_tokens"],
        },
    }  # fmt: skip


def _status(one: Completion, parts: ToolText, called: bool) -> str:
    """Of the last item, a call where any was `called`: whether the answer was cut within it."""
    return "incomplete" if one.finish == "length" and (parts.cut or not called) else "completed"


def _items(text: str, calls: list[CallPart], status: str, logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """status: of the last one."""
    said = [_message(new_id("msg"), [_text(text, logprobs)])] if text or not calls else []
    items = [*said, *(_function_call(call, "completed") for call in calls)]
    items[-1]["status"] = status
    return items


def _text(text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _message(identity: str, content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    return {"type": "message", "id": identity, "status": status, "role": "assistant", "content": content}


def _function_call(call: CallPart, status: str) -> dict[str, Any]:
    return {"type": "function_call", "id": new_id("fc"), "call_id": call.id, "status": status, "name": call.name,
            "arguments": call.arguments}  # fmt: skip


class Numbered:
    """Events in the order in which a client must read them."""

    def __init__(self) -> None:
        self._count = -1

    def __call__(self, kind: str, **words: Any) -> bytes:
        self._count += 1
        return event({"type": kind, "sequence_number": self._count, **words}, kind)


class Output:
    """The items of an answer and their events, as it is written: a text first, where there is one, then calls."""

    def __init__(self, say: Numbered):
        self.say, self.items, self._identity = say, list[dict[str, Any]](), new_id("msg")
        self._whole, self._likely = "", list[dict[str, Any]]()

    def text(self, text: str, likely: list[dict[str, Any]]) -> Iterator[bytes]:
        if not self.items:
            self.items.append(_message(self._identity, [], "in_progress"))
            yield self.say("response.output_item.added", output_index=0, item=self.items[0])
            yield self.say("response.content_part.added", **self._place(), part=_text(""))
        if text:
            self._whole += text
            yield self.say("response.output_text.delta", **self._place(), delta=text, logprobs=likely)
        self._likely += likely

    def call(self, part: CallPart) -> Iterator[bytes]:
        if part.id:
            yield from self.close()
            self.items.append(_function_call(replace(part, arguments=""), "in_progress"))
            yield self.say("response.output_item.added", output_index=len(self.items) - 1, item=self.items[-1])
        if part.arguments:
            self.items[-1]["arguments"] += part.arguments
            yield self.say("response.function_call_arguments.delta", **self._place(), delta=part.arguments)

    def close(self, status: str = "completed") -> Iterator[bytes]:
        """Ends the last item, where there is one."""
        if not self.items:
            return
        item = self.items[-1] = {**self.items[-1], "status": status}
        if item["type"] == "message":
            item["content"] = [_text(self._whole, self._likely)]
            part = item["content"][0]
            yield self.say("response.output_text.done", **self._place(), text=self._whole, logprobs=part["logprobs"])
            yield self.say("response.content_part.done", **self._place(), part=part)
        else:
            words = {"name": item["name"], "arguments": item["arguments"]}
            yield self.say("response.function_call_arguments.done", **self._place(), **words)
        yield self.say("response.output_item.done", output_index=len(self.items) - 1, item=item)

    def _place(self) -> dict[str, Any]:
        place = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        return {**place, "content_index": 0} if self.items[-1]["type"] == "message" else place


async def _events(
    http: HttpRequest, served: Served, body: ResponseBody, job: Job, form: ToolForm | None, frame: dict[str, Any]
) -> AsyncIterator[bytes]:  # fmt: skip
    say, parts, one, unsaid = Numbered(), _parts(served, body, form), None, list[dict[str, Any]]()
    output, silent = Output(say), True
    async for piece in job:
        if silent:  # only now, so that a request that still waits has not begun in a client's eyes
            silent = False
            yield say("response.created", response=frame)
            yield say("response.in_progress", response=frame)
        one = piece.completion
        text, calls = parts.push(piece.text, one and one.ids)
        unsaid += _logprobs(served, body, piece.tokens)
        ends = one is not None and not calls and all(item["type"] == "message" for item in output.items)
        if text or ends:
            for sent in output.text(text, unsaid):
                yield sent
            unsaid = []
        for call in calls:
            for sent in output.call(call):
                yield sent
    assert one is not None
    for sent in output.close(_status(one, parts, output.items[-1]["type"] != "message")):
        yield sent
    total = usage(job.requests, [one])
    note(http, **total)
    ended = {**frame, **_ended(one, total), "output": output.items}
    yield say(f"response.{ended['status']}", response=ended)
