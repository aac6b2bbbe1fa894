"""The boundary: whatever a library does, one typed line comes out, and Ctrl-C passes."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterview.errors import ImageError, InputError, MaskError, shown
from counterview.guard import discard_native_stderr, library_errors, read_file, reason, regular_file


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (IndexError("list index out of range"), "IndexError list index out of range"),
        (KeyError("size"), "KeyError 'size'"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "more memory than there is"),
        (RecursionError("maximum depth"), "maximum depth"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("one\ntwo"), "one"),
        (ValueError("x" * 10_000), "x" * 120 + "…"),
        (Mute(), "Mute"),
    ],
)
def test_any_failure_becomes_one_typed_line(failure, words):
    with pytest.raises(ImageError) as caught, library_errors(ImageError, "is damaged", path="a.png", fix="Save it."):
        raise failure
    assert str(caught.value) == f"a.png: is damaged; found {words}. Save it."
    assert caught.value.__cause__ is failure
    assert reason(failure) == words


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_stops_a_program_passes(failure):
    with pytest.raises(failure), library_errors(ImageError, "is damaged"):
        raise failure


def test_errors_of_ours_pass_as_they_are():
    error = MaskError("has no pixel", path="m.png")
    with pytest.raises(MaskError) as caught, library_errors(ImageError, "is damaged", path="a.png"):
        raise error
    assert caught.value is error


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes of this kind, and links need a privilege")
def test_only_plain_files_are_opened(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "pipe")
    assert read_file(tmp_path / "a", InputError, max_bytes=4) == b"1234"
    assert regular_file(tmp_path / "link", InputError) == tmp_path / "link"
    for path, words in (
        (tmp_path / "none", "none: no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "pipe: is not a regular file; found a named pipe"),
        ("/dev/zero", "/dev/zero: is not a regular file; found a device"),
        (tmp_path / "circle", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        ("nul\0", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=words) as caught:
            regular_file(path, ImageError)
        assert "\0" not in str(caught.value)
    with pytest.raises(ImageError, match="a: is too large; found 4 bytes; expected at most 3"):
        read_file(tmp_path / "a", ImageError, max_bytes=3)


def test_standard_error_comes_back_after_several_threads_discarded_it(capfd):
    def work():
        for _ in range(50):
            with discard_native_stderr(), discard_native_stderr():
                os.write(2, b"noise")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=9,
)


@given(json_like)
def test_small_values_are_shown_as_python_does(value):
    assert shown(value, 10_000) == repr(value)


def test_large_values_cost_nothing():
    bomb = ["x"]
    for _ in range(100):
        bomb = [bomb] * 9
    circle = []
    circle.append(circle)
    for value in (bomb, circle, 10**100_000, "y" * 10**7, {10**9000: [1] * 10**6}, tuple([bomb] * 9)):
        assert len(shown(value)) <= 121
        assert len(str(InputError("no", found=value))) <= 4001
    assert shown(10**5000) == "an integer of about 5001 digits"


def test_a_message_moves_no_cursor_and_breaks_no_line():
    line = str(InputError("is bad", path="a\x1b[2J\udcff\u202e.png", found="b\r\nc\x07"))
    assert line.isprintable()
    assert "\\x1b[2J\\udcff\\u202e.png" in line
