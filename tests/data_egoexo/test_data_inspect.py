"""The same statistics whatever the layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from counterview.cli.inspect import inspect
from counterview.data.formats.handal import open_handal
from counterview.data.inspect import inspect_dataset, inspect_release
from counterview.data.prepare.prepare import prepare_release
from counterview.errors import InputError
from counterview.media.images import write_image
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, disc, make_release, numbered

app = typer.Typer()
app.command()(inspect)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    specs = [TakeSpec("a", "n1"), TakeSpec("b", "n2", 61, (EGO, EXO)), TakeSpec("c", "n3", 31, split="test")]
    return make_release(tmp_path / "release", specs)


def test_a_prepared_folder_has_the_statistics_of_its_release(release: Path, tmp_path: Path) -> None:
    prepare_release(release, tmp_path / "out", splits=["val", "test"])
    for split in ("val", "test", None):
        expected = inspect_release(release, split).summary()
        assert inspect_dataset(release, split).summary() == expected
        assert inspect_dataset(tmp_path / "out", split).summary() == expected
    found = inspect_dataset(tmp_path / "out", "val")
    # Of each of two objects: frames 0 to 90 of three cameras, and 0 to 60 of two; it is absent in cam01 at 60.
    assert (found.takes, found.cameras, found.objects, found.masks) == (2, 5, 4, 2 * (4 + 3 + 4) + 2 * (3 + 2))
    assert (found.directions["ego2exo"].frames, found.directions["ego2exo"].visible) == (
        2 * (4 + 4 + 3),
        2 * (3 + 4 + 2),
    )
    roots = (release, tmp_path / "out")
    printed = [CliRunner().invoke(app, [str(root), "--split", "val", "--json"]) for root in roots]
    assert [run.exit_code for run in printed] == [0, 0]
    assert json.loads(printed[0].stdout) == json.loads(printed[1].stdout)
    assert "3 takes, 8 cameras, 6 objects, 44 masks" in CliRunner().invoke(app, [str(tmp_path / "out")]).stdout


def test_masks_stored_as_null_are_unreadable(release: Path, tmp_path: Path) -> None:
    prepare_release(release, tmp_path / "out", splits=["val"])
    path = tmp_path / "out" / "a" / "annotation.json"
    content = json.loads(path.read_text())
    content["masks"]["mug 0"][EGO]["30"] = None  # as the official code leaves them
    content["masks"]["mug 0"][EGO]["60"]["counts"] = "~~~"
    path.write_text(json.dumps(content))
    found = inspect_dataset(tmp_path / "out", "val")
    assert (found.masks, found.unreadable) == (32, 2)


def test_upper_case_cameras_are_worn_too(tmp_path: Path) -> None:
    """One function says which cameras are worn."""
    release = make_release(tmp_path, [TakeSpec("a", "n", 31, (EGO, EXO), absent={})])
    path = release / "annotations" / "relations_val.json"
    path.write_text(path.read_text().replace(EGO, EGO.replace("aria", "Aria")))
    found = inspect_dataset(release, "val")
    assert (len(found.areas["ego"]), len(found.areas["exo"])) == (4, 4)
    assert (found.directions["ego2exo"].frames, found.directions["exo2ego"].frames) == (4, 4)


def test_handal_and_what_is_no_data_set(tmp_path: Path) -> None:
    from PIL import Image

    scene = tmp_path / "handal_dataset_mugs" / "test" / "0"
    (scene / "mask").mkdir(parents=True)
    for n in range(3):
        write_image(scene / "rgb" / f"{n}.jpg", numbered(n, (48, 64)))
        Image.fromarray(disc((48, 64), n).to_array().astype("uint8") * 255).save(scene / "mask" / f"{n}_000000.png")
    assert open_handal(tmp_path, "test", step=1).takes[0].frames == (0, 1)
    assert inspect_dataset(tmp_path, "test").takes == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not a data set of a known format"):
        inspect_dataset(tmp_path / "empty")


def test_two_processes_find_the_same(release: Path, tmp_path: Path) -> None:
    expected = inspect_dataset(release)
    assert inspect_dataset(release, workers=2) == expected
    assert inspect_dataset(release, "test", workers=3) == inspect_dataset(release, "test")
    prepare_release(release, tmp_path / "out", splits=["val", "test"])
    assert inspect_dataset(tmp_path / "out", workers=2) == inspect_dataset(tmp_path / "out")
    content = json.loads((release / "annotations" / "relations_val.json").read_text())
    content["annotations"]["a"] = 3
    (release / "annotations" / "relations_val.json").write_text(json.dumps(content))
    for workers in (1, 2):
        with pytest.raises(InputError, match="is not an annotation; found int for take a"):
            inspect_dataset(release, workers=workers)
