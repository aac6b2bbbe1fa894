"""Oracle: the arrays that were written."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from counterview.errors import ImageError
from counterview.media.encode import write_video
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


def deep_png(path, values, bits=None):
    """A 16-bit grey PNG, with an sBIT chunk if ``bits`` are given."""
    data = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(data, "PNG")
    whole = data.getvalue()
    chunk = b"" if bits is None else b"sBIT" + bytes([bits])
    extra = struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) if chunk else b""
    path.write_bytes(whole[:33] + extra + whole[33:])  # behind IHDR
    return path


RAMP = np.linspace(0, 1, 64 * 80).reshape(64, 80)
EIGHT = np.round(RAMP * 255)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_ten_and_twelve_bits_in_sixteen_are_scaled_and_said_so(tmp_path, bits, caplog):
    image = read_image(deep_png(tmp_path / "a.png", np.round(RAMP * (2**bits - 1))))
    assert np.abs(image[..., 0] - EIGHT).max() <= 1
    assert f"a.png: the values end at {2**bits - 1}, so they are read as {bits} of 16 bits" in caplog.text


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_the_bits_that_a_png_states_count(tmp_path, bits, caplog):
    dark = np.round(RAMP * (2**bits - 1) / 5)  # fewer bits than stated
    image = read_image(deep_png(tmp_path / "raw.png", dark, bits))
    assert np.abs(image[..., 0] - EIGHT / 5).max() <= 1
    samples = np.round(RAMP * (2**bits - 1)).astype(int)
    for name, low in (("shifted.png", 0), ("replicated.png", samples >> (2 * bits - 16))):
        image = read_image(deep_png(tmp_path / name, samples << (16 - bits) | low, bits))
        assert np.abs(image[..., 0] - EIGHT).max() <= 1
    assert caplog.text == ""


def test_more_than_twelve_bits_are_read_as_sixteen(tmp_path, caplog):
    caplog.set_level("INFO")
    image = read_image(deep_png(tmp_path / "a.png", np.round(RAMP * (2**14 - 1))))
    assert image.max() == 64
    assert "the values use 14 of 16 bits and are read as 16 bits" in caplog.text
    assert read_image(deep_png(tmp_path / "b.png", RAMP * 0)).max() == 0


def test_tiff_says_its_largest_value(tmp_path, caplog):
    values = np.round(RAMP * 4095 / 5).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tiff", tiffinfo={281: 4095})
    assert np.abs(read_image(tmp_path / "a.tiff")[..., 0] - EIGHT / 5).max() <= 1
    assert caplog.text == ""
    Image.fromarray(np.round(RAMP * 4095).astype(np.uint16)).save(tmp_path / "b.tiff")
    assert np.abs(read_image(tmp_path / "b.tiff")[..., 0] - EIGHT).max() <= 1
    assert "b.tiff: the values end at 4095" in caplog.text


def test_pgm_is_scaled_by_its_own_maximum(tmp_path):
    values = np.round(RAMP * 4095 / 5).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 80 64 4095\n" + values.tobytes())
    assert np.abs(read_image(tmp_path / "a.pgm")[..., 0] - EIGHT / 5).max() <= 1


@pytest.mark.parametrize("top", [4095, 65535])
def test_colours_of_twelve_bits_are_refused_where_their_low_bytes_are_lost(tmp_path, top):
    rows = np.round(RAMP * top).astype(">u2")[..., None].repeat(3, axis=2)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 80, 64, 16, 2, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    if top == 65535:
        assert np.abs(read_image(tmp_path / "a.png")[..., 1] - EIGHT).max() <= 1
    else:
        with pytest.raises(ImageError, match=r"a\.png: the colours use at most 12 of 16 bits. Scale the values"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".ppm", ".tiff", ".avif"])
@pytest.mark.parametrize("turn", [1, 6])
def test_images_are_writable_and_contiguous(tmp_path, suffix, turn):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    for number, mode in enumerate(("RGB", "L", "RGBA", "P", "1", "I;16")):
        path = tmp_path / f"{number}{suffix}"
        exif = Image.Exif()
        exif[0x0112] = turn
        image = Image.fromarray(RGB[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
        try:
            image.save(path, **({"exif": exif} if suffix not in (".bmp", ".ppm") else {}))
        except OSError:
            continue  # a mode that the format lacks
        pixels = read_image(path)
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_read_upright(tmp_path):
    smooth = np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.avif", quality=95, exif=exif)
    assert image_size(tmp_path / "a.avif") == (64, 48)
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - smooth).mean() < 3


def test_heic_names_its_plug_in(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(ImageError, match=r"a\.heic: is not an image .* HEIC: install pillow-heif"):
        read_image(tmp_path / "a.heic")


def test_a_video_is_told_from_an_image(tmp_path):
    write_video(tmp_path / "ego.mp4", [np.full((64, 96, 3), k, np.uint8) for k in range(3)])
    with pytest.raises(ImageError, match="counterview follow"):
        read_image(tmp_path / "ego.mp4")
