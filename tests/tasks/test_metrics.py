"""Metrics against values worked out by hand or by other programs."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from polytask.errors import ConfigError, TaskError
from polytask.tasks.metrics import EACH, METRICS, estimate_pass_at_k, normalize, pass_table


@pytest.mark.parametrize(
    ("prediction", "golds", "f1", "exact"),
    [
        ("The Eiffel Tower!", ["Eiffel tower"], 1.0, 1.0),  # case, signs and articles do not count
        ("in Paris, France", ["Paris"], 0.5, 0.0),  # precision 1/3, recall 1
        ("Paris", ["London", "Paris France"], 2 / 3, 0.0),  # the best of the references
        ("the", [""], 1.0, 1.0),  # nothing left against nothing
        ("dog", [""], 0.0, 0.0),
        ("", ["dog"], 0.0, 0.0),
        ("dog dog", ["dog"], 2 / 3, 0.0),  # words count as often as they stand
        ("U.S.", ["us"], 1.0, 1.0),
    ],
)
def test_squad_scores_by_hand(prediction, golds, f1, exact):
    assert METRICS.get("squad_f1")([prediction], [golds])["squad_f1"] == pytest.approx(f1)
    assert METRICS.get("exact_match")([prediction], [golds])["exact_match"] == exact


def test_normalization_follows_squads_script():
    assert normalize("  An  apple, the-other A.") == "apple theother"


def test_bleu_with_unequal_numbers_of_references_is_sacrebleus():
    said, golds = (
        ["the cat sat on a mat", "a dog ran"],
        [["the cat sat on the mat", "a cat sat on a mat"], ["a dog ran"]],
    )
    scores = METRICS.get("bleu")(said, golds)
    assert scores["bleu"] == pytest.approx(corpus_bleu(said, [[golds[0][0], golds[1][0]], [golds[0][1], None]]).score)
    assert "tok:13a" in scores["bleu_signature"]


def test_rouge_is_rouge_scores_mean():
    said, golds = ["a dog runs fast", "cats sleep"], ["the dog runs", "the cat sleeps all day"]
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = sum(scorer.score(gold, text)["rougeL"].fmeasure for gold, text in zip(golds, said)) / 2
    scores = METRICS.get("rouge")(said, [[gold] for gold in golds])
    assert scores["rougeL"] == pytest.approx(expected)
    assert scores["rouge1"] != scores["rouge2"]


def test_macro_f1_by_hand():
    # a: 1 right, named once, true twice: 2/3. b: 1 right, named twice (one of them truly a), true once: 2/3. c: 0.
    scores = METRICS.get("macro_f1")(["a", "b", "b", "zzz"], [["a"], ["a"], ["b"], ["c"]])
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_token_f1_counts_case_and_signs():
    assert EACH["token_f1"]("A dog.", ["a dog."]) == pytest.approx(2 / 3)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_pass(case):
    samples, passed, k = case
    draws = list(combinations([True] * passed + [False] * (samples - passed), k))
    assert estimate_pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_by_hand_and_beyond_the_samples():
    assert estimate_pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert estimate_pass_at_k(200, 1, 100) == pytest.approx(0.5)
    with pytest.raises(TaskError, match="pass@6 of 5"):
        estimate_pass_at_k(5, 2, 6)
    assert pass_table([(2, 1), (1, 1)]) == {"pass@1": 0.75}


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rouge'"):
        METRICS.get("rogue")
