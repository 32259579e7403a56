"""What tests of pictures in the playground do on the page: ask, choose files, paint, and read what is shown."""

import base64
import io

import numpy as np
from PIL import Image

from polytask.tasks.picture import png
from tests.serving.browsing import dial, settled
from tests.serving.picturing import SIDE

BOARD = ".board canvas"
PAINTED = (  # of a copy, since the browser complains of a canvas that is read again and again
    "canvas => { const {width, height} = canvas; const copy = new OffscreenCanvas(width, height).getContext('2d');"
    "copy.drawImage(canvas, 0, 0); const {data} = copy.getImageData(0, 0, width, height);"
    "return Array.from({length: width * height}, (_, i) => data[4 * i + 3] > 0) }"
)


def photo(size=SIDE, seed=0):
    """A PNG of colours by chance."""
    return png(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)))


def file(data, name="my cat.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


def shown(page, place=".gallery img"):
    """The pixels of the pictures in a place."""
    page.locator(place).first.wait_for()
    urls = [image.get_attribute("src") for image in page.locator(place).all()]
    return [pixels(base64.b64decode(url.partition(",")[2])) for url in urls]


def pixels(picture):
    opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    return np.asarray(opened.convert("RGB")).tolist()


def start(page, model, task, **fields):
    page.select_option("#model", model)
    settled(page)
    page.click(f"nav a[href='#{task}']")
    for name, value in fields.items():
        page.fill(f"#field-{task}-{name}", value)


def submit(page):
    page.click("main form button[type=submit]")


def quick(page, count=2):
    """Few steps, a seed and so many pictures."""
    dial(page, "steps", 4)
    dial(page, "seed", 7)
    page.fill(".count input", str(count))


def painted(page):
    return np.array(page.locator(BOARD).evaluate(PAINTED)).reshape(SIDE, SIDE)


def stroke(page, *places):
    """Draws with the mouse through places, in pixels of the picture."""
    board = page.locator(BOARD)
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    points = [(box["x"] + x * box["width"] / SIDE, box["y"] + y * box["height"] / SIDE) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()
