"""Oracle: the arrays that were written."""

import io

import numpy as np
import pytest
from PIL import Image

from counterview.errors import ImageError
from counterview.media.images import image_size, read_image, write_image
from counterview.types import View

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def test_png_round_trip(tmp_path):
    write_image(tmp_path / "a.png", RGB)
    assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
    assert np.array_equal(read_image((tmp_path / "a.png").read_bytes()), RGB)


def test_a_view_is_written_as_its_image(tmp_path):
    write_image(tmp_path / "a.png", View(RGB))
    assert np.array_equal(read_image(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_lossy_formats_come_close(tmp_path, ending):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    write_image(tmp_path / f"a{ending}", smooth, quality=95)
    assert np.abs(read_image(tmp_path / f"a{ending}").astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, ending):
    noise = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    write_image(tmp_path / f"a{ending}", noise, lossless=True)
    assert np.array_equal(read_image(tmp_path / f"a{ending}"), noise)


def test_the_size_of_an_image_is_that_of_its_pixels(tmp_path):
    image = Image.new("RGB", (60, 40))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        image.save(tmp_path / f"{turn}.jpg", exif=exif)
        assert image_size(tmp_path / f"{turn}.jpg") == read_image(tmp_path / f"{turn}.jpg").shape[:2]
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(ImageError, match="is not an image that can be read"):
            image_size(tmp_path / name)


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_rotation_is_applied(tmp_path, turn):
    image = Image.fromarray(RGB)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = image.transpose(undo[turn]) if turn > 1 else image
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(read_image(save(stored, tmp_path / "a.png", exif=exif)), RGB)


def test_grey_16_bit_palette_alpha_and_cmyk(tmp_path):
    grey = RGB[..., 0]
    assert np.array_equal(read_image(save(Image.fromarray(grey), tmp_path / "g.png"))[..., 1], grey)
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(read_image(save(Image.fromarray(deep), tmp_path / "d.png"))[..., 2], grey)
    bright = read_image(save(Image.fromarray(np.full((4, 4), 65535, np.uint16)), tmp_path / "w.tiff"))
    assert (bright == 255).all()
    palette = Image.fromarray(grey).convert("P")
    assert np.array_equal(read_image(save(palette, tmp_path / "p.png")), np.asarray(palette.convert("RGB")))
    alpha = np.dstack([RGB, np.where(np.arange(20) < 10, 0, 255)[None].repeat(12, 0).astype(np.uint8)])
    laid = read_image(save(Image.fromarray(alpha), tmp_path / "a.png"))
    assert (laid[:, :10] == 255).all()
    assert np.array_equal(laid[:, 10:], RGB[:, 10:])
    assert read_image(save(Image.fromarray(RGB).convert("CMYK"), tmp_path / "c.tiff")).shape == RGB.shape
    assert read_image(save(Image.fromarray(grey > 99), tmp_path / "1.png")).max() == 255


def test_what_is_not_an_image(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(np.tile(RGB, (10, 10, 1))).save(jpeg, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(RGB).save(tmp_path / "a.gif")
    Image.fromarray(RGB).save(tmp_path / "a.pdf")
    Image.new("1", (9000, 9000)).save(tmp_path / "wide.png")
    for name, part in {
        "cut.jpg": "damaged",
        "text.jpg": "not an image",
        "empty.png": "not an image",
        "none.png": "no such file",
        "a.gif": "not an image",
        "a.pdf": "not an image",
        "": "folder",
    }.items():
        with pytest.raises(ImageError, match=part) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "wide.png", max_pixels=10_000)
    assert read_image(tmp_path / "wide.png").shape == (9000, 9000, 3)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "bomb.png")


def test_writing_refuses_what_it_cannot_write(tmp_path):
    for path, image in ((tmp_path / "a.gif", RGB), (tmp_path / "a.png", RGB[..., 0]), (tmp_path / "a.png", RGB / 255)):
        with pytest.raises(ImageError):
            write_image(path, image)
    assert list(tmp_path.iterdir()) == []
