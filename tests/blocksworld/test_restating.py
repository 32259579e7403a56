"""What is said in other words is what the caption says, all of it, and nothing that a scene of another split has."""

import pytest

from polytask.blocksworld import SPLITS, examples
from polytask.blocksworld.captions import BETWEEN, read_caption, relations
from polytask.blocksworld.language import PLACES
from polytask.blocksworld.scene import Block
from polytask.data.sources import SourceSpec, read

CELLS = {place.split(" ", 2)[2]: cell for cell, place in enumerate(PLACES["en"])}
RELATION = {words: relation for relation, words in BETWEEN.items()}


def blocks(form, parts):
    """The blocks that a placed caption's other words name."""
    found = []
    for part in parts:
        head, tail = part.split(": ")
        if tail == "none":
            continue
        if form == "places":
            size, colour, shape = tail.split()
            found.append(Block(size, colour, shape, CELLS[head]))
        elif form == "grid":
            shape, colour, size = tail.split()
            found.append(Block(size, colour, shape, CELLS[head]))
        elif form == "things":
            (colour, shape), (size, place) = head.split(), tail.split(", ")
            found.append(Block(size, colour, shape, CELLS[place]))
        else:
            (place, shape), (colour, size) = head.split(", "), tail.split(", ")
            found.append(Block(size, colour, shape, CELLS[place]))
    return sorted(found)


def links(parts):
    """(pair -> size, (relation, pair, pair) both ways round) of a chained one's."""
    sizes, said = {}, set()
    for part in parts:
        pair, rest = part.split(": ")
        size, *beside = rest.split(", ")
        sizes[tuple(pair.split())] = size
        for one in beside:
            words, other = one.rsplit(" ", 2)[0], tuple(one.split()[-2:])
            said.add((RELATION[words], tuple(pair.split()), other))
    return sizes, said


@pytest.mark.parametrize("split", SPLITS)
def test_other_words_say_all_of_the_caption(split):
    forms = set()
    for row in examples("restating", 300, split=split, objects=[1, 3]):
        caption = read_caption(row["caption"])
        form, *parts = row["said"].split("; ")
        forms.add(form)
        if form != "links":
            assert blocks(form, parts) == sorted(caption.blocks)
            assert len(parts) == (9 if form == "grid" else len(caption.blocks))
            continue
        sizes, said = links(parts)
        assert sizes == {block.pair: block.size for block in caption.blocks}
        turned = {"left": "right", "above": "below"}
        wanted = {(r, one.pair, other.pair) for r, one, other in relations(caption)}
        assert said == wanted | {(turned[r], other, one) for r, one, other in wanted}
    assert forms == {"places", "things", "sizes", "grid", "links"}


def test_splits_share_no_caption():
    said = [{row["caption"] for row in examples("restating", 400, split=split)} for split in SPLITS]
    assert sum(map(len, said)) == len(set().union(*said))


def test_a_recipe_names_the_task_by_its_file(tmp_path):
    (tmp_path / "restating.yaml").write_text(
        "name: restating\nfields: {caption: a, said: b}\nprompt: '{caption}'\ntarget: '{said}'\n"
        "metrics: [exact_match]\n"
    )
    spec = SourceSpec(str(tmp_path / "restating.yaml"), "blocksworld", limit=3)
    assert [set(row) for row in read(spec)] == [{"caption", "said"}] * 3
    assert spec.name == "blocksworld-restating"
