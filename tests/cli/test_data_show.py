"""What is learnt is green on a terminal and what is given grey; where there are no colours braces tell them apart."""

import re
from io import StringIO

import pytest
from rich.console import Console
from rich.style import Style
from rich.text import Text

from polytask.cli import data


@pytest.fixture
def show(polytask, folder, monkeypatch):
    """What `data show` prints on a terminal; `words` are of its rich console."""

    def show(**words):
        terminal = Console(file=StringIO(), force_terminal=True, highlight=False, width=80, **words)
        monkeypatch.setattr(data, "console", lambda: terminal)
        result = polytask("data", "show", folder / "recipe.yaml", "--rows", 2)
        assert result.exit_code == 0, result.stderr
        return terminal.file.getvalue()

    return show


def pieces(line):
    """[(text, its style), ...] of a line with escape codes."""
    text = Text.from_ansi(line)
    return [(text.plain[span.start : span.end], Style.parse(str(span.style))) for span in text.spans]


def green(style):
    return style.color is not None and style.color.number == 2


def test_learnt_is_green_and_given_is_dim(show, polytask, folder):
    """The pieces that are in braces elsewhere are green and not dim, all others are dim and not green."""
    plain = polytask("data", "show", folder / "recipe.yaml", "--rows", 2).stdout.splitlines()
    wanted = [line for line in plain if "<|answer|>{{" in line]
    found = [pieces(line) for line in show(color_system="standard").splitlines() if "<|answer|>" in line]
    assert len(found) == len(wanted) > 2
    for line, ((source, _), *rest) in zip(wanted, found):
        assert source == "rows: "
        assert source + "".join(f"{{{{{text}}}}}" if green(style) else text for text, style in rest) == line
        assert all(bool(style.dim) != green(style) for _, style in rest)


def test_the_legend_is_coloured_as_it_says(show):
    legend = dict(pieces(show(color_system="standard").splitlines()[0]))
    assert green(legend["green: learnt"])
    assert legend["grey: given"].dim


@pytest.mark.parametrize("words", [{"color_system": None}, {"color_system": "standard", "no_color": True}])
def test_a_terminal_without_colours_shows_braces(show, words):
    shown = show(**words)
    assert re.search(r"<\|answer\|>\{\{(good|bad)<\|end\|>\}\}", shown)
    assert "green" not in shown
    assert "\x1b[32m" not in shown


def test_pictures_are_shown_by_their_size_beside_their_captions(polytask, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: {system: generalist, depth: 2, dim: 64, heads: 2}\n"
        "training: {steps: 1, batch_rows: 1}\ndata:\n  sources:\n"
        "    - {task: captioning, from: blocksworld, limit: 20, options: {pixels: 48}}\n"
        "    - {task: drawing, from: blocksworld, limit: 20}\n"
    )
    result = polytask("data", "show", tmp_path / "recipe.yaml", "--rows", 1)
    assert result.exit_code == 0, result.stderr
    told, drawn = result.stdout.splitlines()[-2:]
    assert re.fullmatch(
        r"blocksworld-captioning: \[picture, 48 x 48 pixels, \d+ bytes\] What does the picture show\? \{\{a .*\}\}",
        told,
    )
    assert re.fullmatch(r"blocksworld-drawing: Draw: a .* \{\{\[picture, 32 x 32 pixels, \d+ bytes\]\}\}", drawn)
