"""What a model says while it trains: some answers to held-out examples of the recipe's tasks."""

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from polytask.data.sources import read
from polytask.tasks import get_task, prompt
from polytask.tasks.scoring import told
from polytask.tasks.segment import shown

if TYPE_CHECKING:
    from polytask.models.transformer import Transformer
    from polytask.recipe import Recipe
    from polytask.tasks import Task
    from polytask.tokenizers.text import TextTokenizer

ROWS = 100  # of each task, from which another one is shown each time
TOKENS = 60
SHOWN = 160  # characters of a question or an answer


def speaker(recipe: "Recipe", network: "Transformer", tokenizer: "TextTokenizer") -> Callable[[int], list[str]] | None:
    """The trainer's function of a step that shows `evaluation.samples` answers of each evaluated task.

    A recipe that evaluates no task shows how the model writes a text of its own, and nothing where it writes none. None
    where none are wanted.
    """
    count = recipe.evaluation.samples
    if not count or not recipe.evaluation.every:
        return None
    asked = []
    for _, spec in recipe.evaluated():
        task = spec.task if not isinstance(spec.task, str) else get_task(spec.task)
        asked.append((task, list(islice(read(spec), ROWS))))

    def samples(step: int) -> list[str]:
        from polytask.run.watched import model_in_training

        model = model_in_training(network, tokenizer)
        words: dict[str, Any] = {"max_tokens": TOKENS, "seed": step}
        if not asked:
            if "text" not in model.able:
                return []
            return [_line("text", "", model.generate(**{**words, "seed": step + i})) for i in range(count)]
        lines = []
        for task, rows in asked:
            chosen = [rows[(step + i) % len(rows)] for i in range(min(count, len(rows)))]
            answers = model.ask_many(task, chosen, **words)
            lines += [_line(task.name, _question(task, row), answer) for row, answer in zip(chosen, answers)]
        return lines

    return samples


def _question(task: "Task", row: dict[str, Any]) -> str:
    asked = prompt(task, row)
    return " ".join(shown(segment) for segment in asked if not segment.target) or shown(asked[-1])


def _line(task: str, question: str, answer: Any) -> str:
    return f"{task}: {_short(question)} → {_short(told(answer))}" if question else f"{task}: {_short(told(answer))}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
