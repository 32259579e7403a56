"""draw, edit and variations: files that are numbered on, options that reach the model, sentences where they cannot."""

import os

import PIL.Image
import pytest
from typer.testing import CliRunner

import polytask
from polytask.cli.main import app
from polytask.run.draw import write
from tests.painters import SIDE, picture, write_captioned

OWN = {"guidance": 1.5, "sampler": "dpm_solver", "steps": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"), OWN) / "base"


@pytest.fixture
def run(base, tmp_path):
    def invoke(verb, *words):
        return CliRunner().invoke(app, [str(word) for word in (verb, base, *words, "--out", tmp_path / "out")])

    return invoke


def names(result):
    return [line.rsplit("/", 1)[-1] for line in result.stdout.splitlines()]


def test_pictures_are_numbered_on_and_nothing_is_written_over(run, tmp_path):
    assert names(run("draw", "a red one", "--n", 3)) == ["1.png", "2.png", "3.png", "sheet-1-3.png"]
    first = (tmp_path / "out" / "1.png").read_bytes()
    assert names(run("draw", "a blue one", "--seed", 5)) == ["4.png"]
    assert names(run("draw", "a blue one", "--n", 2)) == ["5.png", "6.png", "sheet-5-6.png"]
    for kept in ("11.PNG", "notes.txt", "sheet.png"):  # of the user's own
        (tmp_path / "out" / kept).write_bytes(b"kept")
    (tmp_path / "out" / "6.png").unlink()
    assert names(run("draw", "a blue one")) == ["12.png"]
    assert (tmp_path / "out" / "1.png").read_bytes() == first
    assert {(tmp_path / "out" / kept).read_bytes() for kept in ("11.PNG", "notes.txt", "sheet.png")} == {b"kept"}


def test_a_sheet_whose_pictures_are_gone_stays(run, tmp_path):
    run("draw", "a red one", "--n", 2)
    for number in (1, 2):
        (tmp_path / "out" / f"{number}.png").unlink()
    assert names(run("draw", "a red one", "--n", 2)) == ["3.png", "4.png", "sheet-3-4.png"]


@pytest.mark.parametrize(("words", "dials"), [
    ([], {}), (["--threshold", "none", "--guidance", 9], {"threshold": "none", "guidance": 9.0}),
    (["--sampler", "heun", "--spacing", "karras", "--steps", 3], {"sampler": "heun", "spacing": "karras", "steps": 3}),
    (["--sampler", "ddpm", "--gamma", 0.7, "--steps", 3], {"sampler": "ddpm", "gamma": 0.7, "steps": 3}),
    (["--threshold", "dynamic", "--percentile", 0.5, "--guidance", 9],
     {"threshold": "dynamic", "percentile": 0.5, "guidance": 9.0}),
])  # fmt: skip
def test_options_draw_what_python_draws(words, dials, run, base):
    (file,) = run("draw", "a red one", "--seed", 3, *words).stdout.split()
    (drawn,) = polytask.load(base).draw("a red one", seed=3, **dials)
    assert PIL.Image.open(file).tobytes() == drawn.tobytes()


@pytest.mark.parametrize(("words", "sentence"), [
    (["draw", " "], "The prompt is empty"), (["draw", "red", "--spacing", "karas"], "did you mean 'karras'"),
    (["draw", "red", "--percentile", 0.9], "of the dynamic threshold"), (["draw", "red", "--gamma", 0.5], "of ddpm"),
    (["draw", "red", "--prior-steps", 3], "of a model with a prior"), (["draw", "red", "--resize"], "--resize: "),
])  # fmt: skip
def test_mistakes_are_one_sentence(words, sentence, run):
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_pictures_of_another_size_are_fitted_where_that_is_said(run, tmp_path):
    picture(0, 2 * SIDE).save(tmp_path / "large.png")
    PIL.Image.new("L", (SIDE, SIDE), 255).save(tmp_path / "mask.png")
    words = "edit", tmp_path / "large.png", "a red one", "--mask", tmp_path / "mask.png"
    assert "The picture has 16 x 16 pixels" in run(*words).stderr
    assert names(run(*words, "--resize")) == ["1.png"]


def test_show_says_how_a_model_draws(base):
    result = CliRunner().invoke(app, ["show", str(base)])
    assert all(f"{name}  {value}" in result.stdout for name, value in OWN.items())
    larger = CliRunner().invoke(app, ["show", str(base.parent / "larger")])
    assert "frozen parts, drawing" in larger.stdout
    assert "sampler  dpm_solver" in larger.stdout


def test_several_draw_into_one_folder(tmp_path, monkeypatch):
    """Another takes a number between the look at the folder and the writing."""
    listed, looks = os.listdir, []

    def look(path):
        found = listed(path)
        if not looks:
            (tmp_path / "2.png").write_bytes(b"another's")
        looks.append(path)
        return found

    monkeypatch.setattr("polytask.run.draw.os.listdir", look)
    files = write([PIL.Image.new("RGB", (8, 8))] * 2, tmp_path)
    assert [file.name for file in files] == ["3.png", "4.png", "sheet-3-4.png"]
    assert sorted(listed(tmp_path)) == ["2.png", "3.png", "4.png", "sheet-3-4.png"]
    assert (tmp_path / "2.png").read_bytes() == b"another's"
