"""``counterview evaluate`` and ``counterview submit`` as a user runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from counterview.cli.evaluate import evaluate, worker_count
from counterview.cli.main import main
from counterview.cli.submit import submit
from counterview.errors import CounterviewError, InputError, PredictionError
from counterview.evaluation.scorer import PROTOCOLS

FOLDER = Path(__file__).parents[1] / "data" / "evaluator"
GT, EGO, EXO = (str(FOLDER / n) for n in ("correspondence-gt.json", "pred_ego-exo.json", "pred_exo-ego.json"))


@pytest.fixture
def run(capsys):
    """Run one command; returns its standard output and standard error."""
    app = typer.Typer()
    app.command()(evaluate)
    app.command()(submit)

    def call(*arguments):
        app([str(a) for a in arguments], standalone_mode=False)
        return capsys.readouterr()

    return call


def test_json_has_the_documented_keys(run, fixture_data):
    printed = json.loads(run("evaluate", "--gt", GT, "--pred", EGO, "--json").out)
    assert list(printed) == [
        "protocol",
        "direction",
        "iou",
        "location_error",
        "contour_accuracy",
        "balanced_accuracy",
        "counts",
    ]
    assert list(printed["counts"]) == ["frames", "visible", "absent", "missing"]
    assert (printed["protocol"], printed["direction"]) == ("official", "ego2exo")
    assert printed["iou"] == pytest.approx(
        fixture_data("evaluator/expected.json")["ego-exo"]["official"]["iou"], abs=1e-9
    )


def test_pages_of_both_directions_link_to_one_another_and_have_an_index(run, tmp_path):
    run("submit", EGO, EXO, "--out", tmp_path / "s.json", "--gt", GT)
    run("evaluate", "--gt", GT, "--pred", tmp_path / "s.json", "--report", tmp_path / "r")
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "r").glob("*.html")}
    assert set(pages) == {"index", "ego2exo", "exo2ego"}
    links = {stem: set(re.findall(r'<a href="([^"]+)\.html"', text)) for stem, text in pages.items()}
    assert links == {"index": {"ego2exo", "exo2ego"}, "ego2exo": {"index", "exo2ego"}, "exo2ego": {"index", "ego2exo"}}
    scores = json.loads(run("evaluate", "--gt", GT, "--pred", tmp_path / "s.json", "--json").out)
    assert all(f"{each['iou']:.4f}" in pages["index"] for each in scores)
    run("evaluate", "--gt", GT, "--pred", EGO, "--report", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").glob("*.html")] == ["index.html"]
    assert "<nav>" not in (tmp_path / "one" / "index.html").read_text(encoding="utf-8")


def test_both_directions_and_several_files_are_a_list(run, tmp_path):
    run("submit", EGO, EXO, "--out", tmp_path / "s.json", "--gt", GT)
    printed = json.loads(run("evaluate", "--gt", GT, "--pred", tmp_path / "s.json", "--json").out)
    assert [s["direction"] for s in printed] == ["ego2exo", "exo2ego"]
    printed = json.loads(
        run("evaluate", "--gt", GT, "--direction", "ego2exo", "--json", "--pred", EGO, tmp_path / "s.json").out
    )
    assert len(printed) == 2
    assert printed[0] == printed[1]


def test_tables_page_and_rows(run, tmp_path):
    out = run(
        "evaluate", "--gt", GT, "--pred", EGO, "--report", tmp_path / "r", "--per-frame", tmp_path / "rows.csv"
    )  # fmt: skip
    assert "0.3471" in out.out
    assert {p.name for p in (tmp_path / "r").iterdir()} == {".counterview.json", "index.html", "index.json"}
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 103
    run("evaluate", "--gt", GT, "--pred", EGO, "--pred", EGO, "--per-frame", tmp_path / "two.csv")
    assert {p.name for p in tmp_path.glob("two*")} == {"two-1-ego2exo.csv", "two-2-ego2exo.csv"}


def test_faults_are_listed_line_by_line(run, tmp_path, capsys):
    with pytest.raises(PredictionError, match="groups of predictions cannot be read"):
        run("evaluate", "--gt", GT, "--pred", FOLDER / "pred_native_ego-exo.json")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) > 10
    assert all("found 532 x 952" in line or "found 700 x 700" in line or "found 952 x 532" in line for line in lines)
    with pytest.raises(PredictionError, match="Give the ego2exo file first"):
        run("submit", EXO, EGO, "--out", tmp_path / "s.json", "--gt", GT)
    with pytest.raises(InputError):
        run("submit", EGO, EXO, "--out", tmp_path / "s.json", "--missing", "ignore")
    for option in (("--per-frame", tmp_path / "x.doc"), ("--protocol", "best")):
        with pytest.raises(CounterviewError):
            run("evaluate", "--gt", GT, "--pred", EGO, *option)
    assert list(tmp_path.iterdir()) == []


def test_the_answer_of_submit_as_json(run, tmp_path):
    printed = json.loads(run("submit", EGO, EXO, "--out", tmp_path / "s.json", "--gt", GT, "--json").out)
    assert printed["predictions"] == {"ego2exo": 113, "exo2ego": 98}
    assert printed["notes"] == []


def test_a_handful_of_takes_needs_no_other_process():
    assert worker_count(0, 6) == 1
    assert worker_count(3, 6) == 3
    assert worker_count(0, 10_000) >= 1


def test_scoring_never_imports_torch():
    code = (
        "import sys, counterview.evaluation.report, counterview.evaluation.submission, counterview.evaluation.oracle,"
        "counterview.evaluation.folders, counterview.evaluation.statistics;"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_protocols_are_blocks_of_their_own_with_their_titles(run, tmp_path):
    """Oracle: each protocol by itself."""
    printed = run("evaluate", "--gt", GT, "--pred", EGO, "--protocol", "all", "--report", tmp_path / "r")
    blocks = printed.out.split("ego2exo, protocol ")
    assert [block.partition(":")[0] for block in blocks[1:]] == list(PROTOCOLS)
    for block, rules in zip(blocks[1:], PROTOCOLS.values(), strict=True):
        flat = " ".join(block.split())
        assert flat.startswith(f"{rules.name}: {rules.title}")
        alone = json.loads(run("evaluate", "--gt", GT, "--pred", EGO, "--protocol", rules.name, "--json").out)
        assert f"IoU {alone['iou']:.4f}" in flat.replace("│", " ")
        assert sum(title.title in block for title in PROTOCOLS.values()) <= 1, "no block speaks of two protocols"
    assert {p.stem for p in (tmp_path / "r").glob("*.html")} == {*PROTOCOLS, "index"}
    values = json.loads(run("evaluate", "--gt", GT, "--pred", EGO, "--protocol", "all", "--json").out)
    assert [v["protocol"] for v in values] == list(PROTOCOLS)


def test_a_protocol_that_a_file_cannot_be_scored_by_is_named_among_all_of_them(tmp_path, capsys):
    """O-MaMa's own sizes: only the protocols that take masks as they are."""
    native = str(FOLDER / "pred_native_ego-exo.json")
    assert main(["evaluate", "--gt", GT, "--pred", native, "--protocol", "all"]) == 1
    out = capsys.readouterr().out
    blocks = {b.partition(":")[0]: b for b in out.split("ego2exo, protocol ")[1:]}
    assert list(blocks) == list(PROTOCOLS)
    for name, block in blocks.items():
        assert ("not scored: " in block) == (name not in ("omama", "lmeec")), name
    assert "the predicted mask has the wrong size" in blocks["official"]
    assert main(["evaluate", "--gt", GT, "--pred", native, "--protocol", "all", "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert {v["protocol"] for v in values if "not_scored" in v} == set(PROTOCOLS) - {"omama", "lmeec"}
    assert main(["evaluate", "--gt", GT, "--pred", native, "--protocol", "any"]) == 2
    assert "no such protocol" in capsys.readouterr().err


def test_what_a_file_holds_is_printed(run):
    out = run("evaluate", "--gt", GT, "--pred", EGO).out
    assert "every query frame" in out
    assert "longer side 480, aspect kept" in " ".join(out.split())


def test_a_release_is_a_ground_truth(run, tmp_path, fixture_data):
    """The annotation of the split is found below the folder that holds it."""
    folder = tmp_path / "release" / "annotations"
    folder.mkdir(parents=True)
    (folder / "relations_test.json").write_bytes((FOLDER / "relations_val.json").read_bytes())
    expected = run("evaluate", "--gt", FOLDER / "relations_val.json", "--pred", EGO, "--json").out
    assert run("evaluate", "--gt", tmp_path / "release", "--split", "test", "--pred", EGO, "--json").out == expected
    assert run("evaluate", "--gt", tmp_path / "release", "--pred", EGO, "--json").out == expected
    assert json.loads(expected)["counts"]["frames"] > 0
    with pytest.raises(InputError, match=r"has no annotation of split 'val'; expected test"):
        run("evaluate", "--gt", tmp_path / "release", "--split", "val", "--pred", EGO)
    (folder / "relations_val.json").write_bytes((FOLDER / "relations_val.json").read_bytes())
    with pytest.raises(InputError, match=r"holds several splits; found val, test. Choose one: --split val"):
        run("evaluate", "--gt", tmp_path / "release", "--pred", EGO)
    run("submit", EGO, EXO, "--out", tmp_path / "s.json", "--gt", tmp_path / "release", "--split", "test")
    assert (tmp_path / "s.json").exists()
