"""The hash of the annotation: of its contents, and of no path, date or other take."""

import json
import os
import shutil

import pytest

from counterview.data.digest import annotation_digest
from counterview.data.open import open_dataset, open_datasets
from counterview.training.identity import differences, identity


@pytest.fixture
def prepared(tmp_path):
    for uid in ("a", "b", "c"):
        (tmp_path / "one" / uid).mkdir(parents=True)
        content = {"masks": {uid: {"cam01": {"0": {"size": [4, 4], "counts": "44"}}}}, "subsample_idx": [0]}
        (tmp_path / "one" / uid / "annotation.json").write_text(json.dumps(content))
    (tmp_path / "one" / "split.json").write_text(json.dumps({"train": ["a", "b", "c"]}))
    return tmp_path / "one"


def digest(root, uids=("a", "b")):
    return annotation_digest(open_dataset(root, "train"), uids)


def test_of_contents_and_of_the_takes_in_question(prepared, tmp_path):
    before = digest(prepared)
    assert before == digest(prepared, ("b", "a", "a"))
    moved = shutil.copytree(prepared, tmp_path / "moved")
    for path in moved.rglob("*.json"):
        os.utime(path, ns=(1, 1))
    assert digest(moved) == before
    (moved / "c" / "annotation.json").write_text('{"masks": {}, "subsample_idx": []}')
    assert digest(moved) == before
    # The same length and the same names: only a mask is another.
    path = moved / "b" / "annotation.json"
    path.write_text(path.read_text().replace('"44"', '"35"'))
    assert digest(moved) != before


def test_of_several_data_sets_and_of_a_release(prepared, tmp_path):
    other = tmp_path / "two"
    other.mkdir()
    shutil.move(prepared / "b", other / "b")
    (other / "split.json").write_text('{"train": ["b"]}')
    (prepared / "split.json").write_text('{"train": ["a", "c"]}')
    both = open_datasets([prepared, other], "train")
    before = annotation_digest(both, ["a", "b"])
    path = other / "b" / "annotation.json"
    path.write_text(path.read_text().replace('"44"', '"35"'))
    assert annotation_digest(open_datasets([prepared, other], "train"), ["a", "b"]) != before


def test_a_run_that_recorded_no_hash_is_not_compared_with_one():
    old = identity({}, {"train_hash": "1"}, 1)
    now = identity({}, {"train_hash": "1", "train_annotation": "x", "validation_annotation": "y"}, 1)
    other = identity({}, {"train_hash": "1", "train_annotation": "z", "validation_annotation": "y"}, 1)
    assert differences(old, now) == []
    assert differences(now, now) == []
    assert differences(now, other) == ["data set: train_annotation was 'x', now is 'z'"]
    assert differences(old, identity({}, {"train_hash": "1", "more": 2}, 1)) == ["data set: more is new (2)"]
