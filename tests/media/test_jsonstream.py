"""Splitting large JSON files: the standard library's parser is the oracle."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterview.errors import AnnotationError, InputError
from counterview.media import jsonstream
from counterview.media.jsonstream import index_object, iter_object, read_span

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(), VALUES, max_size=5),
    st.dictionaries(st.text(), VALUES, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 40),
)
def test_any_object_is_split_as_the_standard_library_reads_it(tmp_path_factory, members, around, indent, ascii, chunk):
    path = tmp_path_factory.mktemp("json") / "file.json"
    whole = {**around, "annotations": members}
    path.write_text(json.dumps(whole, indent=indent, ensure_ascii=ascii), "utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "CHUNK_BYTES", chunk)  # cuts fall inside names, strings and escapes
        try:
            assert dict(iter_object(path)) == members
            spans = index_object(path)
        except InputError:  # lone surrogates are no UTF-8
            with pytest.raises(UnicodeDecodeError):
                path.read_text("utf-8")
            return
    assert {name: read_span(path, span, name) for name, span in spans.items()} == members
    assert dict(iter_object(path, ())) == whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:\\ 1annotations').map(str.encode), st.integers(1, 20))
def test_garbage_is_an_error_or_what_the_standard_library_reads(tmp_path_factory, data, chunk):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "CHUNK_BYTES", chunk)
        try:
            found = dict(iter_object(path, ()))
        except InputError:
            return
    assert found == json.loads(data.decode("utf-8-sig"))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_truncation_is_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "file.json"
    text = json.dumps({"a": [1, {"b": '\\"'}], "annotations": {"t": {"x": "yé"}, "u": 3}, "z": "end"}).encode()
    path.write_bytes(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(InputError):
        list(iter_object(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("[1]", "is not a JSON object"),
        ('{"annotations": 3}', "'annotations' is not a JSON object"),
        ('{"takes": {}, "other": 1}', "has no 'annotations'; found 'other', 'takes'"),
        ('{"annotations": {"t": 1, "t": 2}}', "'t' twice"),
        ('{"annotations": {"t": 1}, "annotations": {"u": 2}}', "'annotations' twice"),
        ('{"annotations": {"t": 1}} trailing', "more after the end"),
        ('{"annotations": {"t": nope}}', "value of 't' is not JSON"),
        ('{"annotations": {"t": ' + "[" * 5000 + "]" * 5000 + "}}", "nesting deeper"),
        ('{"annotations": {"t": ' + "9" * 200_000 + "}}", "not JSON"),
        ('{"annotations": {"t": {"a": ]}}', "not JSON"),
        ('{"annotations": {"t": 1 "u": 2}}', "instead of"),
        ('{"annotations": {t: 1}}', "no name"),
    ],
)
def test_errors_name_the_file_and_the_fault(tmp_path, text, says):
    path = tmp_path / "relations_val.json"
    path.write_text(text)
    with pytest.raises(AnnotationError) as caught:
        list(iter_object(path, error=AnnotationError))
    assert says in str(caught.value)
    assert "relations_val.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "nul\0"):
        with pytest.raises(InputError):
            list(iter_object(path))


def test_memory_does_not_grow_with_the_number_of_members(tmp_path):
    def peak(members: int) -> int:
        path = tmp_path / f"{members}.json"
        value = json.dumps({"masks": ["x" * 1000] * 300})
        with path.open("w") as handle:
            handle.write('{"annotations": {')
            handle.write(",".join(f'"take{i}": {value}' for i in range(members)))
            handle.write("}}")
        tracemalloc.start()
        count = sum(1 for _ in iter_object(path))
        assert count == members
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(100) < 1.2 * peak(20)
