"""Conversation: turns of a user and an assistant, with a system prompt where there is one, and with pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.registry import nearest
from polytask.tasks.metrics import METRICS, token_f1_each
from polytask.tasks.picture import encoded
from polytask.tasks.scoring import firsts, spoken, written
from polytask.tasks.segment import ROLES, Image, Segment, Text
from polytask.tasks.task import Field


@dataclass(frozen=True)
class Chat:
    """Every assistant turn is a target; prompting drops the last one where the conversation ends with it.

    `system` is the system prompt of conversations that bring none.
    """

    system: str | None = None
    name: ClassVar[str] = "chat"
    metric_names: ClassVar[tuple[str, ...]] = ("token_f1", "chrf")
    primary: ClassVar[str] = "token_f1"
    fields: ClassVar[Mapping[str, Field]] = {
        "messages": Field(
            list[dict],
            help="the turns, each {role: user or assistant or system or tool, content: text}; a user's content may "
            "be a list of {type: text, text: ...} and {type: image, image: a picture}",
        ),
        "system": Field(required=False, help="the system prompt, before all turns"),
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        messages = enumerate(example["messages"], 1)
        turns: list[Segment] = [part for number, message in messages for part in _turn(message, number)]
        if not turns:
            raise TaskError("Task 'chat': field 'messages' is empty; a conversation has one turn or more.")
        own = turns[0].role == "system"
        if own and example.get("system") is not None:
            raise TaskError("Task 'chat': the system prompt is given twice, as 'system' and as the first message.")
        system = example.get("system") if example.get("system") is not None else self.system
        return turns if own or system is None else [Text(system, role="system"), *turns]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        return spoken(produced)

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """How near the reply comes to the conversation's last assistant turn."""
        predictions, golds = firsts(self.name, answers, examples), self._replies(examples)
        return {k: v for name in self.metric_names for k, v in METRICS.get(name)(predictions, golds).items()}

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        return [token_f1_each(*pair) for pair in zip(firsts(self.name, answers, examples), self._replies(examples))]

    def _replies(self, examples: list[dict[str, Any]]) -> list[list[str]]:
        replies = []
        for number, example in enumerate(examples):
            last = self.segments(example)[-1]
            if not isinstance(last, Text) or not last.target:
                raise TaskError(
                    f"Task 'chat': example {number + 1} does not end with an assistant's turn to compare with."
                )
            replies.append([written([last])])
        return replies


def _turn(message: dict[str, Any], number: int) -> list[Segment]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise TaskError(f"Task 'chat': message {number} has the role {role!r}: {nearest(str(role), ROLES)}")
    if role == "user" and isinstance(content, list):
        return _joined([_part(part, f"message {number}, part {at}") for at, part in enumerate(content, 1)])
    if not isinstance(content, str):
        raise TaskError(f"Task 'chat': message {number} needs a text as its 'content', not {type(content).__name__}.")
    if role == "system" and number > 1:
        raise TaskError(f"Task 'chat': message {number} is a system prompt; only the first message can be one.")
    return [Text(content, target=role == "assistant", role=role)]


def _joined(parts: list[Segment]) -> list[Segment]:
    """Texts that follow each other as one, for two would be two turns."""
    joined: list[Segment] = []
    for part in parts or [Text("", role="user")]:
        if joined and isinstance(part, Text) and isinstance(before := joined[-1], Text):
            joined[-1] = Text(before.text + part.text, role="user")
        else:
            joined.append(part)
    return joined


def _part(part: Any, where: str) -> Segment:
    """A piece of what a user says."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Text(part["text"], role="user")
    if kind != "image":
        raise TaskError(f"Task 'chat': {where} is neither {{type: text, text: ...}} nor {{type: image, image: ...}}.")
    try:
        return Image(encoded(part.get("image")), role="user")
    except TaskError as error:
        raise TaskError(f"Task 'chat': {where}: {error}") from None
