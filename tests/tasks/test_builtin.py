"""What is each task's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import corpus_bleu, corpus_chrf

from polytask.errors import TaskError
from polytask.tasks import Text, get_task
from polytask.tasks.builtin.infilling import fill, mask
from polytask.tasks.languages import language


@pytest.mark.parametrize(
    "name", ["German", "german", " de ", "DE", "deu", "ger", "Deutsch", "de-AT", "de_DE", "deu_Latn"]
)
def test_a_language_goes_by_many_names(name):
    assert (language(name).code, language(name).name) == ("de", "German")


@pytest.mark.parametrize(
    ("name", "hint"), [("Germn", "german"), ("Frensh", "french"), ("xx", "there are|did you mean")]
)
def test_an_unknown_language_names_the_nearest(name, hint):
    with pytest.raises(TaskError, match=hint):
        language(name)


def test_translation_asks_alike_whether_or_not_the_source_language_is_known():
    task, example = get_task("translation"), {"source": "Hi", "target_lang": "fr"}
    assert (
        task.segments(example) == task.segments({**example, "source_lang": "en"}) == [Text("Translate to French: Hi")]
    )
    with pytest.raises(TaskError, match="Unknown language 'Englsh'"):
        task.segments({**example, "source_lang": "Englsh"})


def test_translation_metrics_are_sacrebleus_by_direction():
    rows = [
        ("de", "Ein Hund rennt schnell den Hügel hinauf.", "Ein Hund läuft schnell den Hügel hinauf."),
        ("de", "Die Katze schläft heute.", "Die Katze schläft heute lange."),
        ("zh", "狗在山上跑。", "狗在山上奔跑。"),
    ]
    examples = [{"source": "x", "source_lang": "en", "target_lang": lang, "target": gold} for lang, _, gold in rows]
    scores = get_task("translation").metrics([[said] for _, said, _ in rows], examples)
    german = corpus_bleu([row[1] for row in rows[:2]], [[row[2] for row in rows[:2]]]).score
    chinese = corpus_bleu([rows[2][1]], [[rows[2][2]]], tokenize="zh").score
    assert scores["bleu_en-de"] == pytest.approx(german)
    assert scores["bleu_en-zh"] == pytest.approx(chinese)
    assert scores["bleu"] == pytest.approx((german + chinese) / 2)
    assert scores["chrf_en-zh"] == pytest.approx(corpus_chrf([rows[2][1]], [[rows[2][2]]]).score)
    assert "tok:zh" in scores["bleu_signature_en-zh"]


def test_answering_reads_the_context_and_scores_choices():
    task = get_task("answering")
    example = {"question": "Who runs?", "context": "A dog runs.", "choices": ["a dog", "a cat"], "answers": ["a dog"]}
    assert task.segments(example) == [Text("Context: A dog runs.\nQuestion: Who runs?"), Text("a dog", target=True)]
    assert task.choices(example) == [[Text("a dog", target=True)], [Text("a cat", target=True)]]
    assert task.choices({"question": "q"}) is None
    assert task.metrics([["a cat"], ["a dog"]], [example, example])["accuracy"] == 0.5


def test_an_unanswerable_question_wants_an_empty_answer():
    task, example = get_task("answering"), {"question": "Who flies?", "answers": []}
    assert task.segments(example)[-1] == Text("", target=True)
    assert task.metrics([[""], ["a dog"]], [example] * 2) == {"squad_f1": 0.5, "exact_match": 0.5}


def test_rouge_counts_words_beyond_ascii_where_the_language_is_named():
    example = {"document": "x", "summary": "Собака бежит"}
    assert get_task("summarization", lang="ru").metrics([["Собака спит"]], [example])["rouge1"] == pytest.approx(0.5)


def test_every_assistant_turn_is_a_target_and_the_system_prompt_comes_first():
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    example = {"messages": [{"role": role, "content": text} for role, text in turns], "system": "Be brief."}
    segments = get_task("chat", system="unused").segments(example)
    assert [(s.role, s.target) for s in segments] == [
        ("system", False), ("user", False), ("assistant", True), ("user", False), ("assistant", True),
    ]  # fmt: skip
    assert segments[0].text == "Be brief."


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "asistant", "content": "a"}], "message 1 has the role 'asistant': did you mean 'assistant'"),
        ([{"role": "user"}], "message 1 needs a text"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "message 2 is a system prompt"),
        ([], "'messages' is empty"),
    ],
)
def test_chat_names_the_faulty_message(messages, message):
    with pytest.raises(TaskError, match=message):
        get_task("chat").segments({"messages": messages})


def test_classification_takes_labels_from_the_example_before_its_own():
    task = get_task("classification", labels=["bad", "good"])
    assert task.segments({"text": "x"}) == [Text("Classify as bad, good: x")]
    assert task.segments({"text": "x", "labels": ["a", "b"]}) == [Text("Classify as a, b: x")]
    assert get_task("classification").choices({"text": "x"}) is None
    assert task.parse([Text(" Good\n")]) == "good"
    with pytest.raises(TaskError, match="'goood' is not one of the labels: did you mean 'good'"):
        task.segments({"text": "x", "label": "goood"})


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab \n\t.,[]12345中文é\u00a0\u2003"), max_size=60) | st.text(max_size=60))
def test_masking_is_undone_by_what_the_target_says(text):
    task = get_task("infilling")
    if not any(not sign.isspace() for sign in text):
        with pytest.raises(TaskError, match="no word to mask"):
            mask(text)
        return
    try:
        given_part, target = task.segments({"text": text})
    except TaskError:
        assert "[" in text  # every word holds a mark of its own
        return
    assert mask(text) == mask(text)
    assert fill(given_part.text.removeprefix("Fill in: "), task.parse([target])) == text


@pytest.mark.parametrize(("words", "masked", "spans"), [(1000, 150, 50), (20, 3, 1), (2, 1, 1), (1, 1, 1)])
def test_masking_has_the_proportions_of_t5(words, masked, spans):
    _, answers = mask(" ".join(f"w{i}" for i in range(words)))
    assert sum(len(answer.split()) for answer in answers.values()) == masked
    assert len(answers) == spans


def test_masks_fall_anywhere_in_the_text():
    places = {mask(f"word{i} b c d e f")[0].split().index("[1]") for i in range(100)}
    assert places == set(range(6))


def test_masks_skip_the_numbers_that_the_text_has_itself():
    masked, answers = mask("As shown before [1] the dog runs up the hill in the rain today")
    assert masked.count("[1]") == 1
    assert list(answers) == ["[2]"]


def test_masked_text_needs_one_mark_for_each_answer():
    task = get_task("infilling")
    with pytest.raises(TaskError, match=r"\[1\] to \[2\]"):
        task.segments({"masked": "A [1] runs.", "answers": ["dog", "hill"]})
    with pytest.raises(TaskError, match="needs 'text', or 'masked'"):
        task.segments({})


def test_infilling_scores_each_mark():
    task, example = get_task("infilling"), {"masked": "[1] and [2]", "answers": ["a red dog", "hills"]}
    scores = task.metrics([[task.parse([Text("noise [1] a red cat [2] hills")])]], [example])
    assert scores["exact_match"] == 0.0
    assert scores["token_f1"] == pytest.approx((2 / 3 + 1) / 2)
