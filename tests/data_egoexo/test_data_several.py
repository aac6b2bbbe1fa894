"""Several data sets as one."""

import pickle

import pytest

from counterview.data.open import open_dataset, open_datasets
from counterview.errors import InputError
from tests.omama.tiny_takes import write_takes


def test_takes_of_all_in_order_and_each_from_its_own_folder(tmp_path):
    first = write_takes(tmp_path / "a", frames=1, splits={"train": 2, "val": 1})
    second = write_takes(tmp_path / "b", frames=1, splits={"train": 1}, seed=1, prefix="other")
    both = open_datasets([first, second], "train")
    assert both.uids == ("take0", "take1", "other0")
    for uid, root in (("take1", first), ("other0", second)):
        assert both.take(uid).path.is_relative_to(root)
        assert both.take(uid).objects == open_dataset(root).take(uid).objects
    assert [take.uid for take in pickle.loads(pickle.dumps(both))] == list(both.uids)
    assert open_datasets([first], "train").uids == ("take0", "take1")


def test_what_is_refused(tmp_path):
    first = write_takes(tmp_path / "a", frames=1, splits={"train": 1})
    with pytest.raises(InputError, match=r"two data sets hold the same take.*take0 in two of"):
        open_datasets([first, write_takes(tmp_path / "b", frames=1, splits={"train": 1})])
    with pytest.raises(InputError, match="no such folder"):
        open_datasets([first, tmp_path / "nowhere"])
