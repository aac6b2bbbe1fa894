"""Oracle: pycocotools for well-formed masks; for malformed ones, that nothing but MaskError comes out."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lzstring import LZString
from pycocotools import mask as coco

from counterview.errors import MaskError
from counterview.masks import rle
from counterview.types import ObjectMask

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(masks)
def test_same_text_as_pycocotools(dense):
    reference = coco.encode(np.asfortranarray(dense.astype(np.uint8)))["counts"].decode()
    mask = ObjectMask.from_array(dense)
    assert rle.encode_counts(mask) == reference
    assert rle.decode_counts(reference, dense.shape) == mask
    assert rle.from_coco(rle.to_coco(mask)) == mask
    assert rle.from_coco({"size": list(dense.shape), "counts": mask.runs.tolist()}) == mask
    assert rle.from_lzstring(rle.to_lzstring(mask), dense.shape) == mask


def test_large_runs_survive():
    dense = np.zeros((3840, 2160), bool)
    dense[1000:3000, 500:1900] = True
    dense[0, 0] = True
    mask = ObjectMask.from_array(dense)
    reference = coco.encode(np.asfortranarray(dense.astype(np.uint8)))["counts"].decode()
    assert rle.encode_counts(mask) == reference
    assert np.array_equal(rle.decode_counts(reference, dense.shape).to_array(), dense)


def test_a_real_annotation_decodes(fixture_data):
    """A public sample of Ego-Exo4D's annotation, with the areas that pycocotools gives."""
    sample = fixture_data("masks/relations_sample_small.json")
    for entry in sample["masks"]:
        mask = rle.from_lzstring(entry["encodedMask"], (entry["height"], entry["width"]))
        assert mask.area == entry["area"]
        assert list(mask.box_xywh) == entry["box_xywh"]


@settings(max_examples=300)
@given(
    st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=120), max_size=30) | st.binary(max_size=30),
    st.tuples(st.integers(-1, 50), st.integers(-1, 50)),
)
def test_any_counts_decode_or_raise_mask_error(counts, size):
    try:
        mask = rle.decode_counts(counts, size)
    except MaskError:
        return
    assert int(mask.runs.sum()) == size[0] * size[1]


@settings(max_examples=200)
@given(
    st.text(max_size=40)
    | st.text(
        alphabet=LZString.keyStrUriSafe
        if hasattr(LZString, "keyStrUriSafe")
        else "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$",
        max_size=40,
    )
)
def test_any_lzstring_decodes_or_raises_mask_error(text):
    with contextlib.suppress(MaskError):
        rle.from_lzstring(text, (30, 30))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {"size": [2, 2]},
        {"size": [2], "counts": "04"},
        {"size": [2, -2], "counts": "4"},
        {"size": [2, 2], "counts": None},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [True, 3]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": "P"},
        {"size": [2**20, 2**20], "counts": "4"},
        {"size": [2.0, 2], "counts": "4"},
        {"size": [2, 2], "counts": "ooooooooooooo0"},
        {"size": [2, 2], "counts": [2**70, 4]},
    ],
)
def test_hostile_entries_are_refused(bad):
    with pytest.raises(MaskError):
        rle.from_coco(bad)
