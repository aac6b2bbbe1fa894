"""Pairs: against a plain enumeration by the official rule, and by what must hold of any order and share."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from counterview.data.open import open_dataset
from counterview.data.pairs import (
    FramePair,
    PairTable,
    enumerate_pairs,
    pair_paths,
    read_pair_list,
    shuffled_index,
    subset,
)
from counterview.errors import AnnotationError, InputError
from counterview.masks import rle
from counterview.types import ObjectMask

EGO, EXO, EXO2 = "aria02_214-1", "cam01", "moblie"


def mask(size: tuple[int, int], value: int = 3) -> dict[str, object]:
    array = np.zeros(size, dtype=bool)
    array[2 : 2 + value, 1:5] = True
    return rle.to_coco(ObjectMask.from_array(array))


def tracks(**cameras: list[int]) -> dict[str, dict[str, object]]:
    size = {EGO: (14, 14), EXO: (27, 48), EXO2: (48, 27)}
    return {c: {str(f): mask(size[c]) for f in frames} for c, frames in cameras.items()}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Two takes. The bolt of the first has masks at 0, 30, 60 in the ego camera, at 30, 90 in cam01, annotated at 0."""
    contents = {
        "take-a": {
            "masks": {
                "bolt/nut_0": tracks(**{EGO: [0, 30, 60], EXO: [30, 90], EXO2: []}),
                "bowl 1": tracks(**{EXO2: [0], EGO: [0, 30]}),
                "only exo": tracks(**{EXO: [0, 30]}),
            },
            "subsample_idx": [0, 30, 60, 90],
            "annotated_frames": {
                "bolt/nut_0": {EGO: [0, 30, 60, 90], EXO: [0, 30, 90], EXO2: []},
                "bowl 1": {EGO: [0, 30], EXO2: [0]},
                "only exo": {EXO: [0, 30]},
            },
        },
        "take-b": {"masks": {"cup": tracks(**{EGO: [120, 30], EXO: [30]})}, "subsample_idx": [30, 120]},
    }
    for uid, content in contents.items():
        for camera in (EGO, EXO, EXO2):
            (tmp_path / uid / camera).mkdir(parents=True)
            for frame in content["subsample_idx"]:
                (tmp_path / uid / camera / f"{frame}.jpg").touch()
        (tmp_path / uid / "annotation.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["take-b"], "val": ["take-a"], "test": []}))
    return tmp_path


def official_list(root: Path, takes: list[str], setting: str) -> set[tuple[str, ...]]:
    """The rule in words, as plain loops over annotation.json."""
    found = set()
    for take in takes:
        for name, cameras in json.loads((root / take / "annotation.json").read_text())["masks"].items():
            egos = [c for c in cameras if "aria" in c]
            for ego in egos:
                for exo in set(cameras) - set(egos):
                    for frame in cameras[ego if setting == "egoexo" else exo]:
                        found.add(
                            tuple(
                                f"{root}//{take}//{c}//{name}//{kind}//{frame}"
                                for c in (ego, exo)
                                for kind in ("rgb", "mask")
                            )
                        )
    return found


@pytest.mark.parametrize(("direction", "setting"), [("ego2exo", "egoexo"), ("exo2ego", "exoego")])
def test_official_enumeration(prepared: Path, direction: str, setting: str) -> None:
    dataset = open_dataset(prepared)
    pairs = enumerate_pairs(dataset, direction)
    ours = [pair_paths(str(prepared), pair, direction) for pair in pairs]
    assert len(ours) == len(set(ours))
    assert set(ours) == official_list(prepared, ["take-a", "take-b"], setting)
    (prepared / "list.json").write_text(json.dumps(ours))
    back = read_pair_list(prepared / "list.json", direction)
    assert [p.key for p in back] == [p.key for p in pairs]
    assert all(p.target_visible is None for p in back)


def test_targets(prepared: Path) -> None:
    dataset = open_dataset(prepared, "val")

    def found(targets: str) -> list[tuple[str, str, int, bool | None]]:
        pairs = enumerate_pairs(dataset, "ego2exo", targets=targets)
        return [(p.object, p.target_camera, p.frame, p.target_visible) for p in pairs]

    bolt, bowl = "bolt/nut_0", "bowl 1"
    assert found("official") == [
        (bolt, EXO, 0, False),  # annotated, no mask
        (bolt, EXO, 30, True),
        (bolt, EXO, 60, None),  # not annotated
        (bolt, EXO2, 0, None),
        (bolt, EXO2, 30, None),
        (bolt, EXO2, 60, None),
        (bowl, EXO2, 0, True),
        (bowl, EXO2, 30, None),
    ]
    assert found("annotated") == [(bolt, EXO, 0, False), (bolt, EXO, 30, True), (bowl, EXO2, 0, True)]
    assert found("visible") == [(bolt, EXO, 30, True), (bowl, EXO2, 0, True)]
    assert found("absent") == [(bolt, EXO, 0, False)]
    with pytest.raises(InputError, match="no such choice of targets"):
        enumerate_pairs(dataset, "ego2exo", targets="all")
    with pytest.raises(InputError, match="no such direction"):
        enumerate_pairs(dataset, "ego-exo")


def test_pairs_without_images_are_left_out(prepared: Path) -> None:
    (prepared / "take-b" / EXO / "120.jpg").unlink()
    dataset = open_dataset(prepared, "train")
    assert [p.frame for p in enumerate_pairs(dataset, "ego2exo")] == [30]
    assert [p.frame for p in enumerate_pairs(dataset, "ego2exo", need_images=False)] == [30, 120]


def many(count: int) -> PairTable:
    return PairTable.from_pairs(
        FramePair(f"t{i % 7}", f"o{i % 3}", EGO, EXO, i, [True, False, None][i % 3]) for i in range(count)
    )


def test_table_keeps_every_field() -> None:
    pairs = many(200_000)
    assert len(pairs) == 200_000
    assert pairs[131_073] == FramePair("t5", "o0", EGO, EXO, 131_073, True)
    assert [p.target_visible for p in pairs[1:4]] == [False, None, True]
    assert pickle.loads(pickle.dumps(pairs[:5]))[4] == pairs[4]  # what worker processes do
    assert len(PairTable.from_pairs([])) == 0


def test_a_fraction_depends_on_the_seed_alone() -> None:
    pairs = many(3000)
    fifth = subset(pairs, 0.2, seed=5)
    assert len(fifth) == 600
    shuffled = pairs.select(np.random.default_rng(0).permutation(3000))
    assert {p.key for p in subset(shuffled, 0.2, seed=5)} == {p.key for p in fifth}
    assert {p.key for p in fifth} < {p.key for p in subset(pairs, 0.5, seed=5)}
    assert {p.key for p in fifth} != {p.key for p in subset(pairs, 0.2, seed=6)}
    frames = [p.frame for p in fifth]
    assert frames == sorted(frames)
    assert frames[:5] == [1, 5, 9, 11, 13]  # must not change between versions: a subset is part of an experiment
    with pytest.raises(InputError, match="from 0 to 1"):
        subset(pairs, 20, seed=0)


@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 1000])
def test_order_is_a_permutation(length: int) -> None:
    orders = [
        [shuffled_index(length, seed, epoch, i) for i in range(length)] for seed, epoch in ((0, 0), (0, 1), (9, 0))
    ]
    assert all(sorted(order) == list(range(length)) for order in orders)
    if length > 30:
        assert orders[0] != orders[1] != orders[2]
    assert shuffled_index(length, 0, 0, length) == orders[1][0]  # runs on into the next epoch


def test_order_is_uniform() -> None:
    """Over many epochs every item comes first about equally often: chi-square below its 99.9 % point."""
    length, epochs = 20, 4000
    firsts = Counter(shuffled_index(length, 3, epoch, 0) for epoch in range(epochs))
    expected = epochs / length
    assert sum((firsts[i] - expected) ** 2 / expected for i in range(length)) < 43.8
    assert [shuffled_index(1000, 1, 2, i) for i in range(4)] == [468, 601, 454, 119]  # nor may orders


def test_names_that_the_list_cannot_hold() -> None:
    good = FramePair("t", "bolt/nut_0", EGO, EXO, 30, True)
    assert pair_paths("out/", good, "ego2exo")[2] == f"out//t//{EXO}//bolt/nut_0//rgb//30"
    for name in ("a//b", "/a", "a/", ""):
        assert pair_paths("out", FramePair("t", name, EGO, EXO, 0, True), "ego2exo") is None


@pytest.mark.parametrize(
    "entry",
    [["a"], 3, ["x"] * 4, [f"r//t//{EGO}//o//rgb//0", "", f"r//t//{EXO}//o//rgb//30", ""], [None] * 4],
)
def test_bad_pair_lists(tmp_path: Path, entry: object) -> None:
    (tmp_path / "p.json").write_text(json.dumps([entry]))
    with pytest.raises(AnnotationError, match="entry 0 is not a pair"):
        read_pair_list(tmp_path / "p.json", "ego2exo")
