"""Statistics against numbers counted by hand; the commands."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from counterview.cli.inspect import inspect
from counterview.cli.tabletop import tabletop
from counterview.data.inspect import draw_inspection, inspect_release
from counterview.errors import AnnotationError, InputError
from counterview.masks.rle import to_lzstring
from counterview.types import ObjectMask


def entry(pixels: int, height: int = 100, width: int = 200) -> dict:
    mask = np.zeros(height * width, bool)
    mask[:pixels] = True
    return {
        "height": height,
        "width": width,
        "encodedMask": to_lzstring(ObjectMask.from_array(mask.reshape(height, width))),
    }


@pytest.fixture
def release(tmp_path):
    ego = {"annotation": {"0": entry(400), "30": entry(2000), "60": entry(10)}, "annotated_frames": [0, 30, 60, 90]}
    exo = {"annotation": {"0": entry(10), "90": entry(30)}, "annotated_frames": [0, 30, 90]}
    views = {"aria01_214-1": ego, "cam01": exo}
    takes = {
        "a": {"take_name": "a", "object_masks": {"salt/pepper jar_0": views}},
        "b": {"take_name": "b", "object_masks": {}},
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "relations_val.json").write_text(json.dumps({"annotations": takes}))
    return tmp_path


def test_counts_are_those_counted_by_hand(release):
    found = inspect_release(release)
    assert (found.takes, found.objects, found.cameras, found.masks) == (2, 1, 2, 5)
    assert found.empty_takes == ["b"]
    ego2exo, exo2ego = found.directions["ego2exo"], found.directions["exo2ego"]
    # Query frames 0 and 30 (60 was not looked at in cam01); visible at 0 only.
    assert (ego2exo.frames, ego2exo.visible) == (2, 1)
    # Query frames 0 and 90, both looked at in the ego view; visible at 0 only.
    assert (exo2ego.frames, exo2ego.visible) == (2, 1)
    assert sorted(found.areas["exo"]) == [10 / 20000, 30 / 20000]
    assert found.fraction_below("exo", 0.001) == 0.5
    assert found.fraction_below("ego", 0.005) == pytest.approx(1 / 3)
    assert found.track_lengths == {"ego": [3], "exo": [2]}
    assert json.loads(json.dumps(found.summary()))["directions"]["ego2exo"]["not_visible_fraction"] == 0.5


def test_damage_is_counted_or_named(release):
    path = release / "annotations" / "relations_val.json"
    content = json.loads(path.read_text())
    content["annotations"]["a"]["object_masks"]["salt/pepper jar_0"]["cam01"]["annotation"]["0"]["encodedMask"] = "###"
    path.write_text(json.dumps(content))
    assert inspect_release(release).unreadable == 1
    content["annotations"]["a"]["object_masks"] = ["not", "a", "mapping"]
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="take a"):
        inspect_release(release)
    with pytest.raises(AnnotationError, match="relations_train"):
        inspect_release(release, "train")


def test_the_image_shows_the_data(release, tmp_path):
    draw_inspection(inspect_release(release), tmp_path / "image.png")
    from PIL import Image

    image = np.asarray(Image.open(tmp_path / "image.png"))
    assert image.shape == (340, 960, 3)
    assert {(214, 112, 40), (44, 108, 176), (70, 150, 90)} <= {tuple(c) for c in image.reshape(-1, 3)}


def runner(command):
    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_inspect_prints_a_table_and_json(release):
    table = runner(inspect)(release)
    assert table.exit_code == 0, table.output
    assert "2 takes, 2 cameras, 1 object, 5 masks" in table.output
    assert "not visible in 50.0%" in table.output
    assert json.loads(runner(inspect)(release, "--json").output)["exo"]["masks"] == 2


def test_tabletop_command_writes_a_data_set_that_inspect_reads(tmp_path):
    pytest.importorskip("embreex")
    out = tmp_path / "data"
    made = runner(tabletop)(
        out, "--takes", 1, "--split", "val", "--seconds", 2, "--size", 96, "--cameras", 2, "--preset", "easy"
    )
    assert made.exit_code == 0, made.output
    assert (out / "manifest.json").exists()
    assert len(list(out.glob("takes/*/contact_sheet.jpg"))) == 1
    found = inspect_release(out, "val")
    assert found.takes == 1
    assert found.masks > 5
    wrong = runner(tabletop)(out, "--takes", 1, "--split", "dev")
    assert isinstance(wrong.exception, InputError)
