"""Scenes as hypothesis draws them: any that the rules allow, not only those that the generator makes."""

from hypothesis import strategies as st

from polytask.blocksworld.scene import CELLS, PAIRS, SIZES, Block


@st.composite
def scenes(draw, fewest=1, most=5):
    count = draw(st.integers(fewest, most))
    cells = draw(st.lists(st.integers(0, CELLS - 1), min_size=count, max_size=count, unique=True))
    pairs = draw(st.lists(st.sampled_from(PAIRS), min_size=count, max_size=count, unique=True))
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=count, max_size=count))
    return tuple(Block(size, *pair, cell) for size, pair, cell in zip(sizes, pairs, cells))
