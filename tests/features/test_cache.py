import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from counterview.errors import CounterviewError, InputError
from counterview.features import cache as cache_module
from counterview.features.base import Backbone, FeatureMap
from counterview.features.cache import ArrayStore, CachedBackbone, image_key
from counterview.types import ObjectMask


class CellMeans:
    """Mean colours of 8-pixel cells: features simple enough to be worked out beside it."""

    name, channels, stride = "cell-means", 3, 8

    def __init__(self, keeps_image=False):
        self.images = 0
        self.keeps_image = keeps_image

    def settings(self):
        return {"name": self.name, "keeps_image": self.keeps_image}

    def __call__(self, images):
        return [self.encode(image) for image in images]

    def encode(self, image):
        self.images += 1
        h, w = image.shape[0] // 8, image.shape[1] // 8
        cells = image[: h * 8, : w * 8].reshape(h, 8, w, 8, 3).mean((1, 3)) / 255
        tensor = torch.tensor(cells.transpose(2, 0, 1), dtype=torch.float32)
        return FeatureMap(tensor, image.shape[:2], (h * 8, w * 8), 8, extra=image if self.keeps_image else None)

    def describe(self, features, masks, kind="mask", *, context_px=None, fallback="centre"):
        if self.keeps_image:
            rows = [features.extra[m.to_array()].mean(0) / 255 for m in masks]
        else:
            rows = [features.tensor.numpy()[:, m.to_array()[4::8, 4::8]].mean(1) for m in masks]
        return torch.tensor(np.array(rows).reshape(len(masks), 3), dtype=torch.float32)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)


@pytest.fixture
def masks():
    arrays = np.zeros((2, 40, 56), dtype=bool)
    arrays[0, 8:24, 8:32] = True
    arrays[1, 0:16, 40:56] = True
    return [ObjectMask.from_array(a) for a in arrays]


def test_store_gives_back_what_numpy_half_precision_would(tmp_path):
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    store = ArrayStore(tmp_path, {"a": 1})
    first = store.get_or_make("one", lambda: array)
    again = ArrayStore(tmp_path, {"a": 1}).get_or_make("one", lambda: pytest.fail("made twice"))
    np.testing.assert_array_equal(first, array.astype(np.float16))
    np.testing.assert_array_equal(again, first)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert np.all(np.abs(first - array) <= np.maximum(np.abs(array) * 2**-11, 2**-25))
    np.testing.assert_array_equal(np.load(store.path("one")), first)  # a plain .npy to others
    assert len(store) == 1
    assert "one" in store
    assert "two" not in store


def test_float32_store_keeps_the_bits_and_integers_are_kept_as_they_are(tmp_path):
    array = np.random.default_rng(0).normal(size=7).astype(np.float32)
    store = ArrayStore(tmp_path, {}, storage="float32")
    assert store.get_or_make("f", lambda: array).tobytes() == array.tobytes()
    whole = np.arange(5, dtype=np.int64)
    kept = ArrayStore(tmp_path, {}).get_or_make("i", lambda: whole)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, whole)


def test_settings_and_keys_name_the_content(tmp_path):
    store = ArrayStore(tmp_path, {"layer": 11})
    store.put("k", np.zeros(3))
    assert ArrayStore(tmp_path, {"layer": 12}).get("k") is None
    assert ArrayStore(tmp_path, {"layer": 11}, storage="float32").get("k") is None
    assert ArrayStore(tmp_path, {"layer": 11}).get("../k") is None
    assert store.path("../../../etc/passwd").is_relative_to(store.folder)


@pytest.mark.parametrize("damage", ["flip", "flip note", "cut", "empty", "garbage", "pickle"])
def test_damaged_entries_are_made_again_and_logged(tmp_path, damage, caplog):
    store = ArrayStore(tmp_path, {})
    array = np.arange(300, dtype=np.float32)
    store.put("k", array)
    path = store.path("k")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[400] ^= 1
    elif damage == "flip note":
        data[-25] ^= 1
    elif damage == "cut":
        data = data[:-200]
    elif damage == "empty":
        data = bytearray()
    elif damage == "garbage":
        data = bytearray(b"\x93NUMPY" + bytes(500))
    else:
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data))
    made = []
    again = ArrayStore(tmp_path, {})
    result = again.get_or_make("k", lambda: made.append(1) or array)
    np.testing.assert_array_equal(result, array)
    assert made == [1]
    assert "made again" in caplog.text
    np.testing.assert_array_equal(ArrayStore(tmp_path, {}).get("k")[0], array)


def test_values_that_do_not_fit_are_refused(tmp_path):
    store = ArrayStore(tmp_path, {})
    with pytest.raises(InputError, match="float32"):
        store.put("k", np.array([1e6]))
    with pytest.raises(InputError, match="NaN"):
        store.put("k", np.array([np.nan]))
    with pytest.raises(InputError, match="numbers"):
        store.put("k", np.array([{}], dtype=object))
    with pytest.raises(InputError, match="JSON"):
        ArrayStore(tmp_path, {"a": object()})
    assert store.get("k") is None


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    store = ArrayStore(tmp_path, {})
    store.put("old", np.arange(4.0))

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module._Checksum, "write", no_room)
    with pytest.raises(CounterviewError, match="disk is full") as caught:
        store.put("new", np.arange(4.0))
    assert "\n" not in str(caught.value)
    assert len(store) == 1
    assert [p.suffix for p in store.folder.rglob("*") if p.is_file() and p.name != "settings.json"] == [".npy"]
    np.testing.assert_array_equal(store.get("old")[0], np.arange(4.0))


def test_killed_while_writing_leaves_no_half_entry(tmp_path):
    code = f"""
import os, signal, numpy as np
from counterview.features import cache
store = cache.ArrayStore({str(tmp_path)!r}, {{}})
store.put("a", np.arange(3.0))
real, calls = cache._Checksum.write, []
def write(self, data):
    calls.append(1)
    real(self, data)
    if len(calls) == 2:
        self._handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)
cache._Checksum.write = write
store.put("b", np.arange(30000.0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    store = ArrayStore(tmp_path, {})
    assert len(store) == 1
    assert store.get("b") is None
    assert list(tmp_path.rglob("*.part"))
    np.testing.assert_array_equal(store.get_or_make("b", lambda: np.arange(9.0)), np.arange(9.0))
    assert not list(tmp_path.rglob("*.part"))


def test_cached_backbone_equals_the_bare_one(tmp_path, image, masks):
    bare = CellMeans()
    cached = CachedBackbone(CellMeans(), tmp_path, storage="float32")
    assert isinstance(cached, Backbone)
    for _ in range(2):
        features = cached.encode(image)
        expected = bare.encode(image)
        assert torch.equal(features.tensor, expected.tensor)
        assert features.grid == expected.grid
        assert torch.equal(cached.describe(features, masks), bare.describe(expected, masks))
    assert cached.backbone.images == 1
    assert cached.passes == 1
    half = CachedBackbone(CellMeans(), tmp_path).encode(image)
    assert half.tensor.dtype == torch.float32
    torch.testing.assert_close(half.tensor, expected.tensor, rtol=2**-11, atol=2**-25)


def test_full_cache_needs_neither_backbone_nor_image(tmp_path, image, masks):
    first = CachedBackbone(CellMeans(), tmp_path)
    table = first.describe(first.map("take/cam01/7", lambda: image), masks)
    second = CachedBackbone(CellMeans(), tmp_path)
    features = second.map("take/cam01/7", lambda: pytest.fail("the image was read again"))
    assert torch.equal(second.describe(features, masks), table)
    assert second.backbone.images == 0
    empty = second.describe(features, [])
    assert tuple(empty.shape) == (0, 3)
    assert torch.equal(second.describe(features, []), empty)


def test_backbone_that_describes_from_the_image_still_can(tmp_path, image, masks):
    bare = CellMeans(keeps_image=True)
    expected = bare.describe(bare.encode(image), masks)
    cached = CachedBackbone(CellMeans(keeps_image=True), tmp_path, storage="float32")
    assert torch.equal(cached.describe(cached.encode(image), masks), expected)
    again = CachedBackbone(CellMeans(keeps_image=True), tmp_path, storage="float32")
    assert torch.equal(again.describe(again.encode(image), masks), expected)
    assert again.backbone.images == 0


def test_fill_resumes_where_it_was(tmp_path, image):
    images = {str(i): np.roll(image, i, axis=0) for i in range(7)}
    items = [(key, lambda p=value: p) for key, value in images.items()]
    cached = CachedBackbone(CellMeans(), tmp_path)
    assert cached.fill(items[:4], batch_size=3, progress=False) == (4, 0)
    assert cached.fill([*items, items[0]], batch_size=3, progress=False) == (3, 5)
    assert cached.backbone.images == 7
    direct = CellMeans()(list(images.values()))
    for (key, _), expected in zip(items, direct, strict=True):
        torch.testing.assert_close(
            cached.map(key, lambda: pytest.fail("missing")).tensor, expected.tensor, rtol=1e-3, atol=1e-6
        )


def test_images_of_equal_bytes_and_other_shape_differ(image):
    assert image_key(image) == image_key(image.copy())
    assert image_key(image) != image_key(image.reshape(56, 40, 3))
    changed = image.copy()
    changed[3, 4, 1] ^= 1
    assert image_key(changed) != image_key(image)


def test_a_planted_entry_that_is_not_finite_is_made_again(tmp_path, monkeypatch, caplog):
    """With a right checksum, as somebody would write it who can write there."""
    store, array = ArrayStore(tmp_path, {}), np.arange(6, dtype=np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.np, "isfinite", lambda values: np.ones_like(values, dtype=bool))
        store.put("k", np.array([1, np.nan, 2]))
    again = ArrayStore(tmp_path, {})
    np.testing.assert_array_equal(again.get_or_make("k", lambda: array), array)
    assert "not finite" in caplog.text
