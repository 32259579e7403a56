"""What every task's metrics start from: one answer an example, and the references it is compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from polytask.errors import TaskError
from polytask.tasks.picture import decode
from polytask.tasks.segment import Image, Segment, texts


def spoken(produced: Sequence[Segment]) -> str:
    """The text a model produced, without the spaces around it. Raises TaskError where it drew a picture."""
    return written(produced).strip()


def written(produced: Sequence[Segment]) -> str:
    """The text a model produced as it stands. Raises TaskError where it drew a picture."""
    return "".join(segment.text for segment in texts(produced))


def drawn(produced: Sequence[Segment]) -> Any:
    """The last picture a model drew, a PIL image in RGB. Raises TaskError where there is none, or a broken one."""
    pictures = [segment for segment in produced if isinstance(segment, Image)]
    if not pictures:
        raise TaskError("The model drew no picture; ask one that was trained to draw.")
    return decode(pictures[-1].data)


def told(answer: Any) -> str:
    """An answer in a line of text for people: a picture is "[picture]"."""
    if isinstance(answer, dict):
        return " ".join(f"{mark} {part}" for mark, part in answer.items())
    return answer if isinstance(answer, str) else "[picture]" if hasattr(answer, "convert") else str(answer)


def firsts(task: str, answers: Sequence[Sequence[Any]], examples: Sequence[Any]) -> list[Any]:
    """The first sample of every example: metrics over one answer take no more. Raises TaskError where one lacks."""
    matched(task, answers, examples)
    return [samples[0] for samples in answers]


def matched(task: str, answers: Sequence[Sequence[Any]], examples: Sequence[Any]) -> None:
    """Raises TaskError unless there are as many answers as examples, and a sample for each."""
    if len(answers) != len(examples):
        raise TaskError(
            f"Task '{task}': {len(answers)} answers for {len(examples)} examples; there must be one for each."
        )
    for number, samples in enumerate(answers):
        if isinstance(samples, str) or not samples:
            raise TaskError(
                f"Task '{task}': answer {number + 1} must be a list with one sample or more, not {samples!r}."
            )


def references(task: str, examples: Sequence[Mapping[str, Any]], field: str) -> list[list[str]]:
    """The references of every example from one field. Raises TaskError where an example lacks it."""
    found = []
    for number, example in enumerate(examples):
        value = example.get(field)
        if value is None:
            raise TaskError(f"Task '{task}': example {number + 1} has no '{field}' to compare the answer with.")
        found.append([value] if isinstance(value, str) else list(value))
    return found
