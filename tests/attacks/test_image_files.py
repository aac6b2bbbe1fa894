"""Hostile images, masks and videos: what is said of each kind, and what it costs."""

import io
import os
import struct
import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from counterview.errors import ImageError, MaskError, PredictionError, VideoError
from counterview.evaluation.predictions import PredictedMask
from counterview.masks import rle
from counterview.masks.geometry import fit_mask
from counterview.masks.png import read_mask
from counterview.media import images, video
from counterview.media.images import exif_orientation, read_image
from counterview.media.mp4 import MAX_SAMPLES
from counterview.media.video import VideoReader
from counterview.types import ObjectMask
from tests.attacks.entries import encoded_images
from tests.attacks.mutations import tags
from tests.attacks.runner import _peak, _reset_peak
from tests.data_egoexo.release_maker import read_number, write_video

RGB = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)
TELLS_MEMORY = Path("/proc/self/clear_refs").exists()


def jpeg(exif: bytes = b"", image: np.ndarray = RGB, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", **options)
    data = out.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:] if exif else data


# ---------------------------------------------------------------------------------------------------------- EXIF

BLOCKS = {
    "not tags": b"Exif\0\0hello, world",
    "cut off": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "list far away": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "list of itself": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "many values": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\xff\xff\xff\xff\x1a\0\0\0\0\0\0\0",
    "unknown type": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x63\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "text as rotation": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "ninth rotation": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
    "empty": b"Exif\0\0",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_damaged_exif_block_does_not_lose_the_image(name, tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(jpeg(BLOCKS[name]))
    assert np.array_equal(read_image(tmp_path / "a.jpg"), read_image(jpeg()))
    assert capfd.readouterr().err == ""


def test_any_tags_are_read_or_counted_as_none():
    import random

    expected = read_image(jpeg())
    for case in range(300):
        image = read_image(jpeg(b"Exif\0\0" + tags(random.Random(case))))
        assert image.shape in (expected.shape, (24, 16, 3))
        assert image.sum() == expected.sum(), "turned at most"


def test_damage_elsewhere_in_the_tags_leaves_the_rotation():
    order = struct.pack("<HHII", 0x0112, 3, 1, 6)
    broken = struct.pack("<HHII", 0x010E, 2, 2**32 - 1, 2**31)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + broken + order + bytes(4)
    assert exif_orientation(block) == exif_orientation(b"Exif\0\0" * 2 + block) == 6
    turned = read_image(jpeg(b"Exif\0\0" + block))
    assert np.array_equal(turned, np.rot90(read_image(jpeg()), -1))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_rotation_is_pillows_in_every_format(turn, form):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, form, exif=exif)
    with Image.open(out) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(out.getvalue()), expected)


def test_rotation_in_xmp_counts_where_exif_has_none():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, "WEBP", lossless=True, xmp=xmp)
    assert np.array_equal(read_image(out.getvalue()), RGB[::-1, ::-1])


def test_tiff_damage_is_typed_and_silent(tmp_path, capfd):
    data = next(data for suffix, data in encoded_images() if suffix == ".tiff" and b"\x05\x00\x00\x00" in data)
    refused = []
    for at in range(0, len(data) - 4, 3):
        damaged = bytearray(data)
        damaged[at : at + 4] = b"\xff\xff\xff\xff"
        (tmp_path / "a.tif").write_bytes(damaged)
        try:
            read_image(tmp_path / "a.tif")
        except ImageError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all("a.tif" in line for line in refused)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------------------- cost


def png(width: int, height: int, bits: int, colour: int, row: bytes) -> bytes:
    """A PNG of equal rows."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "colour", "pixel"), [(16, 0, b"\x80\0"), (8, 4, b"\x80\xff"), (8, 6, b"\1\2\3\xff"), (8, 0, b"\x80")]
)
def test_conversion_takes_little_more_than_the_result(tmp_path, bits, colour, pixel):
    width, height = 5000, 3000
    (tmp_path / "a.png").write_bytes(png(width, height, bits, colour, b"\0" + pixel * width))
    tracemalloc.start()
    image = read_image(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (height, width, 3)
    assert len(np.unique(image)) <= 3
    assert peak < image.nbytes + 250e6
    expected = {(16, 0): 128, (8, 4): 128, (8, 0): 128}.get((bits, colour))
    assert expected is None or (image == expected).all()


def test_float_images_are_converted_by_strips_as_as_a_whole(monkeypatch):
    for values in (np.linspace(0, 1, 600), np.linspace(0, 60_000, 600), np.array([np.nan, np.inf, -5, 7] * 150)):
        out = io.BytesIO()
        Image.fromarray(values.reshape(30, 20).astype(np.float32)).save(out, "TIFF")
        whole = read_image(out.getvalue())
        with monkeypatch.context() as patch:
            patch.setattr(images, "_STRIP_PIXELS", 45)
            assert np.array_equal(read_image(out.getvalue()), whole)
    for suffix, data in encoded_images():
        whole = read_image(data)
        with monkeypatch.context() as patch:
            patch.setattr(images, "_STRIP_PIXELS", 70)
            assert np.array_equal(read_image(data), whole), suffix


def test_a_tile_larger_than_the_image_is_refused():
    out = io.BytesIO()
    Image.fromarray(RGB).save(out, "TIFF", compression="tiff_lzw")
    data = bytearray(out.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [e for e in entries if struct.unpack_from("<H", e)[0] not in (273, 278, 279)]
    entries += [
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((322, 60_000), (323, 60_000), (324, 8), (325, 99))
    ]
    body = b"".join(sorted(entries, key=lambda e: struct.unpack_from("<H", e)[0]))
    tiled = bytes(data) + struct.pack("<H", len(entries)) + body + bytes(4)
    tiled = tiled[:4] + struct.pack("<I", len(data)) + tiled[8:]
    with pytest.raises(ImageError, match=r"too large|damaged|cannot be opened"):
        read_image(tiled)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    data = jpeg(progressive=True)
    scan = data.index(b"\xff\xda")
    assert read_image(data).shape == RGB.shape
    with pytest.raises(ImageError, match="too many scans"):
        read_image(data[:scan] + data[scan:-2] * 300 + b"\xff\xd9")


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes and devices of this kind")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        for read in (read_image, read_mask):
            with pytest.raises(ImageError, match="not a regular file"):
                read(path)
        with pytest.raises(VideoError, match="not a regular file"):
            VideoReader(path)


# ---------------------------------------------------------------------------------------------------------- masks


def test_the_centroid_of_a_huge_mask_costs_nothing():
    side = 46340
    tracemalloc.start()
    mask = ObjectMask((side, side), np.array([side * 10 + 5, side * side - side * 10 - 5]))
    x, y = mask.centroid_xy
    assert fit_mask(mask, (20, 20)).area == 380
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert x == pytest.approx((10 + side - 1) / 2, abs=0.01)
    assert y == pytest.approx((side - 1) / 2, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_the_centroid_is_the_mean_of_the_pixels(seed):
    array = np.random.default_rng(seed).random((13, 29)) < 0.3
    y, x = np.nonzero(array)
    assert ObjectMask.from_array(array).centroid_xy == pytest.approx((x.mean(), y.mean()), abs=1e-12)


@pytest.mark.parametrize("size", [[46340, 46340], [1, 64_000_000], [64_000_000, 1], [70_000, 5], [10**5000, 2]])
def test_masks_larger_than_images_are_refused(size):
    with pytest.raises(MaskError, match="too large") as caught:
        rle.from_coco({"size": size, "counts": [1]})
    assert len(str(caught.value)) < 300
    with pytest.raises(MaskError, match="too large"):
        rle.from_lzstring("Q", tuple(size))
    with pytest.raises(PredictionError, match=r"malformed.*too large"):
        PredictedMask({"size": size, "counts": [1]}, 1).mask()


@pytest.mark.parametrize("size", [(6001, 6001), (9000, 100)])
def test_predictions_larger_than_an_8k_frame_are_refused(size):
    with pytest.raises(PredictionError, match="predicted mask is too large"):
        PredictedMask({"size": list(size), "counts": [size[0] * size[1]]}, 1).mask()
    assert PredictedMask({"size": [4320, 7680], "counts": [4320 * 7680]}, 1).mask().is_empty


def test_counts_without_end_are_refused():
    with pytest.raises(MaskError, match="too long"):
        rle.decode_counts("0" * (rle.MAX_COUNTS + 1), (4, 4))


def test_noise_is_refused_before_it_becomes_run_lengths(tmp_path, monkeypatch):
    monkeypatch.setattr("counterview.types.MAX_RUNS", 50)
    noise = np.random.default_rng(0).random((20, 20)) < 0.5
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match="too many runs"):
        ObjectMask.from_array(read_mask(tmp_path / "a.png"))
    with pytest.raises(MaskError, match="too many runs"):
        ObjectMask((10, 10), np.ones(100, dtype=np.int64))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "I", "F"])
def test_masks_of_every_mode_are_read_by_strips_as_as_a_whole(tmp_path, mode, monkeypatch):
    truth = np.zeros((30, 40), dtype=bool)
    truth[5:20, 8:30] = True
    image = Image.fromarray(truth)
    if mode == "I;16":
        image = Image.fromarray(truth.astype(np.uint16) * 65535)
    elif mode == "P":
        image = Image.fromarray(truth.astype(np.uint8)).convert("L").convert("P")
        image = Image.fromarray(truth.astype(np.uint8), mode=None)
        image.putpalette([0, 0, 0, 255, 0, 0])
    elif mode != "1":
        image = image.convert("L").convert(mode)
    path = tmp_path / ("a.tiff" if mode in ("I", "F") else "a.png")
    image.save(path)
    assert np.array_equal(read_mask(path), truth)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 90)
    assert np.array_equal(read_mask(path), truth)


def test_a_mask_of_nan_is_refused(tmp_path):
    Image.fromarray(np.array([[0, 1], [np.nan, 1]], dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MaskError, match=r"a\.tiff: holds values that are not numbers"):
        read_mask(tmp_path / "a.tiff")


# ---------------------------------------------------------------------------------------------------------- videos


def patched(path: Path, changes: dict[bytes, tuple[int, ...]]) -> Path:
    """Overwrite numbers of boxes, from the eighth byte after each one's name on."""
    data = bytearray(path.read_bytes())
    for box, numbers in changes.items():
        struct.pack_into(f">{len(numbers)}I", data, data.index(box) + 8, *numbers)
    path.write_bytes(data)
    return path


def test_an_index_of_forty_million_samples_is_not_built(tmp_path):
    write_video(tmp_path / "a.mp4", 1, (32, 48), codec="mpeg4", options={})
    count = 40_000_000
    path = patched(tmp_path / "a.mp4", {b"stsz": (1, count), b"stts": (1, count, 1), b"stsc": (1, 1, count, 1)})
    assert path.stat().st_size < 2000
    before = _reset_peak()
    with pytest.raises(
        VideoError, match=rf"a\.mp4: has too many samples; found {count}; expected at most {MAX_SAMPLES}"
    ):
        VideoReader(path)
    assert not TELLS_MEMORY or _peak() - before < 50


def test_what_repeats_samples_counts_too(tmp_path):
    write_video(tmp_path / "a.mp4", 1, (32, 48), codec="mpeg4", options={})
    data = (tmp_path / "a.mp4").read_bytes()
    trun = b"trun" + struct.pack(">IIII", 1, 2**31, 0, 0)
    moof = struct.pack(">I", len(trun) + 4) + trun
    for kind in (b"traf", b"moof"):
        moof = struct.pack(">I4s", len(moof) + 8, kind) + moof
    (tmp_path / "b.mp4").write_bytes(data + moof)
    with pytest.raises(VideoError, match="too many samples"):
        VideoReader(tmp_path / "b.mp4")
    nested = b""
    for _ in range(60):
        nested = struct.pack(">I4s", len(nested) + 8, b"udta") + nested
    (tmp_path / "c.mp4").write_bytes(data + struct.pack(">I4s", len(nested) + 8, b"moov") + nested)
    with pytest.raises(VideoError, match="nested too deeply"):
        VideoReader(tmp_path / "c.mp4")
    hidden = data.replace(b"esds", b"stsz")
    assert hidden != data
    (tmp_path / "d.mp4").write_bytes(hidden)
    with pytest.raises(VideoError, match="index where none belongs"):
        VideoReader(tmp_path / "d.mp4")
    (tmp_path / "e.mp4").write_bytes(data.replace(b"udta", b"cmov"))
    with pytest.raises(VideoError, match="compressed index"):
        VideoReader(tmp_path / "e.mp4")


def test_long_sound_is_no_long_index(tmp_path):
    """An hour of uncompressed sound beside a video: 170 million samples, in few entries."""
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        picture = container.add_stream("mpeg4", rate=30)
        picture.width = picture.height = 32
        sound = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.int16), format="s16", layout="mono")
        noise.sample_rate, noise.pts = 48_000, 0
        container.mux(sound.encode(noise))
        container.mux(sound.encode(None))
    data = bytearray((tmp_path / "a.mov").read_bytes())
    at = data.index(struct.pack(">I", 48_000), data.index(b"stsz", data.index(b"soun"))) if b"soun" in data else -1
    assert at > 0
    struct.pack_into(">I", data, at, 170_000_000)
    (tmp_path / "a.mov").write_bytes(data)
    with VideoReader(tmp_path / "a.mov") as reader:
        assert reader.size_hw == (32, 32)


def test_frames_that_outgrow_the_limit_are_refused_one_by_one(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        for number in range(4):
            side = 64 if number < 3 else 16_000
            packet = av.Packet(png(side, side, 8, 2, bytes(3 * side + 1)))
            packet.stream, packet.pts, packet.dts, packet.duration = stream, number, number, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 30), True
            container.mux(packet)
    before = _reset_peak()
    with VideoReader(path) as reader:
        found = dict(reader.read(range(4)))
    assert [found[n].shape for n in range(3)] == [(64, 64, 3)] * 3
    assert isinstance(found[3], VideoError)
    assert "frame 3" in str(found[3])
    assert not TELLS_MEMORY or _peak() - before < 100


def test_whatever_the_library_raises_is_typed(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 40, (32, 48))
    for failure in (IndexError("list index"), MemoryError(), OverflowError("too large"), ZeroDivisionError()):
        with monkeypatch.context() as patch:
            patch.setattr(video, "packet_times", lambda _, failure=failure: (_ for _ in ()).throw(failure))
            with pytest.raises(VideoError, match=r"a\.mp4: cannot be read"):
                VideoReader(tmp_path / "a.mp4")
        with VideoReader(tmp_path / "a.mp4") as reader, monkeypatch.context() as patch:
            patch.setattr(reader, "_upright", lambda _, failure=failure: (_ for _ in ()).throw(failure))
            assert all(isinstance(image, VideoError) for _, image in reader.read(range(3)))


def test_a_missing_frame_is_not_searched_in_all_of_the_file(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 200, (32, 48), options={"preset": "ultrafast", "g": "1"}, drop=[150])
    with VideoReader(tmp_path / "a.mp4") as reader:
        groups = []
        decode = reader._decode
        monkeypatch.setattr(reader, "_decode", lambda *a: (groups.append(a[1]), decode(*a))[1])
        ((_, image),) = reader.read([150])
        assert isinstance(image, VideoError)
        assert len(groups) <= 2
        assert read_number(reader.frame(151)) == 151


def test_after_many_failures_the_rest_of_a_group_is_not_tried(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 100, (32, 48), options={"preset": "ultrafast", "g": "100"})
    monkeypatch.setattr(video, "MAX_FAILURES", 5)
    with VideoReader(tmp_path / "a.mp4") as reader:
        tried = []
        monkeypatch.setattr(reader, "_decode", lambda *a: (tried.append(a[3]), (_ for _ in ()).throw(EOFError()))[1])
        found = dict(reader.read(range(90)))
    assert len(found) == 90
    assert all(isinstance(image, VideoError) for image in found.values())
    assert len(tried) < 12
