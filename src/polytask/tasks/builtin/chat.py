"""Conversation: turns of a user and an assistant, with a system prompt where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.registry import nearest
from polytask.tasks.metrics import METRICS, token_f1_each
from polytask.tasks.scoring import firsts, spoken, written
from polytask.tasks.segment import ROLES, Segment, Text
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
            list[dict], help="the turns, each {role: user or assistant or system or tool, content: text}"
        ),
        "system": Field(required=False, help="the system prompt, before all turns"),
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        turns: list[Segment] = [_turn(message, number + 1) for number, message in enumerate(example["messages"])]
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


def _turn(message: dict[str, Any], number: int) -> Text:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise TaskError(f"Task 'chat': message {number} has the role {role!r}: {nearest(str(role), ROLES)}")
    if not isinstance(content, str):
        raise TaskError(f"Task 'chat': message {number} needs a text as its 'content', not {type(content).__name__}.")
    if role == "system" and number > 1:
        raise TaskError(f"Task 'chat': message {number} is a system prompt; only the first message can be one.")
    return Text(content, target=role == "assistant", role=role)
