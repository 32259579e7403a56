"""Pictures at the border: every kind of file becomes the right RGB, and what is no picture is refused in a sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from polytask.errors import TaskError
from polytask.tasks import picture
from polytask.tasks.picture import contact_sheet, decode, encoded, fitted, opened, png, to_picture, to_tensor


def saved(image, kind="PNG", **words):
    file = io.BytesIO()
    image.save(file, format=kind, **words)
    return file.getvalue()


def pixel(data, place=(0, 0)):
    image = decode(data)
    assert image.mode == "RGB"
    return image.getpixel(place)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width, height, depth, colour, rows, extra=b""):
    """A PNG written by its specification alone, for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_alpha_lies_over_white():
    assert pixel(saved(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(saved(Image.new("RGBA", (2, 2), (200, 0, 0, 255)))) == (200, 0, 0)
    half = pixel(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    assert half == pytest.approx((127, 127, 127), abs=1)
    assert pixel(saved(Image.new("LA", (2, 2), (0, 0)))) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    data = saved(image, transparency=1)
    assert (pixel(data), pixel(data, (1, 0))) == ((10, 20, 30), (255, 255, 255))


def test_a_colour_that_stands_for_transparent():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    data = saved(image, transparency=(1, 2, 3))
    assert (pixel(data), pixel(data, (1, 0))) == ((255, 255, 255), (9, 9, 9))


@pytest.mark.parametrize(("value", "wanted"), [(0, 0), (65535, 255), (0x8000, 128), (257 * 7, 7)])
def test_sixteen_bits_are_scaled(value, wanted):
    grey = raw_png(1, 1, 16, 0, b"\0" + struct.pack(">H", value))
    colour = raw_png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", value, 0, 65535))
    tiff = saved(Image.fromarray(np.full((1, 1), value, dtype=np.uint16)), "TIFF")
    assert pixel(grey) == pixel(tiff) == (wanted, wanted, wanted)
    assert pixel(colour) == (wanted, 0, 255)


def test_floats_run_from_0_to_1():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0, 2.0, np.nan]], dtype=np.float32))
    assert [pixel(saved(image, "TIFF"), (x, 0))[0] for x in range(5)] == [0, 128, 255, 255, 0]


def test_cmyk():
    """White paper without ink; full cyan and yellow together are green; black ink alone is black."""
    for ink, colour in (((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 255, 0), (0, 255, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        for kind in ("TIFF", "JPEG"):
            assert pixel(saved(Image.new("CMYK", (8, 8), ink), kind)) == pytest.approx(colour, abs=2)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    more = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **more)
    assert pixel(data) == (255, 0, 0)


def test_a_picture_is_turned_as_its_exif_says():
    image = Image.new("RGB", (3, 2), "white")
    image.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = decode(saved(image, exif=exif))
    assert turned.size == (2, 3)
    assert turned.getpixel((1, 0)) == (0, 0, 0)


def test_zero_sizes_are_refused():
    with pytest.raises(TaskError, match=r"0 x 5 pixels|broken|no picture"):
        decode(raw_png(0, 5, 8, 2, b""))
    with pytest.raises(TaskError, match="without any"):
        png(Image.new("RGB", (0, 3)))


def test_a_decompression_bomb_is_refused_before_it_unpacks():
    with pytest.raises(TaskError, match="400,000,000 pixels; 50,000,000 is the most"):
        decode(raw_png(20_000, 20_000, 8, 2, b"\0"))
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"0" * 80_000_000))
    with pytest.raises(TaskError, match="cannot be read"):
        decode(raw_png(1, 1, 8, 2, b"\0\0\0\0", extra=text))


def test_what_is_wrong_with_a_file_names_it(tmp_path):
    for name, data, why in (("none.png", b"", "is empty"), ("text.png", b"hello", "is no picture")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TaskError, match=rf"{name}: (The picture|This) {why}"):
            opened(tmp_path / name)


def test_the_limit_is_of_pixels(monkeypatch):
    monkeypatch.setattr(picture, "MOST_PIXELS", 12)
    assert decode(saved(Image.new("RGB", (4, 3)))).size == (4, 3)
    with pytest.raises(TaskError, match="13 x 1 pixels; 12 is the most"):
        decode(saved(Image.new("RGB", (13, 1))))


@pytest.mark.parametrize("data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(TaskError, match="no picture that is read; give one of PNG, JPEG"):
        decode(data)


def test_a_broken_file_is_refused_wherever_it_is_cut():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        data = saved(noise, kind)
        for length in range(0, len(data) // 2, max(1, len(data) // 40)):
            with pytest.raises(TaskError):
                decode(data[:length])


def test_what_users_have_becomes_bytes(tmp_path):
    image = Image.new("RGB", (2, 3), "red")
    data = png(image)
    (tmp_path / "a.png").write_bytes(data)
    url = "data:image/png;base64," + __import__("base64").b64encode(data).decode()
    for value in (data, bytearray(data), image, tmp_path / "a.png", {"bytes": data, "path": None}, url):
        assert encoded(value) == data
    assert decode(encoded(image.convert("CMYK"))).getpixel((0, 0)) == (255, 0, 0)
    for value, words in [
        (str(tmp_path / "a.png"), "not the text"),  # might come from a stranger
        (tmp_path / "b.png", "b.png: the picture cannot be read"),
        ("data:image/png;base64,@@", "not base64"),
        (3, "not int"),
        ({"path": "a.png"}, "not dict"),
    ]:
        with pytest.raises(TaskError, match=words):
            encoded(value)


def test_fitting():
    wide = Image.new("RGB", (40, 20), "blue")
    wide.paste((255, 0, 0), (10, 0, 30, 20))  # the middle square is red
    assert np.asarray(fitted(wide, 20, "crop")).reshape(-1, 3).tolist() == [[255, 0, 0]] * 400
    padded = fitted(wide, 20, "pad")
    assert padded.getpixel((10, 0)) == padded.getpixel((10, 19)) == (255, 255, 255)
    assert padded.getpixel((10, 10))[0] > 200
    stretched = fitted(wide, (20, 20), "stretch")
    assert stretched.getpixel((0, 0)) == (0, 0, 255)
    assert fitted(wide, (40, 20)) is wide
    for size in (0, (3, -1), (1, 2, 3)):
        with pytest.raises(TaskError, match="1 or more"):
            fitted(wide, size)
    with pytest.raises(TaskError, match="did you mean 'crop'"):
        fitted(wide, 3, "crp")


def test_tensors_and_back():
    pixels = np.arange(256 * 3, dtype=np.uint16).reshape(16, 16, 3) % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    tensor = to_tensor(image)
    assert (tensor.shape, tensor.dtype) == ((3, 16, 16), torch.float32)
    assert (float(tensor.min()), float(tensor.max())) == (-1.0, 1.0)
    assert to_tensor([image, image]).shape == (2, 3, 16, 16)
    assert np.array_equal(np.asarray(to_picture(tensor)), np.asarray(image))
    assert to_picture(torch.full((1, 2, 2), 7.0)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(TaskError, match="NaN"):
        to_picture(torch.full((3, 2, 2), torch.nan))
    with pytest.raises(TaskError, match="shape"):
        to_picture(torch.zeros(4, 2, 2))


def test_a_contact_sheet_holds_every_picture():
    colours = [(i * 40, 0, 0) for i in range(5)]
    sheet = contact_sheet([Image.new("RGB", (3, 3), colour) for colour in colours], scale=2, gap=1)
    assert sheet.size == (3 * 7 + 1, 2 * 7 + 1)
    assert [sheet.getpixel((1 + i % 3 * 7, 1 + i // 3 * 7)) for i in range(5)] == colours
    with pytest.raises(TaskError, match="at least one"):
        contact_sheet([])
