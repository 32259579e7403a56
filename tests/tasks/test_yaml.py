"""Tasks in YAML: what they do, and what is said about faulty ones."""

from pathlib import Path

import pytest

from polytask.errors import ConfigError, TaskError
from polytask.tasks import Image, Task, Text, check, get_task, prompt
from polytask.tasks.yaml import dump, load_task, read_task

EXAMPLE = Path(__file__).parents[2] / "examples" / "tasks" / "sentiment.yaml"


def test_the_example_file_is_a_task_like_any_other():
    task = get_task(EXAMPLE)
    rows = [{"text": "Good dog", "label": "positive"}, {"text": "Bad cat", "label": "negative"}]
    assert isinstance(task, Task)
    assert prompt(task, {"text": "Hm"}, rows[:1]) == [
        Text("Is this negative or positive? Good dog"),
        Text("positive", target=True),
        Text("Is this negative or positive? Hm"),
    ]
    assert [choice[0].text for choice in task.choices(rows[0])] == ["negative", "positive"]
    assert task.metrics([["positive"], ["positive"]], rows)["accuracy"] == 0.5
    assert task.per_example([["positive"], ["positive"]], rows) == [1.0, 0.0]


def test_what_is_dumped_loads_as_the_same_task(tmp_path):
    task = load_task(EXAMPLE)
    (tmp_path / "copy.yaml").write_text(dump(task))
    assert load_task(tmp_path / "copy.yaml") == task
    with pytest.raises(TaskError, match="builtin tasks are known by name"):
        dump(get_task("chat"))


def test_fields_come_from_the_templates_unless_listed():
    task = read_task("name: capital\nprompt: 'Capital of {country}? {{answer in one word}}'\ntarget: '{city}'\n")
    assert task.fields["country"].required
    assert not task.fields["city"].required
    assert [name for name, field in task.fields.items() if field.answer] == ["city"]
    assert task.segments(check(task, {"country": "France"})) == [Text("Capital of France? {answer in one word}")]
    with pytest.raises(TaskError, match="field 'country' is missing"):
        check(task, {"city": "Paris"})


def test_a_picture_stands_where_its_template_says():
    task = read_task(
        "name: look\nfields:\n  image: {type: picture}\n  what: asked\n  said: answer\n"
        "prompt: 'Look: {image} {what}?'\ntarget: '{said}'\n"
    )
    asked = check(task, {"image": b"bytes", "what": "Red", "said": "yes"})
    assert task.segments(asked) == [Text("Look:"), Image(b"bytes"), Text("Red?"), Text("yes", target=True)]
    with pytest.raises(ConfigError, match="look:3: 'a' is a picture, which no template writes; use base: drawing"):
        read_task("name: x\nprompt: '{b}'\ntarget: '{a}'\nfields: {a: {type: picture}, b: text}", "look")


def test_a_list_field_gives_choices_and_several_right_answers():
    task = read_task(
        "name: quiz\nfields:\n  q: asked\n  options: {type: list}\n  right: {type: list, required: false}\n"
        "prompt: '{q}'\ntarget: '{right}'\nchoices: options\nmetrics: exact_match\n"
    )
    example = check(task, {"q": "Even?", "options": ["1", "2", "4"], "right": ["2", "4"]})
    assert [choice[0].text for choice in task.choices(example)] == ["1", "2", "4"]
    assert task.metrics([["4"]], [example]) == {"exact_match": 1.0}


def test_a_base_lends_what_is_not_written():
    task = read_task("name: auf-deutsch\nbase: translation\noptions: {target_lang: de}\nprompt: 'Deutsch: {source}'\n")
    assert task.segments({"source": "a", "target": "b"}) == [Text("Deutsch: a"), Text("b", target=True)]
    assert task.metrics([["b c d e"]], [{"source": "a", "target": "b c d e"}])["bleu"] == pytest.approx(100)


def test_choices_are_words_even_where_yaml_sees_booleans():
    task = read_task("name: x\nprompt: '{a}'\ntarget: '{b}'\nchoices: [yes, no]\n")
    assert [choice[0].text for choice in task.choices({})] == ["yes", "no"]


OPTIONS = "name: x\nbase: {}\noptions:\n  {}"
GOOD = "name: x\nprompt: '{a}'\ntarget: '{b}'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\npromt: y\n", r"f.yaml:2: a task has no 'promt': did you mean 'prompt'\?$"),
        (GOOD + "metrics: [accuracy, blue]", "f.yaml:4: metric 'blue' is unknown: did you mean 'bleu'"),
        (GOOD + "metrics: rouge\nprimary: rouge3", "f.yaml:5: primary 'rouge3' is unknown: did you mean 'rouge"),
        (GOOD + "metrics: []", "f.yaml:4: metrics is empty"),
        (GOOD + "name: y", "f.yaml:4: 'name' is written twice"),
        (GOOD + "choices: [a]", "f.yaml:4: choices are two or more"),
        (GOOD + "choices: a", "f.yaml:4: choices 'a' is unknown"),
        (GOOD + "fields: {c: it}", "f.yaml:2: prompt names the unknown field 'a'"),
        (GOOD + "fields: {a: {hlp: it}}", "f.yaml:4: field 'a' has no 'hlp': did you mean 'help'"),
        (GOOD + "fields: {a: {required: maybe}}", "f.yaml:4: required 'maybe' is unknown"),
        (GOOD + "options: {a: 1}", "f.yaml:4: options are those of a base"),
        ("name: x\nbase: transltion", "f.yaml:2: base 'transltion' is unknown: did you mean 'translation'"),
        ("name: x\nbase: chat", "f.yaml:2: base 'chat' is unknown"),
        ("name: x\nbase: translation\noptions: {lang: de}", "f.yaml:3: .*no option 'lang'"),
        (
            OPTIONS.format("translation", "source_lang: en\n  target_lang: no"),
            "f.yaml:5: .*target_lang must be a text, not False",
        ),
        (OPTIONS.format("infilling", "rate: '15%'"), "f.yaml:4: .*rate must be a number, not '15%'"),
        (OPTIONS.format("code", "k: 10"), "f.yaml:4: .*k must be a list, each a whole number, not 10"),
        (OPTIONS.format("code", "unsafe: 1"), "f.yaml:4: .*unsafe must be true or false, not 1"),
        (OPTIONS.format("classification", "labels: [a, no]"), "f.yaml:4: .*labels must be a list, each a text"),
        (OPTIONS.format("classification", "labels: a"), "f.yaml:4: .*labels must be a list, each a text, not 'a'"),
        ("name: x\nbase: translation\noptions: de", "f.yaml:3: options is written as"),
        ("name: x\nprompt: 'a {b'\ntarget: c", "f.yaml:2: prompt: .*for braces"),
        ("name: x\nprompt: '{a.__class__}'\ntarget: c", "f.yaml:2: prompt: .*not a field's name alone"),
        ("name: x\nprompt: '{}'\ntarget: c", "f.yaml:2: prompt: .*not a field's name alone"),
        ("name: x\nprompt: a", "f.yaml:1: 'target' is missing"),
        ("name: ../x\nprompt: a\ntarget: b", "f.yaml:1: '../x' cannot be a task's name"),
        ("- a", "f.yaml:1: a task is written as"),
        ("a: [", "f.yaml:.*not YAML"),
        ("", "f.yaml: the file is empty"),
    ],
)
def test_mistakes_come_with_their_line(text, message):
    with pytest.raises(ConfigError, match=message):
        read_task(text, "f.yaml")


def test_a_file_that_is_not_there_says_so():
    with pytest.raises(ConfigError, match=r"nowhere.yaml: the task file cannot be read"):
        get_task("nowhere.yaml")
