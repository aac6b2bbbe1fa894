"""The LZString reader against the lzstring package."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lzstring import LZString

from counterview.masks.lz import decompress_uri

LIBRARY = LZString()


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"])) | st.text("01NOo", max_size=2000))
def test_what_the_package_writes_is_read(text):
    assert decompress_uri(LIBRARY.compressToEncodedURIComponent(text)) == text


@settings(max_examples=400, deadline=None)
@given(st.text("ABCDEFGhijkl0123456789+-$ ", min_size=1, max_size=40))
def test_other_text_is_read_as_the_package_reads_it_or_refused(text):
    try:
        expected = LIBRARY.decompressFromEncodedURIComponent(text)
    except Exception:  # the package raises whatever its tables run into
        expected = None
    try:
        found = decompress_uri(text)
    except ValueError:
        found = None
    assert (found or None) == (expected or None)


@settings(max_examples=100, deadline=None)
@given(st.text("01NOo", min_size=5, max_size=300), st.data())
def test_a_cut_text_is_refused(text, data):
    code = LIBRARY.compressToEncodedURIComponent(text)
    with pytest.raises(ValueError, match=r"early|empty"):
        decompress_uri(code[: data.draw(st.integers(0, len(code) - 2))])


def test_a_few_bytes_that_stand_for_very_many():
    code = LIBRARY.compressToEncodedURIComponent("0" * 300_000)
    assert len(code) < 2000
    assert decompress_uri(code) == "0" * 300_000
    with pytest.raises(ValueError, match="too long"):
        decompress_uri(code, max_length=1000)


@pytest.mark.parametrize("text", ["", "é", "A\n", "Q=", "\0"])
def test_text_of_other_letters(text):
    with pytest.raises(ValueError, match=r"character|empty"):
        decompress_uri(text)
