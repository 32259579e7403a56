"""Metrics by name: each takes predictions and, for every prediction, its references, and returns names with values.

`bleu` and `chrf` run from 0 to 100 as in sacrebleu, all others from 0 to 1. Several references: the best counts.
`EACH` scores one prediction, for the metrics that are means over examples.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

from polytask.errors import TaskError
from polytask.registry import Registry
from polytask.tasks.languages import words_apart

Scores = dict[str, Any]  # values are floats; a name that ends in _signature is a string


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en") -> Scores:
    """Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018), with its signature.

    `language` (a code) picks the tokenizer: Chinese has its own; the others without spaces, and Korean, are cut in
    characters, since their usual tokenizers are large downloads. The signature says which.
    """
    from sacrebleu.metrics.bleu import BLEU

    tokenizer = "zh" if language == "zh" else "char" if not words_apart(language) or language == "ko" else "13a"
    metric = BLEU(tokenize=tokenizer)
    score = metric.corpus_score(list(predictions), _streams(references)).score
    return {"bleu": score, "bleu_signature": str(metric.get_signature())}


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """chrF2 (Popovic 2015) as sacrebleu computes it, with its signature."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    score = metric.corpus_score(list(predictions), _streams(references)).score
    return {"chrf": score, "chrf_signature": str(metric.get_signature())}


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en") -> Scores:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures (Lin 2004), means over the examples, through rouge-score."""
    rows = [rouge_each(prediction, golds, language) for prediction, golds in zip(predictions, references, strict=True)]
    return {name: _mean([row[name] for row in rows]) for name in ROUGE}


def rouge_each(prediction: str, references: Sequence[str], language: str = "en") -> dict[str, float]:
    """ROUGE F-measures of one prediction, best over its references."""
    scores = _rouge_scorer(language).score_multi(list(references), prediction)
    return {name: scores[name].fmeasure for name in ROUGE}


def squad_f1_each(prediction: str, references: Sequence[str]) -> float:
    """Overlap of normalised words, best over the references; without words on one side, both must be empty."""
    return max(_f1(normalize(prediction).split(), normalize(gold).split()) for gold in _answerable(references))


def exact_match_each(prediction: str, references: Sequence[str]) -> float:
    """Whether the normalised prediction is one of the normalised references."""
    return float(any(normalize(prediction) == normalize(gold) for gold in _answerable(references)))


def normalize(answer: str) -> str:
    """Lower case without punctuation, English articles and extra spaces, as SQuAD's own script does it.

    Source: evaluate-v2.0.py (Rajpurkar, Jia and Liang 2018).
    """
    kept = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def token_f1_each(prediction: str, references: Sequence[str]) -> float:
    """Overlap of words and signs as they stand (case counts, nothing is dropped), best over the references."""
    return max(_f1(_words(prediction), _words(gold)) for gold in references)


def accuracy_each(prediction: str, references: Sequence[str]) -> float:
    """Whether the prediction is one of the references, spaces around it aside."""
    return float(prediction.strip() in {gold.strip() for gold in references})


def macro_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """The mean over labels of each label's F1; labels are those of the references.

    A prediction that is no label counts as a miss of the true one, not as a label of its own.
    """
    pairs = [(prediction.strip(), golds[0].strip()) for prediction, golds in zip(predictions, references, strict=True)]
    scores = []
    for label in sorted({gold for _, gold in pairs}):
        right = sum(prediction == gold == label for prediction, gold in pairs)
        named = sum(prediction == label for prediction, _ in pairs) + sum(gold == label for _, gold in pairs)
        scores.append(2 * right / named)
    return {"macro_f1": _mean(scores)}


def estimate_pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased chance that one of k samples passes, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1)."""
    if not 0 <= passed <= samples or not 1 <= k <= samples:
        raise TaskError(f"pass@{k} of {samples} samples, {passed} of them right, is not defined; k is 1 to {samples}.")
    if samples - passed < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def pass_at_k(predictions: Sequence[str | Sequence[str]], references: Sequence[Sequence[str]]) -> Scores:
    """pass@1, and pass@10 and pass@100 where there are as many samples; predictions are programs, references tests.

    Programs run in the sandbox. Raises SandboxError where this machine has none.
    """
    from polytask.tasks.sandbox import run_many

    groups = [[prediction] if isinstance(prediction, str) else list(prediction) for prediction in predictions]
    jobs = [(program, "\n".join(tests)) for group, tests in zip(groups, references, strict=True) for program in group]
    results = iter(run_many(jobs))
    counts = [(len(group), sum(next(results).passed for _ in group)) for group in groups]
    return pass_table(counts)


def pass_table(counts: Sequence[tuple[int, int]], ks: Sequence[int] = (1, 10, 100)) -> Scores:
    """pass@k for the ks that every example's number of samples allows; counts are (samples, passed) of each example."""
    fewest = min((samples for samples, _ in counts), default=0)
    return {f"pass@{k}": _mean([estimate_pass_at_k(n, c, k) for n, c in counts]) for k in ks if k <= fewest}


def _over(name: str, each: Callable[[str, Sequence[str]], float]) -> Callable[..., Scores]:
    def mean(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        return {
            name: _mean([each(prediction, golds) for prediction, golds in zip(predictions, references, strict=True)])
        }

    return mean


def _streams(references: Sequence[Sequence[str]]) -> Any:
    """References the way sacrebleu takes them: the first of every example, the second of every example, ..."""
    most = max((len(golds) for golds in references), default=0)
    return [[golds[i] if i < len(golds) else None for golds in references] for i in range(most)]


def _answerable(references: Sequence[str]) -> list[str]:
    """References with any words left; a question without them has the empty answer (SQuAD 2.0)."""
    return [gold for gold in references if normalize(gold)] or [""]


def _f1(prediction: list[str], gold: list[str]) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    same = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * same / (len(prediction) + len(gold))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


@cache
def _rouge_scorer(language: str) -> Any:
    """English as in the papers, with stemming; others need a tokenizer that does not drop every letter beyond a-z."""
    from rouge_score.rouge_scorer import RougeScorer

    if language == "en":
        return RougeScorer(ROUGE, use_stemmer=True)
    return RougeScorer(ROUGE, tokenizer=_Words() if words_apart(language) else _Characters())


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.casefold())


class _Characters:
    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w", text.casefold())


ROUGE = ["rouge1", "rouge2", "rougeL"]

EACH: dict[str, Callable[[str, Sequence[str]], float]] = {
    "squad_f1": squad_f1_each,
    "exact_match": exact_match_each,
    "token_f1": token_f1_each,
    "accuracy": accuracy_each,
    "rouge1": lambda prediction, references: rouge_each(prediction, references)["rouge1"],
    "rouge2": lambda prediction, references: rouge_each(prediction, references)["rouge2"],
    "rougeL": lambda prediction, references: rouge_each(prediction, references)["rougeL"],
}

METRICS = Registry(
    "metric",
    {
        "bleu": bleu,
        "chrf": chrf,
        "rouge": rouge,
        "macro_f1": macro_f1,
        "pass_at_k": pass_at_k,
        **{name: _over(name, EACH[name]) for name in ("squad_f1", "exact_match", "token_f1", "accuracy")},
    },
)
