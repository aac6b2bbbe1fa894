"""The file of published numbers: its form, and some numbers against the papers' tables."""

import pytest

from counterview.data.dataset import DIRECTIONS
from counterview.errors import ConfigError
from counterview.evaluation.published import FILE, load_published, total_iou
from counterview.evaluation.scorer import MEASURES, PROTOCOLS


def row(system, table, split):
    (score,) = [s for s in load_published().of_table(table) if s.system == system and s.split == split]
    return score


def test_every_row_says_where_it_stands_and_by_which_rules():
    published = load_published()
    assert {s.source for s in published.scores} <= set(published.sources)
    assert {t for s in published.scores for t in s.tables} == {
        "omama-main", "omama-modules", "omama-descriptors", "lmeec-main", "lmeec-ablations"
    }  # fmt: skip
    keys = [(s.system, s.split, s.protocol, s.tables) for s in published.scores]
    assert len(set(keys)) == len(keys), "no row twice"
    for score in published.scores:
        assert score.protocol in (*PROTOCOLS, "unstated")
        assert score.read == "compiled" or score.place, f"{score.system}: which table of the paper?"
        for measure in MEASURES:
            for direction in DIRECTIONS:
                value = score.score(measure, direction)
                assert value is None or 0 <= value <= 1
    with pytest.raises(KeyError):
        published.scores[0].score("iou_percent", "ego2exo")


@pytest.mark.parametrize(
    ("system", "table", "split", "measure", "values"),
    [
        ("O-MaMa", "omama-main", "v2-test", "iou", (0.4257, 0.4408)),
        ("O-MaMa", "omama-main", "v1-val", "iou", (0.501, 0.542)),
        ("O-MaMa", "omama-main", "v2-test", "balanced_accuracy", (0.5, 0.5)),
        ("PSALM zero-shot", "omama-main", "v2-test", "iou", (0.074, 0.021)),
        ("XSegTx", "omama-main", "v2-test", "contour_accuracy", (0.386, 0.358)),
        ("XView-XMem + XSegTx", "lmeec-main", "v2-test", "location_error", (0.038, 0.117)),
        ("LM-EEC", "lmeec-main", "test", "iou", (0.5498, 0.6577)),
        ("LM-EEC", "lmeec-main", "test", "balanced_accuracy", (0.6422, 0.581)),
        ("Cutie", "lmeec-main", "test", "location_error", (0.108, 0.07)),
        ("C: loss, context, adjacent negatives", "omama-modules", "val-10%", "iou", (0.469, 0.456)),
        ("learned, mean over the box, CLIP", "omama-descriptors", "val-10%", "iou", (0.275, 0.404)),
        ("without exo memory", "lmeec-ablations", "val", "iou", (0.542, None)),
        ("V2-SAM", "omama-main", "v2-test", "iou", (0.463, 0.496)),
        ("geometric matching (RoMa)", "omama-modules", "val-10%", "iou", (0.354, None)),
    ],
)
def test_numbers(system, table, split, measure, values):
    assert tuple(row(system, table, split).score(measure, d) for d in DIRECTIONS) == values


def test_printed_totals_are_the_means_of_both_directions_and_no_weighted_means():
    """Total IoU as printed, against its definition: the challenge's criterion, the mean of both task settings."""
    printed = [s for s in load_published().scores if s.total_iou_percent is not None and None not in s.iou_percent]
    assert len(printed) > 12
    for score in printed:
        mean = sum(round(v, 1 if score.source == "omama" else 2) for v in score.iou_percent) / 2
        assert mean == pytest.approx(score.total_iou_percent, abs=0.06), score.system
        assert score.total_iou == pytest.approx(score.total_iou_percent / 100)
    # Weighted by the object masks of v2 test (100,223 and 109,253), XView-XMem's total would be 29.7.
    first, second = row("XView-XMem + XSegTx", "omama-main", "v2-test").iou_percent
    assert (100_223 * first + 109_253 * second) / 209_476 == pytest.approx(29.7, abs=0.05)
    assert row("XView-XMem + XSegTx", "omama-main", "v2-test").total_iou_percent == 30.0


def test_a_total_that_is_not_printed_is_the_mean_and_needs_both_directions():
    assert row("VGGT-S", "omama-main", "val").total_iou == pytest.approx((0.677 + 0.68) / 2)
    assert row("without exo memory", "lmeec-ablations", "val").total_iou is None
    assert total_iou(0.5, None) is None


def test_what_the_text_says_beside_the_tables():
    published = load_published()
    knn = row("k-NN, zero-shot", "omama-main", "unstated")
    assert (knn.total_iou_percent, knn.row, knn.protocol) == (40.5, "knn", "unstated")
    assert "40.5 IoU" in knn.note
    geometric = row("geometric matching (RoMa)", "omama-modules", "val-10%")
    assert geometric.success_percent == 67.6
    baseline = row("Baseline: nearest neighbour", "omama-modules", "val-10%")
    assert f"{baseline.iou_percent[0]} -> {geometric.iou_percent[0]}" in geometric.note
    assert [(s.system, s.value, s.unit, s.hardware) for s in published.speeds] == [
        ("O-MaMa", 250, "ms", None), ("O-MaMa, of it FastSAM", 70, "ms", None),
        ("LM-EEC", 8.4, "FPS", "one NVIDIA V100"),
    ]  # fmt: skip
    assert {name: published.sources[name].arxiv for name in ("ccmp", "vggts")} == {
        "ccmp": "2602.18996", "vggts": "2604.13596"
    }  # fmt: skip


def test_a_file_of_another_form_is_refused_with_every_problem(tmp_path):
    place = tmp_path / "p.yaml"
    good = FILE.read_text(encoding="utf-8")
    for old, new, part in (
        ("split: v1-val", "split: v3", "split is 'v3'"),
        ("protocol: macro", "protocol: micro", "protocol is 'micro'"),
        ("iou_percent: [7.4, 2.1]", "iou_percent: [7.4, 210]", "expected 0 to 100"),
        ("iou_percent: [7.4, 2.1]", "iou_percent: [7.4]", "expected 2 values"),
        ("iou_percent: [7.4, 2.1]", "iou: [7.4, 2.1]", "unknown key"),
        ("source: ccmp", "source: ccm", "not listed: ccm"),
        ("total_iou_percent: 4.8", "total_iou_percent: 480", "total_iou_percent is 480"),
        ("unit: FPS", "unit: Hz", "unit is 'Hz'"),
        ("read: paper", "read: heard", "read is 'heard'"),
    ):
        assert old in good
        place.write_text(good.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ConfigError, match=part.replace("[", r"\[")) as caught:
            load_published(place)
        assert str(place) in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        load_published(tmp_path / "none.yaml")
