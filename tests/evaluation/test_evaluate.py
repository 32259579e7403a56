"""Evaluation with answers that are known beforehand: metrics, intervals, shots, order, reports."""

import json
import random

import pytest

from polytask.errors import ConfigError, DataError, TaskError
from polytask.evaluation.evaluate import draw_shots, evaluate
from polytask.evaluation.intervals import wilson
from polytask.inference.sampling import Sampling
from polytask.tasks import get_task
from tests.evaluation.scripted import Scripted

WORDS = ["the", "a", "dog", "cat", "hill", "runs", "sees", "big", "small", "red", "on", "over"]


def sentence(i):
    return " ".join(random.Random(i).choices(WORDS, k=8)) + "."


def questions(count):
    return [{"question": f"What is {i} and {i}?", "answers": [str(2 * i)]} for i in range(count)]


def pairs(count):
    return [{"source": f"Satz {i}", "target": sentence(i), "target_lang": "en"} for i in range(count)]


def right_every(n):
    """Answers `questions` right but for every n-th."""

    def answer(prompt, sample):
        i = int(prompt.rsplit(" ", 1)[1][:-1])
        return "wrong" if i % n == 0 else f" {2 * i}"

    return answer


def test_accuracy_and_its_interval():
    report = evaluate(Scripted(right_every(5)), get_task("answering"), questions(50))
    assert report.metrics["exact_match"] == pytest.approx(0.8)
    assert report.intervals["exact_match"] == pytest.approx(wilson(40, 50))
    assert report.examples == 50
    assert report.samples[1].answer == report.samples[1].reference == "2"
    assert report.samples[0].answer == "wrong"


def test_choices_are_judged_by_likelihood():
    """As `Model.ask` does: each choice is closed by <|end|>, so the whole likelihood decides."""
    rows = [{"text": f"Text {i}.", "label": "ab"[i % 2], "labels": ["a", "b"]} for i in range(20)]
    like = {"a": 0.2, "b": 0.6}
    report = evaluate(Scripted(like=lambda prompt, choice: like[choice]), get_task("classification"), rows)
    assert report.metrics["accuracy"] == pytest.approx(0.5)
    assert report.metrics["macro_f1"] == pytest.approx((0 + 2 / 3) / 2)
    assert report.samples[0].probabilities == pytest.approx({"a": 0.25, "b": 0.75})
    assert report.intervals["accuracy"] == pytest.approx(wilson(10, 20))
    low, high = report.intervals["macro_f1"]
    assert low < report.metrics["macro_f1"] < high


def test_examples_with_and_without_choices_mix():
    rows = [*questions(3), {"question": "Which is 6 and 6?", "choices": ["12", "13"], "answers": ["12"]}]
    scripted = Scripted(lambda prompt, sample: "0", lambda prompt, choice: 0.9 if choice == "12" else 0.1)
    report = evaluate(scripted, get_task("answering"), rows)
    assert report.metrics["exact_match"] == pytest.approx(0.5)  # 0 and 12


def test_bleu_has_sacrebleus_score_signature_and_interval():
    from sacrebleu.metrics.bleu import BLEU

    rows = pairs(60)

    def answer(prompt, sample):
        i = int(prompt.rsplit(" ", 1)[1])
        return sentence(i) if i % 2 else sentence(i).replace("the", "a")

    report = evaluate(Scripted(answer), get_task("translation"), rows)
    metric = BLEU()
    said = [answer(row["source"], 0) for row in rows]
    theirs = metric.corpus_score(said, [[row["target"] for row in rows]], n_bootstrap=1000)
    assert report.metrics["bleu"] == pytest.approx(theirs.score)
    assert report.signatures["bleu"].startswith("nrefs:1")
    low, high = report.intervals["bleu"]
    assert (high - low) / 2 == pytest.approx(theirs._ci, rel=0.15)
    assert low < theirs.score < high
    assert report.intervals["chrf"][0] < report.metrics["chrf"] < report.intervals["chrf"][1]
    assert not report.notes


def test_means_over_directions_are_resampled():
    rows = [row | {"target_lang": lang} for row, lang in zip(pairs(20), ["en", "de"] * 10)]
    report = evaluate(Scripted(lambda prompt, sample: sentence(3)), get_task("translation"), rows)
    assert {"bleu", "chrf", "bleu_en", "bleu_de"} <= set(report.metrics)
    low, high = report.intervals["chrf"]
    assert low < report.metrics["chrf"] < high


def test_pass_at_k_counts_all_samples():
    from polytask.tasks.builtin.code import Code

    rows = [{"prompt": f"f{i}: give {i}", "tests": [f"assert f{i}() == {i}"]} for i in range(4)]

    def answer(prompt, sample):
        i = int(prompt.rsplit(" ", 1)[1])
        return f"def f{i}():\n    return {i}\n" if sample < i else "def f():\n    pass\n"

    report = evaluate(Scripted(answer), Code(k=(1, 3), unsafe=True), rows, sampling=Sampling(n=3, temperature=1.0))
    assert report.metrics["pass@1"] == pytest.approx((0 + 1 / 3 + 2 / 3 + 1) / 4)
    assert report.metrics["pass@3"] == pytest.approx(3 / 4)
    assert report.intervals["pass@3"] == pytest.approx(wilson(3, 4))
    assert report.reproduce["sampling"]["seed"] == 0, "a draw that nobody can repeat is no figure"


def test_shots_come_from_others_and_depend_on_seed_and_place_alone():
    rows = questions(12)
    asked = Scripted(lambda prompt, sample: "0")
    evaluate(asked, get_task("answering"), rows, shots=3, shot_examples=rows, limit=10)
    assert len(asked.prompts) == 10
    for row, prompt in zip(rows, asked.prompts):
        assert [segment.target for segment in prompt] == [False, True] * 3 + [False]
        assert row["question"] in prompt[-1].text
        assert all(row["question"] not in segment.text for segment in prompt[:-1])
        assert len({segment.text for segment in prompt[:-1:2]}) == 3
    again = Scripted(lambda prompt, sample: "0")
    evaluate(again, get_task("answering"), rows, shots=3, shot_examples=rows, limit=5, batch=2)
    assert again.prompts == asked.prompts[:5]
    other = Scripted(lambda prompt, sample: "0")
    evaluate(other, get_task("answering"), rows, shots=3, shot_examples=rows, limit=5, seed=1)
    assert other.prompts != again.prompts


def test_the_asked_example_is_no_shot_however_its_file_writes_it():
    """An answer that stands alone, or as in SQuAD, is made a list before it is asked about."""
    rows = [row | {"answers": {"text": row["answers"], "answer_start": [0]}} for row in questions(4)]
    asked = Scripted(lambda prompt, sample: "0")
    evaluate(asked, get_task("answering"), rows, shots=3, shot_examples=rows)
    for row, prompt in zip(rows, asked.prompts):
        assert all(row["question"] not in segment.text for segment in prompt[:-1])


def test_shots_are_drawn_evenly():
    rows = questions(6)
    counts = dict.fromkeys(range(6), 0)
    for seed in range(600):
        (drawn,) = draw_shots(rows[:1], 2, rows, seed)
        for shot in drawn:
            counts[rows.index(shot)] += 1
    assert counts.pop(0) == 0
    assert all(200 < count < 280 for count in counts.values())  # 240 expected, standard deviation 12


def test_copies_of_the_asked_example_are_no_shots():
    rows = [questions(1)[0]] * 5 + questions(3)[1:]
    (drawn,) = draw_shots(rows[:1], 2, rows, 0)
    assert {shot["question"] for shot in drawn} == {"What is 1 and 1?", "What is 2 and 2?"}
    with pytest.raises(DataError, match="only 2 others"):
        draw_shots(rows[:1], 3, rows, 0)


def test_progress_comes_with_every_batch():
    told = []
    scripted = Scripted(lambda prompt, sample: "0")
    evaluate(
        scripted, get_task("answering"), questions(10), batch=4, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert scripted.calls == [4, 4, 2]


def test_a_stop_is_not_swallowed():
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Scripted(lambda prompt, sample: "0"), get_task("answering"), questions(3), progress=stop)


def test_a_missing_reference_is_told_before_anything_is_asked():
    scripted = Scripted(lambda prompt, sample: "0")
    with pytest.raises(TaskError, match="example 3 has no 'answers'"):
        evaluate(scripted, get_task("answering"), [*questions(2), {"question": "Why?"}])
    assert not scripted.prompts


@pytest.mark.parametrize(
    ("rows", "words", "error", "sentence"),
    [
        ([], {}, DataError, "no example"),
        (questions(3), {"shots": 3}, DataError, "only 0 others"),
        (questions(3), {"shots": -1}, ConfigError, "shots=-1"),
        (questions(3), {"limit": 0}, ConfigError, "limit=0"),
        ([{"query": "Why?"}], {}, TaskError, "question"),
    ],
)
def test_mistakes_are_sentences(rows, words, error, sentence):
    with pytest.raises(error, match=sentence):
        evaluate(Scripted(lambda prompt, sample: "0"), get_task("answering"), rows, **words)


def test_a_text_needs_a_network():
    with pytest.raises(TaskError, match="perplexity"):
        evaluate(Scripted(), get_task("text"), [{"text": "Once."}])


def test_a_report_is_json_and_a_table():
    rows = questions(30)
    report = evaluate(
        Scripted(right_every(3)), get_task("answering"), rows, shots=1, shot_examples=rows, seed=4,
        fingerprints={"data": "abc"},
    )  # fmt: skip
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["metrics"] == report.metrics
    assert plain["reproduce"] | {"task": "answering", "shots": 1, "seed": 4, "data": "abc"} == plain["reproduce"]
    assert {"polytask", "torch", "python"} <= set(plain["reproduce"])
    text = "\n".join(report.lines())
    assert "30 examples, 1 shot" in text
    assert "0.6667" in text
    low, high = wilson(20, 30)
    assert f"{low:.4f} to {high:.4f}" in text
