"""The command as people run it: on the bundled pair, and on everything that can be wrong with its input."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.cli.main import main
from counterview.masks.png import read_mask
from counterview.masks.rle import from_coco
from counterview.media.images import write_image

PAIR = Path(str(files("counterview") / "assets" / "pair"))
EGO, EXO = PAIR / "ego.jpg", PAIR / "exo.jpg"
MASKS = sorted(PAIR.glob("ego_*.png"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An image of few colours that is quickly proposed for, and a mask on it."""
    folder = tmp_path_factory.mktemp("small")
    image = np.full((60, 80, 3), 120, np.uint8)
    image[10:30, 10:30] = (200, 30, 30)
    image[35:55, 45:70] = (30, 30, 200)
    write_image(folder / "a.png", image)
    Image.fromarray((image[..., 0] == 200).astype(np.uint8) * 255).save(folder / "red.png")
    return folder


def run(capsys, *arguments):
    code = main(["match", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_one_object_writes_its_three_files(tmp_path, capsys):
    code, out, err = run(capsys, EGO, EXO, "--mask", MASKS[0], "--out", tmp_path, "--top", 3, "--model", "knn")
    assert (code, err) == (0, "")
    assert MASKS[0].stem in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.png", "match.json", "overlay.png"]
    result = json.loads((tmp_path / "match.json").read_text())
    (found,) = result["objects"]
    assert from_coco(found["mask"]).size_hw == tuple(result["target"]["size_hw"])
    assert np.array_equal(from_coco(found["mask"]).to_array(), read_mask(tmp_path / "mask.png"))
    assert len(found["runners_up"]) == 2
    assert 0 <= found["visibility"] <= 1
    assert result["settings"]["features"]["name"] == "classical"
    assert result["versions"]["counterview"]


def test_several_objects_points_and_boxes_in_one_go(tmp_path, capsys):
    arguments = [EGO, EXO, "--out", tmp_path, "--json", "--point", "150,210", "--box", "60,180,160,280"]
    for mask in MASKS[:2]:
        arguments += ["--mask", mask]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    result = json.loads(out)
    names = [o["name"] for o in result["objects"]]
    assert names == [MASKS[0].stem, MASKS[1].stem, "point", "box"]
    assert result == json.loads((tmp_path / "match.json").read_text())
    assert {f"mask_{n}.png" for n in names} < {p.name for p in tmp_path.iterdir()}


def test_the_same_run_gives_the_same_bytes(small, tmp_path, capsys):
    for name in ("one", "two"):
        assert (
            run(capsys, small / "a.png", small / "a.png", "--mask", small / "red.png", "--out", tmp_path / name)[0] == 0
        )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def broken_inputs(folder: Path) -> dict[str, tuple[list[object], str]]:
    good, red = folder / "a.png", folder / "red.png"
    (folder / "text.jpg").write_text("no image")
    data = EXO.read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("1", (20000, 20000)).save(folder / "huge.png")
    Image.new("L", (80, 60)).save(folder / "empty.png")
    Image.new("L", (40, 30), 255).save(folder / "other.png")
    write_image(folder / "rgb.png", np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    write_image(folder / "flat.png", np.full((60, 80, 3), 120, np.uint8))
    mask = ["--mask", red]
    return {
        "missing": ([folder / "none.png", good, *mask], "no such file"),
        "not an image": ([good, folder / "text.jpg", *mask], "not an image"),
        "truncated": ([good, folder / "cut.jpg", *mask], "damaged"),
        "bomb": ([good, folder / "huge.png", *mask], "too large"),
        "other size": ([good, good, "--mask", folder / "other.png"], "does not fit"),
        "empty mask": ([good, good, "--mask", folder / "empty.png"], "empty"),
        "rgb mask": ([good, good, "--mask", folder / "rgb.png"], "colour image"),
        "no prompt": ([good, good], "no object was given"),
        "point outside": ([good, good, "--point", "80,10"], "outside"),
        "point no numbers": ([good, good, "--point", "a,b"], "not understood"),
        "box empty": ([good, good, "--box", "5,5,5,5"], "is empty"),
        "no proposals": ([good, folder / "flat.png", *mask], "no proposals"),
        "unknown proposer": ([good, good, *mask, "--proposals", "grph"], "graph"),
        "unknown features": ([good, good, *mask, "--features", "clasical"], "classical"),
    }


CASES = ["missing", "not an image", "truncated", "bomb", "other size", "empty mask", "rgb mask", "no prompt",
         "point outside", "point no numbers", "box empty",
         "no proposals", "unknown proposer", "unknown features"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(case, small, tmp_path, capsys):
    arguments, part = broken_inputs(small)[case]
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--features", "dinov2-base"], ["--proposals", "sam2"]])
def test_an_unreachable_hub_is_a_failure_with_a_way_out(option, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    code, _, err = run(
        capsys, small / "a.png", small / "a.png", "--mask", small / "red.png", "--out", tmp_path / "out", *option
    )
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "classical" in err or "graph" in err
    assert not (tmp_path / "out").exists()
