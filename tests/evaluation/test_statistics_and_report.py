"""Intervals, paired differences and the page, against closed forms and resamples drawn by hand."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from counterview.errors import InputError
from counterview.evaluation import cases
from counterview.evaluation.groundtruth import GroundTruth
from counterview.evaluation.open import open_predictions
from counterview.evaluation.oracle import oracle
from counterview.evaluation.protocol import evaluate
from counterview.evaluation.report import compare, write_report
from counterview.evaluation.scorer import totals
from counterview.evaluation.statistics import differences, intervals
from counterview.evaluation.table import FrameScore, FrameTable
from counterview.masks import rle
from counterview.media.images import write_image
from counterview.types import ObjectMask

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
GT = FOLDER / "correspondence-gt.json"


def table(scores, shift=0.0, rng=None):
    """One visible row a score; ``scores[t]`` is the list of take t."""
    result = FrameTable()
    for t, values in enumerate(scores):
        for frame, value in enumerate(values):
            noise = 0.0 if rng is None else float(rng.normal(0, 0.001))
            result.append(
                FrameScore(
                    f"t{t}", "o", "aria01", "cam01", frame, True, value > 0.5, 0.5,
                    iou=value + shift + noise, contour_accuracy=value, location_error=value,
                )
            )  # fmt: skip
    return result


def test_intervals_follow_the_spread_between_takes():
    rng = np.random.default_rng(0)
    means = rng.normal(0.5, 0.1, 60)
    scores = [[float(m)] * 20 for m in means]  # frames of a take are all alike, so 60 values count and not 1,200
    interval = intervals(table(scores))["iou"]
    expected = 1.96 * means.std() / math.sqrt(60)
    assert interval.low == pytest.approx(means.mean() - expected, abs=0.006)
    assert interval.high == pytest.approx(means.mean() + expected, abs=0.006)
    assert intervals(table(scores))["iou"] == interval
    assert intervals(table(scores), seed=1)["iou"] != interval
    assert math.isnan(intervals(table(scores[:1]))["iou"].low)


def test_the_interval_holds_the_truth_as_often_as_its_level():
    rng = np.random.default_rng(1)
    hits = 0
    for run in range(60):
        scores = [rng.normal(rng.normal(0.5, 0.1), 0.05, 5).tolist() for _ in range(30)]
        interval = intervals(table(scores), resamples=300, seed=run)["iou"]
        hits += interval.low <= 0.5 <= interval.high
    assert 50 <= hits <= 60  # 95 % of 60 is 57


def test_a_small_but_steady_difference_is_detected_though_the_intervals_overlap():
    rng = np.random.default_rng(2)
    scores = [[float(v)] * 4 for v in rng.uniform(0.2, 0.8, 30)]
    first, second = table(scores), table(scores, shift=0.01, rng=rng)
    assert intervals(first)["iou"].high > intervals(second)["iou"].low
    paired, frames = differences(first, second)
    assert frames == 120
    assert paired["iou"].value == pytest.approx(0.01, abs=0.001)
    assert 0.009 < paired["iou"].interval.low < paired["iou"].interval.high < 0.011
    assert paired["iou"].p_value < 0.002
    assert paired["contour_accuracy"].value == 0
    assert paired["contour_accuracy"].p_value == 1
    back, _ = differences(second, first)
    assert back["iou"].value == pytest.approx(-paired["iou"].value)


def test_ends_and_p_values_are_those_of_all_draws():
    """Three takes have 27 equally likely draws, so that every quantile and p value is known."""
    # The mean of draws from 0, 0, 1 is k / 3 with probabilities 8, 12, 6, 1 of 27.
    scores = table([[0.0], [0.0], [1.0]])
    wide, narrow = intervals(scores)["iou"], intervals(scores, level=0.9)["iou"]
    assert (wide.low, wide.high) == (0, 1)  # 1/27 is above 2.5 %
    assert (narrow.low, narrow.high) == (0, pytest.approx(2 / 3))  # and below 5 %
    # Differences -0.1, 0.15, 0.15: their sum is below 0 in 7 of 27 draws.
    first, second = table([[0.5], [0.2], [0.2]]), table([[0.4], [0.35], [0.35]])
    paired, _ = differences(first, second)
    assert paired["iou"].p_value == pytest.approx(14 / 27, abs=0.06)
    back, _ = differences(second, first)
    assert back["iou"].p_value == pytest.approx(14 / 27, abs=0.06)


def test_the_interval_of_balanced_accuracy_counts_both_classes():
    rows = FrameTable()
    for take, wrong in (("a", True), ("b", False)):  # the visible object is always right, the absent one in b
        rows.append(FrameScore(take, "o", "aria01", "cam01", 0, True, True, 0.9))
        rows.append(FrameScore(take, "p", "aria01", "cam01", 0, False, wrong, 0.9))
    interval = intervals(rows)["balanced_accuracy"]
    assert (interval.low, interval.high) == (0.5, 1.0)  # the draws aa and bb, each one of four


def test_frames_are_compared_with_themselves_in_any_order():
    scores = [[0.1, 0.7], [0.9, 0.3], [0.2, 0.4]]
    first, second = table(scores), table(scores, shift=0.05)
    paired, frames = differences(first, second.select([5, 0, 3, 1, 4, 2]))
    assert frames == 6
    assert paired["iou"].interval.low == pytest.approx(0.05)
    assert paired["iou"].interval.high == pytest.approx(0.05)


def test_only_frames_in_common_are_compared():
    left, right = table([[0.1, 0.2], [0.3]]), table([[0.1], [0.3, 0.9]])
    paired, frames = differences(left, right)
    assert frames == 2
    assert paired["iou"].value == 0
    with pytest.raises(InputError, match="no scored frame in common"):
        differences(left, table([[]]))


@pytest.mark.parametrize("protocol", ["official", "macro"])
def test_the_bootstrap_averages_as_the_protocol_does(protocol):
    report = evaluate(GT, FOLDER / "pred_ego-exo.json", protocol=protocol)
    spans = intervals(report.table, protocol)
    for measure, interval in spans.items():
        assert interval.low < getattr(report.totals, measure) < interval.high
    takes = report.table["take"]
    draw = np.random.default_rng(0)
    names = sorted(set(takes))
    values = []
    parts = {name: np.flatnonzero(takes == name) for name in names}
    for _ in range(150):  # drawn by hand: complete takes, joined as new takes
        rows = FrameTable()
        for copy, name in enumerate(draw.choice(names, len(names))):
            for index in parts[name]:
                row = report.table.row(index)
                rows.append(FrameScore(**{**{f: getattr(row, f) for f in row.__slots__}, "take": f"{copy}"}))
        values.append(totals(rows, protocol).iou)
    assert spans["iou"].low == pytest.approx(np.quantile(values, 0.025), abs=0.04)
    assert spans["iou"].high == pytest.approx(np.quantile(values, 0.975), abs=0.04)


class Page(HTMLParser):
    """Collects what a page would load or run, and checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "img", "br", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "polyline"):
            assert self.open.pop() == tag


def test_the_page(tmp_path):
    truth = GroundTruth(GT)
    files = [FOLDER / "pred_ego-exo.json", tmp_path / "a & b.json"]
    text = files[0].read_text().replace('"confidence":0.', '"confidence":0.9')
    files[1].write_text(text)
    sources = [open_predictions(f) for f in files]
    reports = [evaluate(truth, s, "ego2exo") for s in sources]
    proposals = {
        t.uid: {c: {str(f): [rle.to_coco(t.mask(o, c, f))] for f in t.objects[o][c].masks}}
        for t in truth
        for o, _, c in t.pairs("ego2exo")
    }
    (tmp_path / "p.json").write_text(json.dumps(proposals))
    best = oracle(truth, tmp_path / "p.json", "ego2exo")
    comparison = compare(reports, best)
    image = np.full((540, 960, 3), 90, dtype=np.uint8)
    for row in reports[0].table.rows():
        (tmp_path / "frames" / row.take / row.target_camera).mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "frames" / row.take / row.target_camera / f"{row.frame}.jpg", image)
    page = write_report(tmp_path / "report", comparison, truth, sources, frames=tmp_path / "frames")
    html = page.read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.open == []
    assert "script" not in parsed.tags
    assert all(a.startswith("data:image/jpeg;base64,") for a in parsed.addresses)
    assert "a &amp; b" in html
    assert "a & b" not in html
    assert parsed.tags.count("svg") >= 5
    assert parsed.tags.count("figure") == 2 * 2 * 6
    for word in (
        "Paired differences",
        "oracle: best proposals",
        "Best cases",
        "Worst cases",
        "By scenario",
        f"{reports[0].totals.iou:.4f}",
    ):
        assert word in html
    numbers = json.loads((tmp_path / "report" / "index.json").read_text())
    assert numbers["systems"][0]["iou"] == reports[0].totals.iou
    assert numbers["differences"][0]["iou"]["difference"] == 0
    assert numbers["differences"][0]["balanced_accuracy"]["difference"] != 0
    assert numbers["perfect_choice"]["iou"] == best.totals.iou
    assert re.fullmatch(r"[0-9.]+", numbers["counterview"])
    again = write_report(tmp_path / "again", compare(reports, best), truth, sources, frames=tmp_path / "frames")
    assert again.read_bytes() == page.read_bytes()


def test_scores_of_different_protocols_never_share_a_table():
    reports = [evaluate(GT, FOLDER / "pred_ego-exo.json", protocol=p) for p in ("official", "omama")]
    with pytest.raises(ValueError, match="only reports of one protocol"):
        compare(reports)


def test_where_two_systems_meet_on_one_take_no_interval_is_made_up(tmp_path, capsys):
    from counterview.cli.evaluate import _print_tables

    truth = GroundTruth(GT)
    one = truth.only([next(iter(truth)).uid])
    source = open_predictions(FOLDER / "pred_ego-exo.json")
    comparison = compare([evaluate(one, source, "ego2exo"), evaluate(one, source, "ego2exo")])
    _print_tables(comparison)
    printed = capsys.readouterr().out
    assert "no interval: too few takes in common" in " ".join(printed.split())
    assert "nan" not in printed
    html = write_report(tmp_path, comparison, one, [source, source]).read_text(encoding="utf-8")
    assert "no interval: too few takes in common" in html
    assert "nan" not in html


def test_a_case_shows_the_part_around_a_small_object_with_both_outlines():
    gt, pred = np.zeros((1080, 1920), bool), np.zeros((1080, 1920), bool)
    gt[500:520, 900:930] = True
    pred[505:525, 920:950] = True
    tile = cases._paint(None, ObjectMask.from_array(gt), ObjectMask.from_array(pred))
    assert max(tile.shape) == cases.TILE_PX
    for colour in (cases.ONLY_TRUTH, cases.ONLY_PREDICTION):
        assert (tile == colour).all(-1).sum() > 40, "an outline of the colour itself"
    tinted = (tile != 225).any(-1).mean()
    assert tinted > 5 * (gt | pred).mean(), "it is larger than in the whole image"
    whole = cases._paint(None, ObjectMask.from_array(np.ones_like(gt)), None)
    assert whole.shape == (180, 320, 3)
