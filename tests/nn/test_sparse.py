"""What tokens of a picture see: tables by brute force on the paper's grid (figure 11), with and without a cache."""

import pytest
import torch

from polytask.errors import ConfigError
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.packets import Row
from polytask.nn.sparse import ColumnPattern, ConvolutionPattern, RowPattern
from polytask.systems.dalle import dalle
from tests.models.cached import cached

TEXT, SIDE = 6, 4
# What the token in row 2, column 1 of the picture sees of it: x; itself: o.
DRAWN = {
    "row": (RowPattern(TEXT, SIDE, SIDE), "....  .xxx  xo..  ...."),
    "column": (ColumnPattern(TEXT, SIDE, SIDE), ".x..  .x..  .o..  ...."),
    "convolution": (ConvolutionPattern(TEXT, SIDE, SIDE, kernel=3), "....  xxx.  xo..  ...."),
}


def brute_force(name):
    """(22, 22): by rows and columns of the grid, as the paper's text says it."""
    table = torch.zeros(TEXT + 16, TEXT + 16, dtype=torch.bool)
    for query in range(TEXT + 16):
        for key in range(query + 1):
            if query < TEXT or key < TEXT:
                table[query, key] = True
                continue
            q, k = query - TEXT, key - TEXT
            if name == "row":  # the previous 5, of which the last is in the same column of the previous row
                table[query, key] = k in range(q - 4, q + 1)
            elif name == "column":
                table[query, key] = k % SIDE == q % SIDE
            else:  # a 3 x 3 square around the query, laid over the raster so that it goes on across the ends of rows
                square = [q + SIDE * down + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
                table[query, key] = k in square
    return table


@pytest.mark.parametrize("name", DRAWN)
def test_patterns_are_those_of_the_paper(name):
    pattern, drawn = DRAWN[name]
    places = torch.arange(TEXT + 16)[None]
    found = (pattern.visible(places, places) & (places[:, None] <= places[..., None])[:, None])[0, 0]
    assert torch.equal(found, brute_force(name))
    marks = "".join(drawn.split())
    assert found[TEXT + 9, TEXT:].tolist() == [mark != "." for mark in marks]
    assert found[:, :TEXT].sum(1).max() == TEXT
    assert found.sum(1).max() <= pattern.most


def test_the_published_square_is_11_by_11():
    pattern = ConvolutionPattern(0, 32, 32)
    places = torch.arange(1024)[None]
    seen = (pattern.visible(places, places) & (places[:, None] <= places[..., None])[:, None])[0, 0]
    middle = 16 * 32 + 16
    assert seen[middle].sum() == 5 * 11 + 6
    at = [(int(k) // 32 - 16, int(k) % 32 - 16) for k in seen[middle].nonzero()]
    assert min(at) == (-5, -5)
    assert all(abs(right) <= 5 for _, right in at)
    assert seen.sum(1).max() == pattern.most


def test_the_order_of_patterns_is_the_published_one():
    config = dalle(64, 64, 1)
    kinds = [type(config.attention_of(layer).pattern).__name__[0] for layer in range(64)]
    for layer in range(1, 64):  # counted from 1, as the paper does
        assert kinds[layer - 1] == ("C" if (layer - 2) % 4 == 0 else "R")
    assert config.attention_of(63).pattern == ConvolutionPattern(256, 32, 32, 11)
    assert config.attention_of(1).pattern == ColumnPattern(256, 32, 32)


def small():
    config = dalle(6, 32, 2, text=20, text_length=TEXT, codes=15, height=SIDE, width=SIDE, kernel=3)
    return Transformer(config).initialize(0).double().eval()


def test_a_layer_attends_by_its_table():
    """The network with one layer of each pattern against attention written out with the table of brute force."""
    network = small()
    ids = torch.randint(41, (2, TEXT + 16), generator=torch.Generator().manual_seed(0))
    places = torch.arange(TEXT + 16).expand_as(ids)
    x = network.embed(ids, places)
    for layer, name in ((0, "row"), (1, "column"), (5, "convolution")):
        attention = network.blocks[layer].attention
        q, k, v = (one.unflatten(-1, (2, 16)).transpose(1, 2) for one in attention.qkv(x).split(32, dim=-1))
        scores = (q @ k.mT / 4).masked_fill(~brute_force(name), -torch.inf)
        expected = attention.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))
        with torch.no_grad():
            torch.testing.assert_close(attention(x, Context(places)), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(attention(x, Context(places)), expected, rtol=0, atol=1e-12)  # by products


def test_places_have_vectors_of_the_text_or_of_row_and_column():
    network = small()
    table = network.position.weight
    vectors = network.position(torch.arange(TEXT + 16)[None])[0]
    assert torch.equal(vectors[:TEXT], table[:TEXT])
    for row in range(SIDE):
        for column in range(SIDE):
            expected = table[TEXT + row] + table[TEXT + SIDE + column]
            assert torch.equal(vectors[TEXT + row * SIDE + column], expected)
    assert len(table) == TEXT + 2 * SIDE


@torch.no_grad()
def test_packed_documents_see_what_each_alone_sees():
    network = small()
    ids = torch.randint(41, (2, TEXT + 16), generator=torch.Generator().manual_seed(1))
    places = torch.arange(TEXT + 16).expand_as(ids)
    alone = network(ids, Context(places))
    documents = torch.tensor([1, 2]).repeat_interleave(TEXT + 16)[None]
    packed = network(ids.view(1, -1), Context(places.reshape(1, -1), documents))
    torch.testing.assert_close(packed.view_as(alone), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(7, *[1] * 15), (3, 5, 9, 1, 1, 3), (22,)])
@torch.no_grad()
def test_the_cache_gives_what_the_full_pass_gives(sizes):
    """Rows by themselves, several together, and with their first blocks in common."""
    network = small()
    ids = torch.randint(41, (3, TEXT + 16), generator=torch.Generator().manual_seed(2))
    ids[1:, :TEXT] = ids[:1, :TEXT]
    full = network(ids, Context(torch.arange(TEXT + 16).expand_as(ids)))
    cache, parts, start = network.new_cache(blocks=6), [], 0
    for size in sizes:
        rows = [Row([row, 5 - row], start, size) for row in range(3)]
        parts.append(cached(network, cache, ids[:, start : start + size], rows))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=0, atol=1e-12)


def test_an_even_kernel_is_refused():
    with pytest.raises(ConfigError, match="odd"):
        ConvolutionPattern(6, 4, 4, 4)
