"""The command on the bundled pair, and on malformed input of every kind."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.cli.main import main
from counterview.cli.prompts import read_prompts
from counterview.inference.matchers import KnnMatcher, MatchScores
from counterview.inference.prompts import Box, Point, Prompt
from counterview.masks.png import read_mask
from counterview.masks.rle import from_coco
from counterview.media.images import read_image, write_image

PAIR = Path(str(files("counterview") / "assets" / "pair"))
EGO, EXO = PAIR / "ego.jpg", PAIR / "exo.jpg"
MASKS = sorted(PAIR.glob("ego_*.png"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An image of three colours, for which proposals are fast, and a mask of one object."""
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


def test_one_object_gives_three_files(tmp_path, capsys):
    code, out, err = run(capsys, EGO, EXO, "--mask", MASKS[0], "--out", tmp_path, "--top", 3, "--model", "knn")
    assert (code, err) == (0, "")
    assert MASKS[0].stem in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [".counterview.json", "mask.png", "match.json", "overlay.png"]
    result = json.loads((tmp_path / "match.json").read_text())
    (item,) = result["objects"]
    assert from_coco(item["mask"]).size_hw == tuple(result["target"]["size_hw"])
    assert np.array_equal(from_coco(item["mask"]).to_array(), read_mask(tmp_path / "mask.png"))
    assert len(item["runners_up"]) == 2
    assert item["mask"] not in [c["mask"] for c in item["runners_up"]], "the match itself is no runner-up"
    assert 0 <= item["visibility"] <= 1
    assert result["settings"]["features"]["name"] == "classical"
    assert result["versions"]["counterview"]


def test_several_masks_points_and_boxes_in_one_run(tmp_path, capsys):
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("410,260", Point(410, 260)),
        (" 410.5, 260 ", Point(410.5, 260)),
        ("410,260+430,280", Prompt(points=[(410, 260), (430, 280)])),
        ("410,260-500,300", Prompt(points=[(410, 260)], background=[(500, 300)])),
        ("410,260+430.5,280-500,300-1,2", Prompt(points=[(410, 260), (430.5, 280)], background=[(500, 300), (1, 2)])),
        ("-1,5", Point(-1, 5)),
        ("1,-5", Point(1, -5)),
    ],
)
def test_several_points_of_one_object_are_one_text(text, expected):
    assert read_prompts([], [text], [])[0]["point"] == expected
    shell = subprocess.run(
        ["sh", "-c", f"printf %s {text.replace(' ', '')}"], capture_output=True, text=True, check=True
    )
    assert shell.stdout == text.replace(" ", ""), "no shell reads any of its characters"


def test_boxes_take_points_and_names_go_to_masks_points_and_boxes(small):
    height, width = read_image(small / "red.png").shape[:2]
    prompts, _ = read_prompts(
        [small / "red.png"], ["1,2", "3,4"], ["5,6,7,8+6,7-9,9", "1,1,2,2"], ["cup", "lid", "point", "mug"],
        image_hw=(height, width),
    )  # fmt: skip
    assert list(prompts) == ["cup", "lid", "point", "mug", "box"]
    assert prompts["mug"] == Prompt(points=[(6, 7)], background=[(9, 9)], box=(5, 6, 7, 8))
    assert prompts["box"] == Box(1, 1, 2, 2)
    assert list(read_prompts([], ["1,2", "3,4"], [], ["point-2"])[0]) == ["point-2", "point"]


def test_a_preview_shows_what_was_taken_and_a_note_says_how(small, tmp_path, capsys):
    arguments = ["--point", "15,15+50,40-40,5", "--name", "both", "--model", "knn"]
    code, out, err = run(capsys, small / "a.png", small / "a.png", *arguments, "--out", tmp_path / "o", "--preview",
                         tmp_path / "p.png")  # fmt: skip
    assert code == 0
    assert "both: note: no proposal holds all 2 points: the union of 2 proposals was taken" in err
    assert f"written: {tmp_path / 'p.png'}, " in out
    result = json.loads((tmp_path / "o" / "match.json").read_text())
    taken = from_coco(result["objects"][0]["query_mask"]).to_array()
    image, preview = read_image(small / "a.png"), read_image(tmp_path / "p.png")
    assert taken[15, 15]
    assert taken[40, 50]
    assert not taken[5, 40]
    assert (preview != image).any(axis=-1)[taken].mean() > 0.9
    assert (preview[15, 15] == 255).all(), "the point itself"
    assert result["settings"]["prompt_proposals"]["name"] == "tiny"


def test_equal_runs_give_equal_bytes(small, tmp_path, capsys):
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
        "point malformed": ([good, good, "--point", "a,b"], "--point is malformed"),
        "plus without numbers": ([good, good, "--point", "10,10+"], "--point is malformed"),
        "name twice": ([good, good, *mask, *mask, "--name", "a", "--name", "a"], "--name is given too often, or one"),
        "name too many": ([good, good, *mask, "--name", "a", "--name", "b"], "2 for 1 objects"),
        "name of a folder": ([good, good, *mask, "--name", "a/b"], "cannot be used as a file name"),
        "preview": ([good, good, *mask, "--preview", folder / "p.gif"], "no known image extension"),
        "box empty": ([good, good, "--box", "5,5,5,5"], "is empty"),
        "no proposals": ([good, folder / "flat.png", *mask], "no proposals"),
        "unknown proposer": ([good, good, *mask, "--proposals", "grph"], "graph"),
        "unknown features": ([good, good, *mask, "--features", "clasical"], "classical"),
    }


CASES = ["name twice", "name too many", "name of a folder", "preview", "plus without numbers",
         "missing", "not an image", "truncated", "bomb", "other size", "empty mask", "rgb mask", "no prompt",
         "point outside", "point malformed", "box empty",
         "no proposals", "unknown proposer", "unknown features"]  # fmt: skip


@pytest.mark.parametrize(
    ("visibility", "verdict"), [(0.51, "visible (visibility 0.51"), (0.5, "probably not visible (visibility 0.50")]
)
def test_a_visibility_above_one_half_is_reported_as_visible(small, tmp_path, capsys, monkeypatch, visibility, verdict):
    def score(self, backbone, query, query_masks, target):
        similarity = np.full((len(query_masks), len(target.proposals)), 0.25)
        return MatchScores(similarity, np.full(len(query_masks), visibility), (("a note",),), similarity)

    monkeypatch.setattr(KnnMatcher, "score", score)
    arguments = [small / "a.png", small / "a.png", "--mask", small / "red.png", "--out", tmp_path, "--model", "knn"]
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert out.startswith(f"red: {verdict}, similarity 0.250), box x=")
    assert err == "red: note: a note\n"


@pytest.mark.parametrize("case", CASES)
def test_malformed_input_is_one_line_and_exit_code_2_and_writes_nothing(case, small, tmp_path, capsys):
    arguments, part = broken_inputs(small)[case]
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert part in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--features", "dinov2-base"], ["--proposals", "sam2"]])
def test_without_the_hub_the_error_names_what_works_offline(option, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    code, _, err = run(
        capsys, small / "a.png", small / "a.png", "--mask", small / "red.png", "--out", tmp_path / "out", *option
    )
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "classical" in err or "graph" in err
    assert not (tmp_path / "out").exists()


def test_a_label_image_needs_a_label(tmp_path, capsys, small):
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 10:30], labels[35:55, 45:70] = 60, 120
    Image.fromarray(labels).save(tmp_path / "seg.png")
    arguments = [small / "a.png", small / "a.png", "--mask", tmp_path / "seg.png", "--model", "knn"]
    arguments += ["--out", tmp_path / "out"]
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "seg.png: holds several objects; found labels 60, 120" in err
    code, out, _ = run(capsys, *arguments, "--label", 120, "--json")
    (item,) = json.loads(out)["objects"]
    assert code == 0
    assert (item["name"], from_coco(item["query_mask"]).box_xywh) == ("seg", (45, 35, 25, 20))
    _, out, _ = run(capsys, *arguments, "--label", 60, "--label", 120, "--json")
    assert [item["name"] for item in json.loads(out)["objects"]] == ["seg-60", "seg-120"]
    for extra, words in (
        (["--label", 7], "has no label 7"),
        (["--mask", small / "red.png", "--label", 1, "--label", 2, "--label", 3], "3 labels, 2 masks"),
        (["--mask-orientation", "sideways"], "unknown orientation"),
    ):
        code, _, err = run(capsys, *arguments, *extra)
        assert code == 2
        assert words in err
    code, _, err = run(capsys, small / "a.png", small / "a.png", "--point", "1,2", "--label", 1)
    assert (code, "--label needs a mask" in err) == (2, True)


def test_how_a_mask_was_read_is_among_the_notes(tmp_path, capsys, small):
    import cv2

    with Image.open(small / "red.png") as image:
        soft = cv2.GaussianBlur(np.asarray(image), (0, 0), 1)
    Image.fromarray(soft).save(tmp_path / "soft.png")
    arguments = [small / "a.png", small / "a.png", "--mask", tmp_path / "soft.png", "--model", "knn"]
    code, out, _ = run(capsys, *arguments, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert "soft edges" in json.loads(out)["objects"][0]["notes"][0]


def test_the_orientation_of_a_mask_is_decided_or_asked_for(tmp_path, capsys, small):
    with Image.open(small / "a.png") as image, Image.open(small / "red.png") as mask:
        upright, drawn = image.convert("RGB"), mask.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 3
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "a.png", exif=exif)
    drawn.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "raw.png")
    arguments = [tmp_path / "a.png", small / "a.png", "--mask", tmp_path / "raw.png", "--model", "knn"]
    arguments += ["--out", tmp_path / "out", "--json"]
    code, _, err = run(capsys, *arguments)
    assert (code, "fits both the upright image and its stored pixels" in err) == (2, True)
    code, out, _ = run(capsys, *arguments, "--mask-orientation", "raw")
    assert code == 0
    assert from_coco(json.loads(out)["objects"][0]["query_mask"]).box_xywh == (10, 10, 20, 20)


@pytest.mark.parametrize(("device", "words"), [("cuda:7", "is not available"), ("gpu", "unknown device")])
def test_the_device_is_checked_first(capsys, tmp_path, device, words):
    for arguments in (
        ["match", tmp_path / "none.png", tmp_path / "none.png", "--mask", tmp_path / "none.png", "--model", "knn"],
        ["demo"],
        ["predict", "knn", tmp_path / "none", "--out", tmp_path / "out"],
        ["reproduce", "omama-main", "--dry-run"],
    ):
        assert main([*map(str, arguments), "--device", device]) == 2
        assert words in capsys.readouterr().err


def test_half_precision_is_for_the_model_that_draws_its_masks(small, with_bundled, tmp_path, capsys):
    """Oracle: the match in single precision. A model that computes in float32, and an unknown dtype, are refused."""
    arguments = [small / "a.png", small / "a.png", "--mask", small / "red.png", "--out", tmp_path / "out", "--json"]
    found = {}
    for dtype in ("float32", "bfloat16"):
        code, out, err = run(capsys, *arguments, "--model", "tiny-follow", "--dtype", dtype)
        assert code == 0, err
        found[dtype] = json.loads(out)
    assert found["bfloat16"]["settings"]["matcher"]["autocast"] == "bfloat16"
    assert "autocast" not in found["float32"]["settings"]["matcher"]
    single, half = (found[dtype]["objects"][0] for dtype in ("float32", "bfloat16"))
    assert half["visibility"] == pytest.approx(single["visibility"], abs=0.05)
    assert half["visibility"] != single["visibility"]
    for model, dtype, words in (("knn", "bfloat16", "knn computes in float32"), ("knn", "int8", "unknown dtype")):
        code, _, err = run(capsys, *arguments, "--model", model, "--dtype", dtype)
        assert (code, words in err) == (2, True), err


def test_several_targets_folders_and_patterns_have_folders_of_their_own(small, tmp_path, capsys):
    for camera in ("cam01", "cam02"):
        (tmp_path / camera).mkdir()
        shutil.copy(small / "a.png", tmp_path / camera / "30.png")
    shutil.copy(small / "a.png", tmp_path / "cam02" / "60.png")
    arguments = [small / "a.png", tmp_path / "cam01", tmp_path / "cam02" / "*.png", "--mask", small / "red.png"]
    arguments += ["--model", "knn", "--out", tmp_path / "out"]
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    results = json.loads(out)
    assert [Path(r["target"]["path"]).name for r in results] == ["30.png", "30.png", "60.png"]
    assert len({json.dumps(r["objects"][0]["mask"]) for r in results}) == 1
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("match.json")}
    assert names == {"cam01-30/match.json", "cam02-30/match.json", "60/match.json"}
    code, out, _ = run(capsys, small / "a.png", tmp_path / "cam01" / "30.png", *arguments[3:])
    assert code == 0
    assert "written: " in out
    left = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("match.json")}
    assert left == {"match.json"}  # results of two runs never mix
    (tmp_path / "empty").mkdir()
    for target, words in ((tmp_path / "empty", "holds no image"), (tmp_path / "no*.png", "no file matches")):
        code, _, err = run(capsys, small / "a.png", target, *arguments[3:])
        assert code == 2
        assert words in err
    code, _, err = run(capsys, small / "a.png", tmp_path / "cam01", tmp_path / "cam01", *arguments[3:])
    assert code == 2
    assert "two targets have one name" in err
