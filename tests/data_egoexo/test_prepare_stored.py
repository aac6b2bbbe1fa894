"""A release in object storage, prepared into it: what comes out is what a folder gives, resumed like a folder."""

import json
from pathlib import Path

import pytest

from counterview.data.prepare.prepare import prepare_release
from counterview.errors import InputError
from counterview.media.storage import ObjectFolder
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release
from tests.object_storage import bucket  # noqa: F401  # a fixture


def stored(folder: Path, url: str) -> ObjectFolder:
    target = ObjectFolder(url)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        target.store(path, path.relative_to(folder).as_posix())
    return target


def contents(folder: Path) -> dict[str, bytes]:
    names = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        n: p.read_bytes() for n, p in names.items() if not n.startswith(".") and "pairs" not in n and "rep" not in n
    }


def test_storage_and_folder_give_the_same(bucket, tmp_path):  # noqa: F811
    specs = [
        TakeSpec("a", "cook_1", cameras=(EGO, EXO)), TakeSpec("b", "cook_2", cameras=(EGO, EXO)),
        TakeSpec("gone", "gone_3", cameras=(EGO, EXO)),
    ]  # fmt: skip
    release = make_release(tmp_path / "release", specs)
    for video in (release / "takes" / "gone_3").rglob("*.mp4"):
        video.unlink()
    source = stored(release, f"{bucket}/release")
    expected = prepare_release(release, tmp_path / "local", splits=None)
    report = prepare_release(source.url, f"{bucket}/prepared", splits=None)
    target = ObjectFolder(f"{bucket}/prepared")
    target.fetch_all(target.files(), tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(tmp_path / "local")
    assert [(t.take_uid, t.status, t.masks) for t in report.takes] == [
        (t.take_uid, t.status, t.masks) for t in expected.takes
    ]
    assert "/tmp" not in json.dumps(report.to_dict())
    assert report.release == source.url
    pairs = json.loads(target.read("val_exoego_pairs.json"))
    wanted = json.loads((tmp_path / "local" / "val_exoego_pairs.json").read_text())
    base = (tmp_path / "local").as_posix()
    assert pairs == [[path.replace(base, target.url) for path in pair] for pair in wanted]
    assert pairs

    before = target.files()
    again = prepare_release(source.url, target.url, splits=None)
    assert again.done_before == 2
    after = target.files()
    assert {n: f for n, f in after.items() if n.endswith(".jpg")} == {
        n: f for n, f in before.items() if n.endswith(".jpg")
    }
    # A video that was replaced is prepared again, from storage alone; the other camera's images stay.
    video = next((release / "takes" / "cook_1").rglob(f"{EXO}.mp4"))
    other = next((release / "takes" / "cook_2").rglob(f"{EXO}.mp4"))
    source.store(other, video.relative_to(release).as_posix())
    source.store(video, other.relative_to(release).as_posix())
    third = prepare_release(source.url, target.url, splits=None)
    assert third.done_before == 0
    assert list(target.files()) == list(after)
    for places in ((release, f"{bucket}/mixed"), (source.url, tmp_path / "mixed")):
        assert prepare_release(*places, splits=["val"], takes=["b"]).takes[0].status == "prepared"
    assert (tmp_path / "mixed" / "b" / EGO).is_dir()


def test_what_is_not_ours_is_not_written_into(bucket, tmp_path):  # noqa: F811
    release = make_release(tmp_path / "release", [TakeSpec("a", "cook_1", cameras=(EGO, EXO))])
    (tmp_path / "thesis.tex").write_text("mine")
    ObjectFolder(f"{bucket}/mine").store(tmp_path / "thesis.tex", "thesis.tex")
    with pytest.raises(InputError, match="is not empty and is not the output"):
        prepare_release(release, f"{bucket}/mine")
    with pytest.raises(InputError, match="is not an Ego-Exo4D release"):
        prepare_release(f"{bucket}/nothing", tmp_path / "out")
