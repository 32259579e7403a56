"""Fields, checking and prompting, the same for every task."""

import pytest

from polytask.blocksworld import example
from polytask.blocksworld.render import render
from polytask.blocksworld.scene import Block
from polytask.errors import TaskError
from polytask.tasks import TASKS, Image, Task, Text, check, get_task, prompt
from polytask.tasks.picture import png
from polytask.tasks.segment import TO_DRAW

EXAMPLES = {
    "text": {"text": "A dog runs."},
    "translation": {"source": "A dog runs.", "target": "Ein Hund rennt.", "target_lang": "German"},
    "answering": {"question": "Who runs?", "context": "A dog runs.", "answers": ["A dog", "dog"]},
    "summarization": {"document": "A dog runs up a hill.", "summary": "A dog runs."},
    "chat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    "code": {"prompt": "Add two numbers as add(a, b).", "solution": "def add(a, b):\n    return a + b", "tests": ["1"]},
    "classification": {"text": "Good dog", "label": "positive", "labels": ["negative", "positive"]},
    "infilling": {"masked": "A [1] runs up a [2].", "answers": ["dog", "hill"]},
    **{name: example(name, 0) for name in ("drawing", "captioning", "editing")},
}
OTHER = png(render((Block("small", "red", "square", 4),)))  # a picture of none of them


@pytest.mark.parametrize("name", list(TASKS))
def test_every_builtin_task_has_a_target_that_prompting_drops(name):
    task, example = get_task(name), EXAMPLES[name]
    segments = task.segments(check(task, example))
    assert isinstance(task, Task)
    assert segments[-1].target
    assert task.primary in task.metric_names or (task.primary, task.metric_names) == ("", ())
    if name == "text":
        assert prompt(task, example) == [Text("A dog runs.", target=True)]  # a document to go on with
    else:
        assert prompt(task, example) == [*segments[:-1], *([TO_DRAW] if isinstance(segments[-1], Image) else [])]


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("text", "code")])
def test_its_own_target_is_a_perfect_answer_and_another_is_not(name):
    task, example = get_task(name), check(get_task(name), EXAMPLES[name])
    target = task.segments(example)[-1]
    other = Image(OTHER) if isinstance(target, Image) else Text("[1] zebra [2] zebra")
    right, wrong = task.parse([target]), task.parse([other])
    best, worst = (task.metrics([[answer]], [example])[task.primary] for answer in (right, wrong))
    top = 100.0 if task.primary == "bleu" else 1.0
    assert best == pytest.approx(top)
    assert worst < 0.6 * top
    scores = task.per_example([[right], [wrong]], [example, example])
    if scores is not None:
        assert scores == pytest.approx([best, worst])


def test_prompting_puts_shots_with_their_answers_first():
    task = get_task("translation", target_lang="de")
    shots = [{"source": "A cat.", "target": "Eine Katze."}]
    assert prompt(task, {"source": "A dog.", "target": "Ein Hund."}, shots) == [
        Text("Translate to German: A cat."),
        Text("Eine Katze.", target=True),
        Text("Translate to German: A dog."),
    ]


def test_a_shot_without_an_answer_is_refused():
    with pytest.raises(TaskError, match="example 1 of those to learn from has no answer"):
        prompt(get_task("summarization"), {"document": "a"}, [{"document": "b"}])


def test_a_conversation_that_ends_with_the_user_is_kept_whole():
    messages = [*EXAMPLES["chat"]["messages"], {"role": "user", "content": "How are you?"}]
    assert [s.role for s in prompt(get_task("chat"), {"messages": messages})] == ["user", "assistant", "user"]


def test_check_names_missing_fields_and_those_there_are():
    with pytest.raises(TaskError, match=r"fields 'source', 'target_lang' are missing.*the example has: german"):
        check(get_task("translation"), {"german": "Hund", "source": None})


def test_check_finds_a_misspelt_optional_field_but_drops_other_columns():
    task = get_task("summarization")
    with pytest.raises(TaskError, match="no field 'sumary': did you mean 'summary'"):
        check(task, {"document": "a", "sumary": "b"})
    assert check(task, {"document": "a", "id": 7, "summary": None}) == {"document": "a"}


@pytest.mark.parametrize(
    ("name", "example", "message"),
    [
        ("text", {"text": 3}, "field 'text' is a string, not int"),
        ("chat", {"messages": "hi"}, "field 'messages' is a list of mappings"),
        ("classification", {"text": "a", "labels": [1, 2]}, "field 'labels' is a list of strings, not a list of int"),
        ("text", ["a"], "an example is a mapping"),
    ],
)
def test_check_refuses_fields_of_the_wrong_kind(name, example, message):
    with pytest.raises(TaskError, match=message):
        check(get_task(name), example)


def test_lists_come_as_squad_has_them_or_as_one_string():
    task = get_task("answering")
    squad = {"question": "q", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}
    assert check(task, squad)["answers"] == ["a", "b"]
    assert check(task, {"question": "q", "answers": "a"})["answers"] == ["a"]


def test_unknown_tasks_and_options_name_the_nearest():
    with pytest.raises(TaskError, match="did you mean 'translation'"):
        get_task("translaton")
    with pytest.raises(TaskError, match="no option 'lables'; it has: labels"):
        get_task("classification", lables=["a"])


@pytest.mark.parametrize("answers", [[], [["a"], ["b"]], [[]], ["a"]])
def test_metrics_refuse_answers_that_do_not_match_the_examples(answers):
    with pytest.raises(TaskError, match="answer"):
        get_task("summarization").metrics(answers, [{"document": "a", "summary": "b"}])


def test_metrics_refuse_examples_without_a_reference():
    with pytest.raises(TaskError, match="example 1 has no 'summary'"):
        get_task("summarization").metrics([["a"]], [{"document": "a"}])
