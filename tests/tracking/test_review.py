"""What a person should check. Oracles: tracks made with one fault each, and the csv module's own reader."""

import csv
import math
from typing import get_args

import numpy as np
import pytest

from counterview.errors import InputError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.tracking import review
from counterview.tracking.base import UNKNOWN, Observation
from counterview.types import ObjectMask

SIZE = (60, 80)


def square(x, y, side=10):
    dense = np.zeros(SIZE, bool)
    dense[y : y + side, x : x + side] = True
    return ObjectMask.from_array(dense)


def seen(mask, visibility=0.95, source="followed", **doubts):
    return Observation(mask, visibility, source, doubts=doubts)


GONE = Observation(None, 0.02, "followed")


def reviewed(*steps, limit=200, fps=2.0):
    found = review.Review(limit)
    for number, observations in enumerate(steps):
        found.add("cam", number / fps, observations, frame=number * 15, camera_time_s=number / fps + 1)
    return found


def reasons(found):
    return [(row.object, row.reason) for row in found.rows()]


def test_a_steady_track_has_nothing_to_check():
    steps = [{"mug": seen(square(20 + 2 * i, 20))} for i in range(10)]
    assert reviewed(*steps).rows() == []


def test_every_reason_has_a_sentence():
    assert set(review.REASONS) == set(get_args(review.Reason))
    assert all(len(text) > 10 and text[0].islower() and text[-1] != "." for text in review.REASONS.values())


@pytest.mark.parametrize(("x", "expected"), [(30, ["vanished"]), (0, []), (70, [])])
def test_an_object_vanishes_in_the_middle_but_not_at_the_border(x, expected):
    found = reviewed(*[{"mug": seen(square(x, 20))}] * 3, {"mug": GONE}, {"mug": GONE})
    assert [row.reason for row in found.rows()] == expected
    if expected:
        (row,) = found.rows()
        assert (row.time_s, row.camera_time_s, row.frame, row.mask_rle) == (1.5, 2.5, 45, square(30, 20))


def test_an_object_that_is_covered_bit_by_bit_is_less_doubtful():
    sudden = reviewed({"mug": seen(square(30, 20))}, {"mug": seen(square(30, 20))}, {"mug": GONE}).rows()
    gradual = reviewed({"mug": seen(square(30, 20))}, {"mug": seen(square(30, 20, 4))}, {"mug": GONE}).rows()
    assert gradual[0].score < sudden[0].score


def test_an_object_appears_but_not_where_it_was_given():
    assert reasons(reviewed({"mug": GONE}, {"mug": seen(square(30, 20))})) == [("mug", "appeared")]
    assert reasons(reviewed({"mug": GONE}, {"mug": seen(square(30, 20), 1.0, "given")})) == []
    assert reasons(reviewed({"mug": seen(square(30, 20))})) == []


def test_low_scores_are_the_more_doubtful_the_nearer_to_a_half():
    found = reviewed({"a": seen(square(20, 20), 0.7), "b": seen(square(50, 20), 0.55)})
    assert [(row.object, row.reason, round(row.score, 2)) for row in found.rows()] == [
        ("b", "low_score", 0.9),
        ("a", "low_score", 0.6),
    ]
    assert reasons(reviewed({"a": seen(square(20, 20), 0.55, "given")})) == []


def test_two_objects_with_one_mask():
    found = reviewed(*[{"a": seen(square(20, 20)), "b": seen(square(21, 20)), "c": seen(square(50, 20))}] * 3)
    (row,) = found.rows()
    assert (row.object, row.other, row.reason) == ("a", "b", "merged")
    assert row.score == pytest.approx(90 / 110)
    assert (row.time_s, row.end_s) == (0.0, 1.0)
    assert row.why.endswith(": b")


@pytest.mark.parametrize("odd", [square(60, 40), square(16, 16, 20), square(24, 24, 4)])
def test_a_mask_that_differs_from_both_neighbours_jumped(odd):
    found = reviewed(*[{"a": seen(m)} for m in (*[square(20, 20)] * 3, odd, *[square(21, 20)] * 3)])
    (row,) = found.rows()
    assert (row.reason, row.time_s, row.frame, row.mask_rle) == ("jumped", 1.5, 45, odd)
    assert 0 < row.score <= 1


def test_a_fast_object_does_not_jump():
    assert reviewed(*[{"a": seen(square(2 + 16 * i, 20, 8))} for i in range(5)]).rows() == []


def test_neighbouring_doubts_are_one_row_and_others_are_not():
    steps = [{"a": seen(square(20, 20), way_back=score)} for score in (0.2, 0.8, 0.4, 0, 0, 0, 0.5)]
    found = reviewed(*steps)
    assert [(r.time_s, r.end_s, r.score, r.worst_s, r.frame) for r in found.rows()] == [
        (0.0, 1.0, 0.8, 0.5, 15),
        (3.0, 3.0, 0.5, 3.0, 90),
    ]


def test_doubts_of_an_engine_are_checked():
    with pytest.raises(InputError, match="no such reason for a doubt; found looks_odd"):
        reviewed({"a": seen(square(20, 20), looks_odd=0.5)})
    assert reviewed({"a": seen(square(20, 20), way_back=math.nan)}).rows() == []
    (row,) = reviewed({"a": seen(square(20, 20), cameras_disagree=7.0)}).rows()
    assert row.score == 1.0


def test_a_stretch_without_images_is_one_row_and_flow_that_failed_another():
    known = {"a": seen(square(20, 20)), "b": seen(square(50, 20))}
    found = reviewed(known, *[{"a": UNKNOWN, "b": UNKNOWN}] * 3, known)
    (row,) = found.rows()
    assert (row.object, row.reason, row.time_s, row.end_s) == ("", "unknown", 0.5, 1.5)
    failed = Observation(None, None, "unknown", doubts={"flow_failed": 0.9})
    assert reasons(reviewed(known, {**known, "a": failed}, known)) == [("a", "flow_failed")]


def test_what_is_kept_is_bounded_and_the_worst():
    doubts = np.random.default_rng(0).uniform(0.1, 1, 300)
    steps = [{"a": seen(square(20, 20), way_back=d)} if i % 4 == 0 else {"a": seen(square(20, 20))}
             for i, d in enumerate(doubts)]  # fmt: skip
    found = reviewed(*steps, limit=10)
    rows = found.rows()
    assert [row.score for row in rows] == sorted(doubts[::4], reverse=True)[:10]
    assert found.left_out == 75 - 10
    assert len(found._kept) + len(found._open) <= 12
    with pytest.raises(InputError):
        review.Review(0)


def test_tracks_of_a_file_are_reviewed_on_both_clocks():
    masks = [square(30, 20), square(30, 20), None, None]
    track = [TrackedMask(i / 2, 15 * i, m, 0.9 if m else 0.1, "matched") for i, m in enumerate(masks)]
    tracks = Tracks({"ego": TrackedCamera(None, SIZE), "cam": TrackedCamera(None, SIZE, offset_s=2.0)},
                    {"mug": {"cam": track}})  # fmt: skip
    (row,) = review.review_tracks(tracks).rows()
    assert (row.camera, row.reason, row.time_s, row.camera_time_s, row.frame) == ("cam", "vanished", 3.0, 1.0, 30)


def test_csv_round_trip_and_no_formula(tmp_path):
    names = ["=HYPERLINK(1)", "+a", "-b", "@c", 'ö, "mug"\nof two lines', "\t=d", "half \udcff"]
    found = review.Review()
    for i, name in enumerate(names):
        found.add(f"@cam{i}", float(i), {name: seen(square(20, 20), way_back=1 - i / 10)}, frame=i)
    rows = found.rows()
    review.write_review_csv(tmp_path / "review.csv", rows)
    with (tmp_path / "review.csv").open(encoding="utf-8", newline="") as handle:
        read = list(csv.DictReader(handle))
    assert tuple(read[0]) == review.COLUMNS
    assert [line["object"] for line in read] == [
        "'=HYPERLINK(1)", "'+a", "'-b", "'@c", names[4], "'\t=d", "half \\udcff",
    ]  # fmt: skip
    assert [line["camera"] for line in read] == [f"'@cam{i}" for i in range(7)]
    assert [float(line["score"]) for line in read] == pytest.approx([row.score for row in rows], abs=1e-3)
    assert [int(line["frame"]) for line in read] == [row.frame for row in rows]
    assert {line["why"] for line in read} == {review.REASONS["way_back"]}
    review.write_review_csv(tmp_path / "review.csv", [])
    assert (tmp_path / "review.csv").read_bytes().count(b"\n") == 1
