"""The reader reads what was rendered, under noise and moved, and nothing else. benchmarks/reader.py measures more."""

from random import Random

import numpy as np
import pytest
from PIL import Image

from polytask.blocksworld.drawn import compare, judge_picture
from polytask.blocksworld.read import read, read_many
from polytask.blocksworld.render import GREY, PALETTE, coverage, pixels, render
from polytask.blocksworld.scene import CELLS, COLOURS, PAIRS, SHAPES, SIZES, SPLITS, Block, draw_scene
from polytask.errors import ConfigError, TaskError


def scenes(count, seed=0, objects=(1, 5)):
    rng = Random(seed)
    return [draw_scene(rng, rng.choice(SPLITS), objects) for _ in range(count)]


def picture(values):
    return Image.fromarray(np.asarray(values).round().clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [32, 64])
def test_every_block_in_every_cell_is_read(size):
    """All 864 of them, nine to a picture."""
    every = [Block(s, *pair, cell) for s in SIZES for pair in PAIRS for cell in range(CELLS)]
    drawn = [tuple(every[i + 9 * j - i % 9 + (i + j) % 9] for i in range(9)) for j in range(len(every) // 9)]
    drawn = [tuple(block._replace(cell=cell) for cell, block in enumerate(scene)) for scene in drawn]
    found = read_many([render(scene, size) for scene in drawn])
    assert [reading.scene for reading in found] == drawn


@pytest.mark.parametrize(("noise", "reach"), [(16, 0), (0, 1), (8, 1)])
def test_noise_and_pixels_of_shift_do_not_matter(noise, reach):
    rng, normal = Random(1), np.random.default_rng(1)
    drawn = scenes(400, seed=noise)
    shifts = [[(rng.uniform(-reach, reach), rng.uniform(-reach, reach)) for _ in scene] for scene in drawn]
    seen = [pixels(scene, 32, shift) + normal.normal(0, noise, (32, 32, 3)) for scene, shift in zip(drawn, shifts)]
    found = read_many([picture(values) for values in seen])
    assert all(set(reading.scene or ()) == set(scene) for reading, scene in zip(found, drawn))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_pictures_show_nothing(value):
    reading = read(picture(np.full((32, 32, 3), value)))
    assert reading.scene is None
    assert (reading.fault == "blank") == (value == 128)


def test_noise_alone_shows_nothing():
    noise = np.random.default_rng(0)
    for _ in range(50):
        reading = read(picture(noise.integers(0, 256, (32, 32, 3))))
        assert (reading.scene, reading.blocks, reading.fault) == (None, (), "noisy")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", ["left", "right", "upper", "lower"])
def test_half_a_shape_is_not_that_shape(shape, size, side):
    """In every colour and cell, beside another."""
    drawn, seen = [], []
    for colour in COLOURS:
        for cell in (0, 1, 2, 3, 4, 5, 6, 8):
            scene = (Block(size, colour, shape, cell), Block("large", "brown", "square", 7))
            x, y, alpha = coverage(shape, size, cell, 32)
            columns, rows = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
            across, down = columns < x + alpha.shape[1] / 2, rows < y + alpha.shape[0] / 2
            kept = {"left": across, "right": ~across, "upper": down, "lower": ~down}[side]
            drawn.append(scene)
            seen.append(picture(np.where(kept[..., None], pixels(scene), pixels(scene[1:]))))
    assert not any(set(reading.scene or ()) == set(scene) for reading, scene in zip(read_many(seen), drawn))


def test_one_object_more_or_less_or_otherwise_is_wrong():
    rng = Random(3)
    for scene in scenes(40, seed=3):
        assert judge_picture(render(scene), scene)
        free = [cell for cell in range(CELLS) if cell not in {block.cell for block in scene}]
        extra = Block(rng.choice(SIZES), *rng.choice(PAIRS), rng.choice(free))
        assert not judge_picture(render((*scene, extra)), scene)
        assert not judge_picture(render(scene[1:]), scene)
        assert not judge_picture(render((scene[0]._replace(cell=free[0]), *scene[1:])), scene)
        other = "small" if scene[0].size == "large" else "large"
        assert not judge_picture(render((scene[0]._replace(size=other), *scene[1:])), scene)


def test_what_is_no_block_is_unclear():
    """A second shape in a cell, a shape between cells, a patch of a colour that there is not."""
    scene = (Block("large", "red", "circle", 4),)
    spot = pixels(scene)
    spot[14:18, 14:18] = PALETTE["white"]
    between = pixels(scene, 32, [(5.0, 0.0)])
    patch = pixels(scene)
    patch[2:7, 2:7] = (0, 255, 255)
    for values, cell in ((spot, 4), (between, 4), (patch, 0)):
        reading = read(picture(values))
        assert reading.scene is None
        assert cell in reading.unclear
        assert compare(picture(values), "a large red circle")["right"] == 0


def test_a_colour_is_the_nearest_of_the_eight_and_no_other():
    for colour, values in PALETTE.items():
        near = np.array(values) + 0.2 * (np.array(GREY) - values)
        alpha = np.zeros((32, 32, 1))
        x, y, covered = coverage("square", "large", 4, 32)
        alpha[y : y + covered.shape[0], x : x + covered.shape[1], 0] = covered
        faded = picture(np.array(GREY) + alpha * (near - GREY))
        assert read(faded).scene == (Block("large", colour, "square", 4),)
    cyan = picture(np.array(GREY) + alpha * (np.array((0, 255, 255)) - GREY))
    assert read(cyan).scene is None


def test_sizes_that_are_no_picture_of_ours():
    with pytest.raises(TaskError, match="square, of 32 pixels a side or more, not 31 x 31"):
        read(Image.new("RGB", (31, 31)))
    with pytest.raises(TaskError, match="not 64 x 32"):
        read(Image.new("RGB", (64, 32)))
    for size in (31, 4096, 32.0, "32"):
        with pytest.raises(ConfigError, match="32 to 1024 pixels"):
            render(scenes(1)[0], size)


def test_edges_are_smooth_and_the_grey_is_even():
    values = pixels((Block("large", "white", "circle", 4),), 32)
    assert (values[0] == GREY[0]).all()
    shades = np.unique(values)
    assert shades[0] == 128
    assert shades[-1] == 255
    assert len(shades) > 6
    # A circle of radius r covers pi r^2, here in pixels: r is 0.44 of a third of 32.
    area = ((values[..., 0].astype(float) - 128) / 127).sum()
    assert area == pytest.approx(np.pi * (0.44 * 32 / 3) ** 2, rel=0.01)
