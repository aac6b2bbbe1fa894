"""Frames and sizes of prediction files: what is found, recorded and refused.

Oracle: files that are written by hand from a ground truth, so that it is known what they hold.
"""

import json
from pathlib import Path

import pytest

from counterview.data.pairs import FramePair, PairFraction, PairTable, subset
from counterview.errors import InputError, PredictionError
from counterview.evaluation.folders import png_path
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.layout import (
    ASPECT_KEPT,
    EVERY_FRAME,
    LAYOUTS,
    SQUARES,
    VISIBLE_FRAMES,
    Contents,
    Record,
    check_alike,
    find_contents,
    get_layout,
    layout_of_protocol,
    read_record,
)
from counterview.evaluation.open import open_predictions
from counterview.evaluation.protocol import evaluate
from counterview.evaluation.scorer import PROTOCOLS
from counterview.evaluation.side_by_side import evaluate_alike
from counterview.evaluation.submission import PredictionWriter
from counterview.masks import rle
from counterview.masks.geometry import fit_longest_side, resize_mask
from counterview.masks.png import write_mask_png
from counterview.types import ObjectMask
from tests.omama.tiny_takes import EGO_HW, EXO_HW, write_takes


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Two takes; in some frames an object is absent from the exo camera."""
    return GroundTruth(write_takes(tmp_path_factory.mktemp("takes"), frames=4, splits={"test": 2}), "test")


def pairs_of(truth, direction="ego2exo"):
    """Take, key and frame of every frame with a query mask, and whether the target has a mask."""
    return [
        (take, key, frame, frame in take.objects[key[0]][key[2]].masks)
        for take in truth
        for key in take.pairs(direction)
        for frame in sorted(take.objects[key[0]][key[1]].masks)
    ]


def write(path, truth, *, size, frames, direction="ego2exo", record=None, keep=lambda pair: True):
    """Predictions that are right, of a size and for the frames that are asked for."""
    settings = None if record is None else {"method": "test", "holds": record.to_json()}
    with PredictionWriter(path, settings=settings) as writer:
        writer.begin(direction)
        for take in truth:
            masks = {}
            for other, (name, query, target), frame, visible in pairs_of(truth, direction):
                if other.uid != take.uid or (frames == "visible" and not visible):
                    continue
                if not keep(FramePair(take.uid, name, query, target, frame, visible)):
                    continue
                native = EXO_HW if target.startswith("cam") else EGO_HW
                mask = take.mask(name, target, frame) or ObjectMask.empty(native)
                entry = {"pred_mask": rle.to_coco(resize_mask(mask, size(native))), "confidence": float(visible)}
                masks.setdefault(name, {}).setdefault(f"{query}_{target}", {})[str(frame)] = entry
            writer.add(take.uid, masks)
    return open_predictions(path)


def aspect(native):
    return fit_longest_side(native, 480)


def square(native):
    return (480, 480)


@pytest.mark.parametrize("size", [aspect, square])
@pytest.mark.parametrize("frames", ["every", "visible"])
def test_frames_and_sizes_are_found_in_the_masks(truth, tmp_path, size, frames):
    source = write(tmp_path / "p.json", truth, size=size, frames=frames)
    found = find_contents(truth, source, "ego2exo")
    counts = [visible for *_, visible in pairs_of(truth)]
    assert found.visible == sum(counts)
    absent = len(counts) - sum(counts)
    assert absent > 0
    assert (found.other, found.other_missing) == ((absent, 0) if frames == "every" else (0, absent))
    assert found.frames == (EVERY_FRAME if frames == "every" else VISIBLE_FRAMES)
    assert found.size == (ASPECT_KEPT if size is aspect else SQUARES)
    # Scoring finds the same on its way.
    report = evaluate(truth, source, protocol="lmeec")
    assert report.contents == found
    assert report.totals.iou > (0.99 if size is aspect else 0.97)


def test_where_every_target_is_square_and_visible_nothing_tells_layouts_apart(truth, tmp_path):
    """From exo to ego: the ego image is square, and every object that is in the exo image is in it."""
    found = find_contents(truth, write(tmp_path / "p.json", truth, size=square, frames="every", direction="exo2ego"),
                          "exo2ego")  # fmt: skip
    assert (found.frames, found.size) == ("either layout", "either layout")
    check_alike([("it", found.frames, found.size), *((n, y.frames, y.sizes) for n, y in list(LAYOUTS.items())[:1])])


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (lambda native: fit_longest_side(native, 952), "longer side 952, aspect kept"),
        (lambda native: (518, 518), "518 x 518 squares"),
        (lambda native: (100, 200), "100 x 200"),
    ],
)
def test_other_sizes_are_named(truth, tmp_path, size, words):
    found = find_contents(truth, write(tmp_path / "p.json", truth, size=size, frames="every"), "ego2exo")
    assert found.size == words


def test_folders_of_masks_are_measured_without_decoding(truth, tmp_path):
    for take, (name, query, target), frame, visible in pairs_of(truth):
        if visible:
            mask = resize_mask(take.mask(name, target, frame), (480, 480))
            write_mask_png(png_path(tmp_path / "png", take.uid, name, query, target, frame), mask.to_array())
            text = json.dumps(rle.to_coco(mask))
            file = tmp_path / "lmeec" / take.uid / f"{query}__{target}" / name / f"{frame}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    for folder in ("png", "lmeec"):
        found = find_contents(truth, open_predictions(tmp_path / folder), "ego2exo")
        assert (found.frames, found.size) == (VISIBLE_FRAMES, SQUARES)
    for file in (tmp_path / "png").rglob("*.png"):
        file.write_bytes(b"no image")
    assert not find_contents(truth, open_predictions(tmp_path / "png"), "ego2exo").sizes


def test_a_record_is_read_back(truth, tmp_path):
    part = PairFraction(0.1, 42, 2**63 + 5)
    record = Record(LAYOUTS["lmeec"], ("take0", "take1"), {"ego2exo": part, "exo2ego": PairFraction(0.1, 42, -1)})
    source = write(tmp_path / "p.json", truth, size=square, frames="visible", record=record)
    assert read_record(source) == record
    assert read_record(write(tmp_path / "q.json", truth, size=square, frames="visible")) is None
    assert read_record(open_predictions(Path(__file__).parents[1] / "data" / "evaluator" / "pred_ego-exo.json")) is None
    values = json.loads((tmp_path / "p.json").read_text())
    for broken in ({"layout": "square"}, {"layout": "lmeec", "takes": 3}, "lmeec",
                   {"layout": "lmeec", "pairs": {"fraction": 0.1}}):  # fmt: skip
        values["ego-exo"]["counterview"]["holds"] = broken
        (tmp_path / "b.json").write_text(json.dumps(values))
        with pytest.raises(PredictionError, match="record of its frames and sizes is malformed"):
            read_record(open_predictions(tmp_path / "b.json"))


def test_a_file_that_does_not_hold_what_it_records_is_refused(truth, tmp_path):
    wrong = write(tmp_path / "p.json", truth, size=aspect, frames="every", record=Record(LAYOUTS["lmeec"]))
    with pytest.raises(PredictionError, match=f"does not hold the frames and sizes.*found {EVERY_FRAME}.*{SQUARES}"):
        evaluate(truth, wrong, protocol="lmeec")
    right = write(tmp_path / "q.json", truth, size=aspect, frames="every", record=Record(LAYOUTS["official"]))
    assert evaluate(truth, right).totals.missing == 0


def test_a_file_of_visible_frames_says_so_instead_of_a_list_of_missing_ones(truth, tmp_path):
    source = write(tmp_path / "p.json", truth, size=square, frames="visible", record=Record(LAYOUTS["lmeec"]))
    with pytest.raises(PredictionError, match=r"needs every frame with a query mask; found frames with a target.*480"):
        evaluate(truth, source, protocol="official")
    assert evaluate(truth, source, protocol="lmeec").totals.absent == 0


def test_a_fraction_is_scored_alone_and_must_be_complete(truth, tmp_path):
    pairs = PairTable.from_pairs(
        FramePair(take.uid, *key, frame, visible) for take, key, frame, visible in pairs_of(truth)
    )
    part = PairFraction.of(pairs, 0.25, 7)
    chosen = {p.key for p in subset(pairs, 0.25, 7)}
    assert {p.key for p in pairs if p in part} == chosen
    assert len(chosen) == round(len(pairs) / 4)
    record = Record(LAYOUTS["official"], truth.takes, {"ego2exo": part})
    source = write(tmp_path / "p.json", truth, size=aspect, frames="every", record=record, keep=lambda p: p in part)
    report = evaluate(truth, source)
    assert report.totals.frames == len(chosen)
    assert report.totals.missing == 0
    assert "only 0.25 of the pairs are scored, selected with seed 7" in report.notes
    # A file that holds everything is scored on the same pairs when it is asked for, and has the same scores.
    whole = write(tmp_path / "whole.json", truth, size=aspect, frames="every")
    assert evaluate(truth, whole).totals.frames == len(pairs)
    assert evaluate(truth, whole, part=part).totals == report.totals
    assert [r.totals.frames for r in evaluate_alike(truth, [whole, source], "ego2exo", protocol="official")] == [
        len(chosen)
    ] * 2
    # One prediction less is missed.
    lost = min(chosen)
    short = write(tmp_path / "short.json", truth, size=aspect, frames="every", record=record,
                  keep=lambda p: p in part and p.key != lost)  # fmt: skip
    with pytest.raises(PredictionError, match="1 predictions are missing"):
        evaluate(truth, short)
    other = PairFraction.of(pairs, 0.25, 8)
    with pytest.raises(PredictionError, match=r"another selection of pairs; found 0.25 of them, seed 7"):
        evaluate(truth, source, part=other)


def test_the_takes_that_were_asked_for_are_scored_alone_when_allowed(truth, tmp_path):
    first = truth.only(truth.takes[:1])
    assert first.takes == truth.takes[:1]
    record = Record(LAYOUTS["official"], first.takes)
    source = write(tmp_path / "p.json", first, size=aspect, frames="every", record=record)
    with pytest.raises(PredictionError, match="predictions are missing"):
        evaluate(truth, source)
    report = evaluate(truth, source, allow_missing_takes=True)
    assert {row.take for row in report.table.rows()} == {truth.takes[0]}
    assert report.totals.frames == evaluate(first, source).totals.frames
    assert "scored of 2 takes: the 1 that the file was asked for" in report.notes
    # A take that was asked for and is not in the file is still missing.
    both = write(
        tmp_path / "q.json", first, size=aspect, frames="every", record=Record(LAYOUTS["official"], truth.takes)
    )
    with pytest.raises(PredictionError, match="predictions are missing"):
        evaluate(truth, both, allow_missing_takes=True)


def test_files_side_by_side_are_alike_where_the_protocol_takes_them_as_they_are(truth, tmp_path):
    squares = write(tmp_path / "squares.json", truth, size=square, frames="visible")
    kept = write(tmp_path / "kept.json", truth, size=aspect, frames="every")
    with pytest.raises(PredictionError, match=r"cannot stand side by side; found .*kept.json: every query frame"):
        evaluate_alike(truth, [squares, kept], "ego2exo", protocol="lmeec")
    other = write(tmp_path / "other.json", truth, size=square, frames="visible")
    one, two = evaluate_alike(truth, [squares, other], "ego2exo", protocol="lmeec")
    assert one.totals == two.totals


def test_names_and_words():
    assert get_layout("lmeec").square
    assert get_layout("lmeec").targets == "visible"
    assert get_layout("official").targets == "official"
    with pytest.raises(InputError, match=r"no layout 'lm-eec'; expected official or lmeec. Did you mean 'lmeec'"):
        get_layout("lm-eec")
    assert Contents().to_json()["frames"] == "either layout"
    assert {name: layout_of_protocol(name).name for name in PROTOCOLS} == {
        "official": "official", "omama": "official", "lmeec": "lmeec", "macro": "official", "visible": "official",
        "corrected": "official",
    }  # fmt: skip
