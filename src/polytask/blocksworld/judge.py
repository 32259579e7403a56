"""Right or wrong by rule: blanks made single, and by meaning where several wordings are right.

text            the closing sentence, alone or with the story before it, says the same scene
summarization   the answer says the same scene, in whatever order or template
chat            the answer to the last question, as a phrase or as a sentence
code            the program draws the same picture
infilling       "[1] red [2] at the top": each part as it was
others          the words themselves; for answers and labels in whatever case
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from polytask.blocksworld.events import apply, read_event
from polytask.blocksworld.generate import check_task
from polytask.blocksworld.language import OPENERS, read, read_sentence, sentences
from polytask.blocksworld.program import run
from polytask.blocksworld.questions import answer as answer_to
from polytask.blocksworld.questions import read_question
from polytask.blocksworld.scene import Scene
from polytask.errors import TaskError


def judge(task: str, answer: str, example: Mapping[str, Any]) -> bool:
    """Whether the answer to a row of `examples` is right. Raises TaskError for an unknown task."""
    check_task(task)
    return _RULES[task](answer, example)


def given(task: str, example: Mapping[str, Any]) -> str:
    """What one is shown of a row, without its answer."""
    if task == "text":
        return split_story(example["text"])[0]
    if task == "chat":
        return "\n".join(message["content"] for message in example["messages"][:-1])
    if task == "answering":
        return f"{example['context']} {example['question']}"
    return example[
        {"translation": "source", "summarization": "document", "code": "prompt", "infilling": "masked"}.get(
            task, "text"
        )
    ]


def wanted(task: str, example: Mapping[str, Any]) -> str:
    """The row's own answer, as `judge` takes it."""
    if task == "text":
        return split_story(example["text"])[1]
    if task == "chat":
        return example["messages"][-1]["content"]
    if task == "answering":
        return example["answers"][0]
    if task == "infilling":
        return " ".join(f"[{number}] {answer}" for number, answer in enumerate(example["answers"], start=1))
    return example[{"translation": "target", "summarization": "summary", "code": "solution"}.get(task, "label")]


def split_story(text: str) -> tuple[str, str]:
    """(the story, its closing sentence); the closing is empty where there is none."""
    before, opener, after = text.rpartition(OPENERS["en"]["now"])
    return (before.rstrip(), opener + after) if opener else (text, "")


def _normal(text: str) -> str:
    return " ".join(text.split())


def _bare(text: str) -> str:
    return _normal(text).removesuffix(".").casefold()


def _same(answer: str, gold: str) -> bool:
    """Whether both say the same scene."""
    try:
        return set(read(answer)) == set(read(gold))
    except TaskError:
        return False


def _text(answer: str, example: Mapping[str, Any]) -> bool:
    story, closing = split_story(_normal(example["text"]))
    told, end = split_story(_normal(answer))
    return told in ("", story) and _same(end, closing)


def _summarization(answer: str, example: Mapping[str, Any]) -> bool:
    return _same(answer, example["summary"])


def _translation(answer: str, example: Mapping[str, Any]) -> bool:
    return _normal(answer) == _normal(example["target"])


def _answering(answer: str, example: Mapping[str, Any]) -> bool:
    return _bare(answer) in {_bare(right) for right in example["answers"]}


def _classification(answer: str, example: Mapping[str, Any]) -> bool:
    return _bare(answer) == _bare(example["label"])


def _infilling(answer: str, example: Mapping[str, Any]) -> bool:
    return _normal(answer) == _normal(wanted("infilling", example))


def _code(answer: str, example: Mapping[str, Any]) -> bool:
    try:
        return run(answer) == run(example["solution"])
    except TaskError:
        return False


def _chat(answer: str, example: Mapping[str, Any]) -> bool:
    scene, question = follow([m["content"] for m in example["messages"] if m["role"] == "user"])
    found = answer_to(read_question(question), scene)
    return found is not None and _bare(answer) in {_bare(found.short), _bare(found.full)}


def follow(told: list[str]) -> tuple[Scene, str]:
    """The scene after all that the user told, and the last question."""
    blocks: list[Any] = []
    scene, question = (), ""
    for turn in told:
        for sentence in re.findall(r"[^.!?]+[.!?]", turn):
            words = sentence.strip()
            if words.endswith("?"):
                question = words
            elif words != "Hello!":
                found = read_sentence(sentences(words)[0], "en")
                blocks += found
                scene = tuple(blocks) if found else _after(words, scene)
    if not question or not scene:
        raise TaskError("Blocks world: this conversation holds no scene, or no question about it.")
    return scene, question


def _after(event: str, scene: Scene) -> Scene:
    after = apply(read_event(event), scene)
    if after is None:
        raise TaskError(f"Blocks world: '{event}' cannot happen in that scene.")
    return after


_RULES: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "text": _text,
    "translation": _translation,
    "answering": _answering,
    "summarization": _summarization,
    "chat": _chat,
    "code": _code,
    "classification": _classification,
    "infilling": _infilling,
}
