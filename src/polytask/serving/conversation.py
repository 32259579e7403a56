"""What clients of the chat and of the responses API send as a conversation, as turns of the task `chat`."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from polytask.inference.constrained import Guide
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.serving.opening import sent, small
from polytask.serving.refusal import Refusal
from polytask.serving.schema import expect
from polytask.serving.shelf import Served
from polytask.serving.tools import Form, calls_only, form_of
from polytask.tasks import check


class Part(BaseModel):
    """A piece of a message: a text, or a picture as a data URL, which the chat API has in a mapping of its own."""

    model_config = ConfigDict(extra="ignore", strict=True)
    type: str
    text: str | None = None
    refusal: str | None = None  # what an assistant said in place of an answer
    image_url: str | dict[str, Any] | None = None

    @property
    def said(self) -> str | None:
        return self.text if self.text is not None else self.refusal


Parts = Annotated[list[Part], Field(fail_fast=True)]


class Function(BaseModel):
    """A function that is called."""

    model_config = ConfigDict(extra="ignore", strict=True)
    name: str
    arguments: str = "{}"


class Call(BaseModel):
    """A call of a tool in an earlier turn of the assistant."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """A turn. What else a client sends back of an answer (annotations, ...) is not looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=10_000, fail_fast=True)]


async def turns(served: Served, messages: Sequence[Message], places: Sequence[str]) -> list[dict[str, Any]]:
    """Messages as a template reads them: contents are texts, or parts as the task `chat` has them where there are
    pictures, and arguments of calls are mappings where they are JSON. places: where in the request each content is.
    Raises Refusal."""
    said = [_turn(message, place) for message, place in zip(messages, places, strict=True)]
    pictures = [
        part for turn in said if isinstance(turn["content"], list) for part in turn["content"] if "param" in part
    ]
    shown = await small(served, [(part.pop("param"), part["image"]) for part in pictures])
    for part, data in zip(pictures, shown):
        part["image"] = data
    return said


def without_pictures(said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same for the log."""
    return [{**turn, "content": _told(turn["content"])} for turn in said]


def _told(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return "".join(part["text"] if part["type"] == "text" else "[picture]" for part in content)


def _content(parts: Sequence[Part], role: str, where: str) -> Any:
    """One text, or where there are pictures a list of parts. Raises Refusal for what is neither."""
    if all(part.said is not None for part in parts):
        return "".join(part.said or "" for part in parts)
    found: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        param = f"{where}[{number}]"
        if part.said is not None:
            found.append({"type": "text", "text": part.said})
            continue
        found.append({"type": "image", "image": picture(part, role, param), "param": f"{param}.image_url"})
    return found


def picture(part: Part, role: str, where: str) -> bytes:
    """The file of a part without a text. Raises Refusal where that is no picture of a user's."""
    fits = part.image_url is not None and role == "user"
    expect(fits, f"'{where}': a '{part.type[:40]}' is not read here; users send texts, and pictures as image_url "
           "with a data URL.", where)  # fmt: skip
    url = part.image_url["url"] if isinstance(part.image_url, dict) and "url" in part.image_url else part.image_url
    return sent(url, f"{where}.image_url")


def _turn(message: Message, place: str) -> dict[str, Any]:
    content: Any = message.refusal if message.content is None else message.content
    if isinstance(content, list):
        content = _content(content, message.role, place)
    if content is None and not message.tool_calls:
        raise Refusal(400, f"'{place}': a message needs a text.", param=place)
    turn: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    return turn | {key: value for key in ("name", "tool_call_id") if (value := getattr(message, key)) is not None}


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(text: str) -> dict[str, Any] | str:
    """The arguments of a call; as they stand where they are no JSON object, for so a model may have written them."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return arguments if isinstance(arguments, dict) else text


def expect_chat(served: Served) -> None:
    """Raises Refusal for a base model, which knows no turns."""
    if not served.talks:
        raise Refusal(
            400, f"'{served.name}' is a base model: it has no chat template and knows no turns; use /v1/completions.",
            param="model", code="no_chat_template",
        )  # fmt: skip


def tool_form(served: Served, tools: Sequence[Any], choice: Any) -> Form | None:
    """How the model calls tools, where it is given any and may call them. Raises Refusal where it cannot."""
    if not tools or choice == "none":
        expect(choice in (None, "none", "auto"), "'tool_choice': there are no 'tools' to choose.", "tool_choice")
        return None
    form = form_of(served.model.tokenizer)
    expect(form is not None, f"'{served.name}' has no chat template that knows tools; leave 'tools' out.", "tools")
    return form


def forces(form: Form | None, choice: Any) -> bool:
    """Whether `tool_choice` asks for a call."""
    return form is not None and choice not in (None, "auto", "none")


def held(
    served: Served, form: Form | None, tools: Sequence[Mapping[str, Any]], choice: Any, several: bool,
    wanted: Guide | None,
) -> Guide | None:  # fmt: skip
    """What holds the answer: to calls where `tool_choice` asks for one, of any tool or of the one it names; else to
    what is `wanted`, or to calls in its place. tools: name and parameters. Raises Refusal and ConfigError."""
    if form is None or (wanted is None and not forces(form, choice)):
        return wanted
    if not forces(form, choice):
        fits = wanted is None or wanted.kind != "lark"
        expect(fits, "'tools': an answer of a grammar calls no tools; leave one of them out.", "tools")
        return calls_only(form, served.model.tokenizer, tools, several, wanted)
    if choice != "required":
        function = choice.get("function")  # where the chat API has the name
        name = (function if isinstance(function, dict) else choice).get("name")
        tools, several = [tool for tool in tools if tool["name"] == name], False
        known = choice.get("type") == "function" and bool(tools)
        expect(known, "'tool_choice': this names none of the 'tools'.", "tool_choice", "invalid_value")
    return calls_only(form, served.model.tokenizer, tools, several)


def chat_request(
    served: Served, said: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], sampling: Sampling
) -> Request:  # fmt: skip
    """What the engine is asked; a last turn of the assistant is gone on with. Raises TaskError, TooLong and Refusal."""
    served.expect_short(*(_told(turn["content"]) or "" for turn in said))
    calls = bool(tools) or any(turn["role"] == "tool" or turn.get("tool_calls") for turn in said)
    template = served.model.tokenizer.template
    if calls:
        if template is None or served.model.config.encoder_layers:
            raise Refusal(400, f"'{served.name}' has no chat template that knows tools; leave 'tools' out.",
                          param="tools", code="unsupported_value")  # fmt: skip
        shown = any(isinstance(turn["content"], list) for turn in said)
        expect(not shown, "'tools': a conversation with pictures calls no tools here; leave one of them out.", "tools")
        return Request(template.conversation(said, tools), sampling, continues=said[-1]["role"] == "assistant")
    chat = served.model.task("chat")
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in said]
    return served.model.request(chat.segments(check(chat, {"messages": plain})), sampling)
