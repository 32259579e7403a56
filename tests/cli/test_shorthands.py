"""The verbs of single tasks say what `ask` says of the same fields, given as an argument or by a pipe."""

import json

import pytest

CASES = {  # verb, main field, its options; task, name of the main field, the same options
    "generate": ("generate", "Once", [], "text", "text", []),
    "translate": ("translate", "A dog.", ["--to", "de"], "translation", "source", ["--target_lang", "de"]),
    "from": (
        "translate", "A dog.", ["--to", "German", "--from", "en"],
        "translation", "source", ["--target_lang", "German", "--source_lang", "en"],
    ),
    "answer": ("answer", "Who?", [], "answering", "question", []),
    "context": ("answer", "Who?", ["--context", "I did."], "answering", "question", ["--context", "I did."]),
    "choices": ("answer", "Who?", ["--choices", "I", "you"], "answering", "question", ["--choices", "I", "you"]),
    "summarize": ("summarize", "A long text.", [], "summarization", "document", []),
    "code": ("code", "Add two numbers.", [], "code", "prompt", []),
    "classify": ("classify", "Good.", ["--labels", "yes", "no"], "classification", "text", ["--labels", "yes", "no"]),
}  # fmt: skip
GREEDY = ["--temperature", 0, "--max-tokens", 12]


@pytest.mark.parametrize(("verb", "main", "options", "task", "field", "fields"), CASES.values(), ids=CASES)
def test_a_shorthand_says_what_ask_says(polytask, babbler, verb, main, options, task, field, fields):
    asked = polytask("ask", babbler, task, f"--{field}", main, *fields, *GREEDY, "--json")
    assert asked.exit_code == 0, asked.stderr
    plain = polytask("ask", babbler, task, f"--{field}", main, *fields, *GREEDY).stdout
    assert plain.strip()
    for given, stdin in (([main], None), ([], f"{main}\n")):
        said = polytask(verb, babbler, *given, *options, *GREEDY, "--json", stdin=stdin)
        assert said.exit_code == 0, said.stderr
        assert json.loads(said.stdout) == json.loads(asked.stdout)
        assert polytask(verb, babbler, *given, *options, *GREEDY, stdin=stdin).stdout == plain


def test_what_is_given_as_an_argument_counts_before_the_pipe(polytask, babbler):
    said = [polytask("summarize", babbler, *GREEDY, *given, stdin="A dog.") for given in ([], ["A cat."])]
    alone = polytask("summarize", babbler, *GREEDY, "A cat.")
    assert said[1].stdout == alone.stdout != said[0].stdout


@pytest.mark.parametrize(
    ("verb", "field"),
    [("generate", "text"), ("answer", "question"), ("summarize", "document"), ("code", "prompt"), ("classify", "text")],
)
def test_a_shorthand_without_a_text_says_how_to_give_one(polytask, babbler, verb, field):
    said = polytask(verb, babbler, stdin="\n")
    assert said.exit_code == 2
    assert f"There is no {field}: give it after the model, or by a pipe." in said.stderr
