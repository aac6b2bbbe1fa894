"""Takes in object storage: the prediction file is that of a folder, and a run that was stopped goes on."""

import json
from functools import partial
from pathlib import Path

import pytest

from counterview.data.open import open_dataset
from counterview.data.prepare.prepare import prepare_release
from counterview.data.stored import StoredDataset
from counterview.errors import InputError, OutputError
from counterview.inference import predict_stored as module
from counterview.inference.dataset import predict
from counterview.inference.loading import load_take_predictor
from counterview.inference.predict_stored import predict_stored
from counterview.media.storage import ObjectFolder
from tests.data_egoexo.release_maker import EGO, EXO, TakeSpec, make_release
from tests.object_storage import bucket  # noqa: F401  # a fixture

DIRECTIONS = ("ego2exo", "exo2ego")


def stored(folder: Path, url: str) -> StoredDataset:
    target = ObjectFolder(url)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        target.store(path, path.relative_to(folder).as_posix())
    return StoredDataset(target, "val")


@pytest.mark.parametrize("kind", ["prepared", "release"])
def test_storage_and_folder_give_the_same_bytes(bucket, tmp_path, monkeypatch, kind):  # noqa: F811
    specs = [TakeSpec(u, f"cook_{u}", cameras=(EGO, EXO)) for u in "ab"]
    root = make_release(tmp_path / "release", specs)
    if kind == "prepared":
        prepare_release(root, tmp_path / "prepared", splits=["val"])
        root = tmp_path / "prepared"
    make = partial(load_take_predictor, "knn", proposals="graph", features="classical", device="cpu")
    predictor = make()
    expected = predict(predictor, open_dataset(root, "val"), DIRECTIONS, tmp_path / "one.json", progress=False)
    data = stored(root, f"{bucket}/{kind}")
    out, target = f"{bucket}/{kind}-out/p.json", ObjectFolder(f"{bucket}/{kind}-out")

    run = partial(predict_stored, predictor, data, DIRECTIONS, out, make_predictor=make, progress=False)
    with monkeypatch.context() as patch:  # stopped after the first take
        real, calls = module.make_take_worker, []

        def stopping(work, **more):
            worker = real(work, **more)

            def predict_one(uid: str) -> None:
                calls.append(uid)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                worker(uid)

            return predict_one

        patch.setattr(module, "make_take_worker", stopping)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len([name for name in target.files() if name.startswith("p.json.parts/")]) == 2  # the header, and a take
    other = partial(predict_stored, predictor, data, DIRECTIONS[:1], out, make_predictor=make, progress=False)
    with pytest.raises(InputError, match="unfinished run with other settings"):
        other()
    assert run() == expected
    assert target.read("p.json") == (tmp_path / "one.json").read_bytes()
    assert list(target.files()) == ["p.json"]
    assert run()["finished_before"]
    with pytest.raises(OutputError, match="holds predictions of other settings"):
        other()
    assert len(json.loads(target.read("p.json"))) > 1


def test_no_data_set(bucket, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="is not a data set of a known format"):
        StoredDataset(ObjectFolder(f"{bucket}/nothing"), "val").open(tmp_path / "x")
