"""``docs/results.md`` is what the committed result files say."""

import json

import pytest

from benchmarks import results_page
from counterview.reproduce.tables import TABLES


def test_the_page_is_up_to_date():
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.render(), (
        "run: python -m benchmarks.results_page"
    )


def scores(value):
    return {m: {"value": value, "interval": [value - 0.1, value + 0.1]} for m in
            ("iou", "location_error", "contour_accuracy", "balanced_accuracy")}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    both = {d: {"accuracy": 0.25, "iou": 0.125} for d in ("ego2exo", "exo2ego")}
    rows = {"chance": {"accuracy": {"value": 0.2, "interval": [None, None]}, **scores(0.3), **both},
            "tiny-match": {"accuracy": {"value": 0.75, "interval": [0.7, 0.8]}, **scores(0.5), **both,
                           "kinds": {"right": 0.75, "background": 0.25},
                           "visibility": {"auc": 0.625, "auc_where_right": 0.875}}}  # fmt: skip
    gain = {"tiny-match": {"over": "k-NN, Lab histogram", "value": 0.21, "interval": [0.1, 0.3]}}
    part = {
        "takes": 3, "frames": 12,
        "candidates": {"mean_candidates": 5.5, "questions": 99, "rows": rows, "gains": gain},
        "proposals": {"object_frames": 120, "visible": 99, "mean_proposals": 200.0, "rows": rows, "gains": gain},
    }  # fmt: skip
    held = {"machine": {"cpu": "x", "cores": 2}, "sets": {"hard": part}, "left_out": ["tiny-follow"]}
    (tmp_path / "held_out.json").write_text(json.dumps(held))
    full = {m: [0.5, 0.4, 0.6] for m in ("iou", "location_error", "contour_accuracy", "balanced_accuracy", "iou_lost")}
    ablation = {"sets": {"hard": {"takes": 3, "frames": 2, "rows": {"without object crops": full}}}}
    (tmp_path / "tiny_match_ablation.json").write_text(json.dumps(ablation))
    values = {"pairs": 8, "visible": 20, "absent": 3, "iou": 0.375, "success": 0.75, "iou_of_answers": 0.5,
              "absent_answered": 0.25, "seconds_per_pair": {"median_s": 1.234}}  # fmt: skip
    directions = {"ego2exo": {**values, "iou": 0.125}, "exo2ego": {**values, "iou": 0.625}, "together": values}
    points = {"machine": {"cpu": "x", "cores": 2}, "sets": {"rendered takes": {"rows": {"geometric:sift": directions}}},
              "left_out": {"geometric:roma": "no package"}}  # fmt: skip
    (tmp_path / "geometric.json").write_text(json.dumps(points))
    row = {"row": "omama", "title": "O-MaMa", "direction": "exo2ego", "kind": "ours", "scores": scores(0.625)}
    table = {
        "table": "omama-main", "title": TABLES["omama-main"].title,
        "data": "Tabletop, synthetic takes, split test, 3 takes",
        "tabletop": True, "split": "test", "protocol": "official", "fraction": 1.0, "overrides": [], "skipped": {},
        "rows": [row],
    }  # fmt: skip
    (tmp_path / "reproduce-omama-main-tabletop.json").write_text(json.dumps(table))
    return tmp_path


def test_the_page_has_the_measured_scores(folder):
    text = results_page.render(folder)
    for part in ("### hard without one part: 3 takes, 2 frames each",
                 "| without object crops | " + " | ".join(["0.500 (0.400 to 0.600)"] * 5) + " |",
                 "### hard: 3 takes, 12 frames", "| tiny-match | 0.750 (0.700 to 0.800) | 0.250 | 0.250 |",
                 "* tiny-match over k-NN, Lab histogram, accuracy: +0.210 (+0.100 to +0.300)", "| chance | 0.200 |",
                 "|  | right | background | ROC | ROC, found |", "| tiny-match | 0.750 | 0.250 | 0.625 | 0.875 |",
                 "### Rendered takes: 8 ordered pairs of images, 20 visible and 3 absent objects",
                 "| geometric:sift | 0.125 | 0.625 | 0.375 | 0.750 | 0.500 | 0.250 | 1.23 |",
                 "Left out, because they were not available: geometric:roma.",
                 "Left out, because they were not available: tiny-follow.", "| O-MaMa | 0.625 (0.525..0.725) |",
                 "Tabletop, synthetic takes", "`counterview reproduce lmeec-main` has not been"):  # fmt: skip
        assert part in text, part
    ours, apart = text.split("not to be compared with the rows above")
    assert "0.4257" in apart
    assert "0.4257" not in ours
    assert "\n\n\n" not in text


def test_check_writes_nothing(folder, tmp_path, monkeypatch, capsys):
    place = tmp_path / "page.md"
    monkeypatch.setattr(results_page, "PAGE", place)
    monkeypatch.setattr("sys.argv", ["results_page", "--check"])
    assert results_page.main() == 1
    assert not place.exists()
    monkeypatch.setattr("sys.argv", ["results_page"])
    assert results_page.main() == 0
    monkeypatch.setattr("sys.argv", ["results_page", "--check"])
    assert results_page.main() == 0
    assert "up to date" in capsys.readouterr().out
