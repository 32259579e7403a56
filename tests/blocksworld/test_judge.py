"""The judge accepts what is right however it is worded, and nothing else; guessing does not pay."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.blocksworld import SPLITS, TASKS, baselines, example, examples, judge
from polytask.blocksworld.baselines import nearest_rows
from polytask.blocksworld.judge import given as shown
from polytask.blocksworld.judge import split_story, wanted
from polytask.blocksworld.language import describe, read
from polytask.blocksworld.scene import COLOURS, SHAPES
from polytask.errors import DataError, TaskError

indices = st.integers(0, 2**40)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(TASKS)), indices, st.sampled_from(SPLITS), st.integers(1, 5))
def test_the_row_s_own_answer_is_right(task, index, split, most):
    row = example(task, index, split=split, objects=(1, most))
    answer = wanted(task, row)
    assert judge(task, answer, row)
    assert not judge(task, "", row)
    assert not judge(task, f"{answer} {answer}", row)
    if task != "code":  # blanks are Python's to count there
        assert judge(task, f"  {answer.replace(' ', '  ')}\n", row)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(TASKS)), indices, st.randoms(use_true_random=False))
def test_an_answer_with_one_word_changed_is_wrong(task, index, rng):
    """A word for another of its kind: colour for colour, shape for shape, so that it stays good language."""
    row = example(task, index)
    answer = wanted(task, row)
    words = [word for word in (*COLOURS, *SHAPES) if word in answer.replace('"', " ").replace(".", " ").split()]
    if not words:
        return
    word = rng.choice(words)
    kind = COLOURS if word in COLOURS else SHAPES
    other = rng.choice([change for change in kind if change != word and change not in answer])
    assert not judge(task, answer.replace(word, other, 1), row)


@settings(max_examples=100, deadline=None)
@given(indices, st.randoms(use_true_random=False))
def test_a_summary_may_be_worded_and_ordered_otherwise(index, rng):
    row = example("summarization", index)
    scene = list(read(row["summary"]))
    rng.shuffle(scene)
    for template in ("see", "show", "is", "now"):
        assert judge("summarization", describe(tuple(scene), "en", template), row)
    moved = [scene[0]._replace(cell=next(c for c in range(9) if c not in {b.cell for b in scene})), *scene[1:]]
    assert not judge("summarization", describe(tuple(moved), "en", "now"), row)
    if len(scene) > 1:
        assert not judge("summarization", describe(tuple(scene[1:]), "en", "now"), row)
    assert not judge("summarization", row["document"], row)


def test_the_end_of_a_story_is_judged_alone_or_with_its_story():
    for row in examples("text", 100):
        story, end = split_story(row["text"])
        assert judge("text", end, row)
        assert judge("text", row["text"], row)
        assert not judge("text", story, row)
        assert not judge("text", f"Another story. {end}", row)


def test_a_program_is_judged_by_what_it_draws():
    row = next(row for row in examples("code", 100, objects=(2, 2)) if "for" not in row["solution"])
    head, first, second = row["solution"].split("\n")
    assert judge("code", "\n".join([head, second, first]), row)
    assert judge("code", "\n".join([head, "    n = 1", second, first, first]), row)
    assert not judge("code", "\n".join([head, first]), row)
    assert not judge("code", "\n".join([head, first, second, "    import os"]), row)
    assert not judge("code", row["prompt"], row)


def test_a_reply_may_be_a_phrase_or_a_sentence():
    told = "I see a small red circle on the left and a large blue star on the right."
    turns = [
        {"role": "user", "content": f"{told} Where is the red circle?"},
        {"role": "assistant", "content": "The red circle is on the left."},
        {"role": "user", "content": "The red circle moves up. Where is the red circle?"},
        {"role": "assistant", "content": "The red circle is at the top left."},
    ]
    row = {"messages": turns}
    assert judge("chat", "The red circle is at the top left.", row)
    assert judge("chat", "at the top left", row)
    assert not judge("chat", "on the left", row)
    assert not judge("chat", "The blue star is at the top left.", row)


def test_labels_and_answers_may_differ_in_case_and_full_stop():
    assert judge("classification", "Happy.", {"text": "", "label": "happy", "labels": ["happy", "sad"]})
    assert not judge("classification", "unhappy", {"text": "", "label": "happy", "labels": ["happy", "sad"]})
    assert judge("answering", "At the top.", {"question": "", "context": "", "answers": ["at the top"]})
    assert judge("answering", "b", {"question": "", "context": "", "answers": ["a", "b"]})
    assert not judge("translation", "der Kreis", {"source": "", "target": "Der Kreis"})


@pytest.mark.parametrize("task", TASKS)
def test_guessing_does_not_pay(task):
    """200 rows of the test split: at most 0.40, where chance is 0.25 for labels at most 0.35."""
    found = baselines(task, list(examples(task, 200, split="test")), list(examples(task, 3000)))
    assert set(found) == {"majority", "copy", "nearest"}
    assert all(0 <= share <= (0.35 if task == "classification" else 0.40) for share in found.values())


def test_baselines_find_what_is_there_to_find():
    """They can reach 1: on their own training rows, on rows of one answer, on answers that stand in the text."""
    rows = list(examples("answering", 50))
    assert baselines("answering", rows, rows)["nearest"] == 1.0
    same = [{"text": f"text {i}", "label": "sad", "labels": ["sad", "calm"]} for i in range(5)]
    assert baselines("classification", same, same)["majority"] == 1.0
    echo = [{"source": "a b", "target": "a b"}]
    assert baselines("translation", echo, [{"source": "c", "target": "c"}]) == {
        "majority": 0.0,
        "copy": 1.0,
        "nearest": 0.0,
    }
    with pytest.raises(DataError, match="need test rows"):
        baselines("text", [], rows)


def test_the_nearest_row_is_the_one_by_brute_force():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 6))) for _ in range(60)]
    queries = [" ".join(rng.choices("abcdefghxyz", k=5)) for _ in range(40)]

    def overlap(one, other):
        one, other = set(one.split()), set(other.split())
        return len(one & other) / len(one | other)

    for query, found in zip(queries, nearest_rows(queries, texts)):
        assert overlap(query, texts[found]) == pytest.approx(max(overlap(query, text) for text in texts))


def test_unknown_tasks_are_refused():
    with pytest.raises(TaskError, match="did you mean 'code'"):
        judge("coding", "", {})


def test_what_is_shown_holds_no_answer():
    for task in ("translation", "summarization", "code", "text"):
        for row in examples(task, 50, objects=(2, 3)):
            if len(wanted(task, row)) > 30:
                assert wanted(task, row) not in shown(task, row)
