"""The command itself: quick, and one sentence for every mistake."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from polytask.interop.folder import write_model
from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer
from polytask.tokenizers.text import TextTokenizer

VERBS = [
    "demo", "plan", "train", "tune", "eval", "ask", "generate", "chat", "translate", "answer", "summarize", "code",
    "classify", "tasks", "show", "doctor", "systems", "data", "tokenizer",
]  # fmt: skip


def python(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)


def test_the_command_does_not_import_torch():
    done = python("-c", "import sys, polytask.cli.main; print([m for m in ('torch', 'numpy') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_networks_need_no_compiler_of_torch():
    """Its import takes more than a second, which every command with a model would wait for."""
    done = python("-c", "import sys, polytask.model; print('torch._dynamo' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_help_imports_little():
    """What makes a command slow to start is what it imports (benchmarks/startup.py has the seconds)."""
    program = "import sys; from polytask.cli.main import run\ntry: run()\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60)
    assert "Usage" in done.stdout
    heavy = ("torch", "numpy", "pyarrow", "tokenizers", "transformers", "matplotlib", "safetensors")
    assert [name for name in heavy if f"'{name}'" in done.stdout] == [], done.stderr


def test_the_version_is_that_of_the_package(polytask):
    assert polytask("--version").stdout == f"polytask {metadata.version('polytask')}\n"


def test_source_that_is_not_installed_keeps_models(tmp_path, monkeypatch):
    """As on a machine where it is only put on the path."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    network = Transformer(build_config("generalist", depth=1, dim=16, vocab_size=300)).initialize(0)
    write_model(tmp_path, network, TextTokenizer.bytes())
    assert json.loads((tmp_path / "config.json").read_text())["polytask"] == ""


def test_help_lists_every_verb(polytask):
    shown = polytask("--help").stdout
    assert [verb for verb in VERBS if verb not in shown] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(polytask, verb):
    result = polytask(verb, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize("words", [["trian"], ["train", "r.yaml", "--rsume"], ["train"], ["data", "shwo", "demo"]])
def test_a_wrong_word_exits_with_2(polytask, words):
    result = polytask(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr + result.stdout


def test_a_misspelt_verb_gets_a_hint(polytask):
    assert "train" in polytask("trian").stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "dmeo"], "did you mean 'demo'"),
        (["train", "demo", "--set", "training.stpes=3"], "did you mean 'steps'"),
        (["train", "demo", "--set", "training.steps"], "key=value"),
        (["show", "nowhere"], "no checkpoint at nowhere"),
        (["tasks", "translaton"], "did you mean 'translation'"),
        (["ask", "nowhere", "translaton"], "did you mean 'translation'"),
        (["tokenizer", "train", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(polytask, words, sentence):
    result = polytask(*words)
    assert result.exit_code == 2, result.stdout
    assert sentence in result.stderr
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


def test_ctrl_c_exits_with_130(polytask, monkeypatch):
    from polytask.run import doctor

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "facts", interrupted)
    assert polytask("doctor").exit_code == 130


def test_tasks_lists_fields_and_metrics(polytask):
    shown = polytask("tasks").stdout
    for word in ("translation", "target_lang", "bleu", "infilling", "classification", "labels"):
        assert word in shown
    assert "bleu" not in polytask("tasks", "classification").stdout


def test_doctor_says_what_this_machine_has(polytask):
    facts = {fact["name"]: fact for fact in json.loads(polytask("doctor", "--json").stdout)}
    assert facts["torch"]["value"]
    assert facts["python"]["good"]
    assert all("GFLOP/s" in facts[f"{precision} products"]["value"] for precision in ("float32", "bfloat16"))
    assert facts["compiler"]["value"]
    assert "torch" in polytask("doctor").stdout


def test_a_tokenizer_is_learned_from_files(polytask, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the rat sat on the cat\n" * 200)
    result = polytask("tokenizer", "train", text, "--size", 320, "--out", tmp_path / "t.json")
    assert result.exit_code == 0, result.stderr
    from polytask.tokenizers.text import TextTokenizer

    tokenizer = TextTokenizer.load(tmp_path / "t.json")
    assert f"{tokenizer.vocab_size:,} tokens" in result.stdout
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    too_small = polytask("tokenizer", "train", text, "--size", 100, "--out", tmp_path / "u.json")
    assert too_small.exit_code == 2
    assert not (tmp_path / "u.json").exists()
