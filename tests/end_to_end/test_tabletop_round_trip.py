"""Rendered release -> prepare -> pairs -> predictions -> submit -> evaluate: the ground truth scores perfectly."""

import json
import random
from pathlib import Path

import pytest

from counterview.cli.main import main
from counterview.data.dataset import DIRECTIONS
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.evaluation.submission import KEY_OF, PredictionWriter, prediction_entry
from counterview.types import ObjectMask

pytest.importorskip("embreex")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    from counterview.tabletop.config import preset
    from counterview.tabletop.generate import generate

    root = tmp_path_factory.mktemp("release")
    generate(root, {"test": 2, "test_novel": 1}, preset("standard", size=224, seconds=4, cameras=2), seed=3)
    return root


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    assert main(["prepare", str(release), str(root), "--split", "test"]) == 0
    return root


def predict_truth(
    prepared: Path, path: Path, direction: str, *, empty: bool = False, shuffle: int | None = None
) -> int:
    """Write the ground truth as predictions, or empty masks; return their number."""
    dataset = open_dataset(prepared, "test")
    takes: dict[str, dict] = {}
    pairs = list(enumerate_pairs(dataset, direction))
    if shuffle is not None:
        random.Random(shuffle).shuffle(pairs)
    for pair in pairs:
        take = dataset.take(pair.take)
        mask = take.mask(pair.object, pair.target_camera, pair.frame)
        if mask is None or empty:
            mask = ObjectMask.empty(take.native_size(pair.target_camera))
        cameras = takes.setdefault(pair.take, {}).setdefault(pair.object, {})
        frames = cameras.setdefault(f"{pair.query_camera}_{pair.target_camera}", {})
        frames[str(pair.frame)] = prediction_entry(mask, float(bool(pair.target_visible) and not empty))
    with PredictionWriter(path) as writer:
        writer.begin(direction)
        for uid, masks in takes.items():
            writer.add(uid, masks)
    return len(pairs)


def evaluate(capsys, gt: Path, pred: Path, *more: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", "--gt", str(gt), "--pred", str(pred), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_ground_truth_scores_perfectly_after_every_step(release, prepared, tmp_path, capsys):
    for direction in DIRECTIONS:
        assert predict_truth(prepared, tmp_path / f"{direction}.json", direction) > 20
    out = tmp_path / "submission.json"
    code = main(
        ["submit", *(str(tmp_path / f"{d}.json") for d in DIRECTIONS), "--out", str(out), "--gt", str(prepared)]
    )
    assert code == 0
    assert set(json.loads(out.read_text())) == {KEY_OF[d] for d in DIRECTIONS}
    for gt in (prepared, release / "annotations" / "relations_test.json"):
        for direction in DIRECTIONS:
            scores = evaluate(capsys, gt, out, "--direction", direction)
            assert scores["iou"] > 0.97
            assert scores["balanced_accuracy"] == 1.0
            assert scores["location_error"] < 1e-3
            assert scores["counts"]["missing"] == 0
            assert scores["counts"]["visible"] > 0
            assert scores["counts"]["absent"] > 0


def test_novel_kinds_are_a_separate_split(release, tmp_path):
    novel = open_dataset(release, "test_novel")
    assert len(novel) == 1
    assert not set(novel.uids) & set(open_dataset(release, "test").uids)
    assert main(["prepare", str(release), str(tmp_path), "--split", "test_novel"]) == 0
    assert open_dataset(tmp_path, "test_novel").uids == novel.uids


def test_empty_predictions_have_the_documented_scores(prepared, tmp_path, capsys):
    predict_truth(prepared, tmp_path / "p.json", "ego2exo", empty=True)
    scores = evaluate(capsys, prepared, tmp_path / "p.json", "--direction", "ego2exo")
    assert scores["balanced_accuracy"] == 0.5
    assert scores["iou"] < 0.02  # one only where nearest resizing leaves nothing of the truth either


def test_the_order_of_predictions_does_not_matter(prepared, tmp_path, capsys):
    scores = []
    for seed in (1, 2):
        predict_truth(prepared, tmp_path / "p.json", "exo2ego", shuffle=seed)
        scores.append(evaluate(capsys, prepared, tmp_path / "p.json", "--direction", "exo2ego"))
    assert scores[0] == scores[1]
