"""Predictions for a data set of known scenes: right masks, one encoding an image, nothing repeated after a kill."""

import errno
import json
import os
import re
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs, pairs_of_take, subset
from counterview.errors import ConfigError, InputError, OutputError
from counterview.evaluation import GroundTruth, evaluate, open_predictions
from counterview.evaluation.layout import LAYOUTS, read_record
from counterview.evaluation.predictions import KEY_OF
from counterview.inference import dataset as dataset_module
from counterview.inference import take_parts
from counterview.inference.dataset import predict
from counterview.inference.loading import load_take_predictor
from counterview.inference.matchers import KnnMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.takes import FramePredictor
from counterview.jobs.engine import JobEngine
from counterview.masks.geometry import iou, resize_mask
from counterview.masks.rle import from_coco, to_coco
from counterview.media import files as media_files
from counterview.media.files import write_json
from counterview.proposals import CachedProposer
from tests.inference.fakes import ColourBackbone, ColourProposer, NoProposer, scene

EGO, EXOS = "aria01_214-1", ("cam01", "cam02")
SIZES = {EGO: (96, 96), "cam01": (54, 96), "cam02": (96, 54)}
PLACES = {"red": (5, 5), "green": (30, 30), "blue/cup_0": (60, 40)}


@pytest.fixture
def prepared(tmp_path) -> Path:
    """Two takes in the prepared layout; the blue cup is never visible to cam02; cam01 is not annotated at frame 60."""
    root = tmp_path / "data"
    for uid in ("take-a", "take-b"):
        masks, annotated = {}, {}
        for number, frame in enumerate((0, 30, 60)):
            for camera, size in SIZES.items():
                visible = {n: (min(x, size[1] - 14) - number, min(y, size[0] - 14)) for n, (x, y) in PLACES.items()}
                if camera == "cam02":
                    visible.pop("blue/cup_0")
                image, truth = scene({n.split("/")[0]: xy for n, xy in visible.items()}, size, 12)
                path = root / uid / camera / f"{frame}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path, format="PNG")
                for name in PLACES:
                    if (camera, frame) != ("cam01", 60):
                        annotated.setdefault(name, {}).setdefault(camera, []).append(frame)
                        masks.setdefault(name, {}).setdefault(camera, {})
                        if name in visible:
                            masks[name][camera][str(frame)] = to_coco(truth[name.split("/")[0]])
        write_json(
            root / uid / "annotation.json",
            {"masks": masks, "subsample_idx": [0, 30, 60], "annotated_frames": annotated},
        )
    write_json(root / "split.json", {"train": [], "val": [], "test": ["take-a", "take-b"]})
    return root


def model(proposer=None):
    return ProposalMatcher(proposer or ColourProposer(), ColourBackbone(), KnnMatcher())


def test_every_frame_is_predicted_and_right(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    predictor = model()
    counts = predict(FramePredictor(predictor), dataset, ["ego2exo", "exo2ego"], tmp_path / "p.json", progress=False)
    # A take: forwards 3 objects x 3 frames x 2 cameras; backwards what cam01 (3 x 2) and cam02 (2 x 3) see.
    assert counts["predictions"] == 2 * (3 * 3 * 2 + 3 * 2 + 2 * 3)
    assert counts["failed"] == {}
    assert predictor.backbone.calls == 2 * 3 * 3, "each image once, for both directions"
    result = json.loads((tmp_path / "p.json").read_text())
    assert set(result) == {"ego-exo", "exo-ego"}
    take = dataset.take("take-a")
    for way in result.values():
        assert {"version", "challenge", "results"} <= set(way)
        assert sorted(way["results"]) == ["take-a", "take-b"]
        for name, cameras in way["results"]["take-a"]["masks"].items():
            for cameras_key, frames in cameras.items():
                target = cameras_key.replace(f"{EGO}_", "") if cameras_key.startswith(EGO) else EGO
                for frame, entry in frames.items():
                    mask = from_coco(entry["pred_mask"])
                    assert max(mask.size_hw) == 480
                    truth = take.mask(name, target, int(frame))
                    if truth is None:
                        assert name == "blue/cup_0" or (target, frame) == ("cam01", "60")
                        continue
                    assert iou(mask, resize_mask(truth, mask.size_hw)) > 0.99
                    assert entry["confidence"] > 0.5
    assert not (tmp_path / "p.json.parts").exists()


def test_a_killed_run_is_resumed(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    whole = tmp_path / "whole.json"
    predict(FramePredictor(model()), dataset, ["ego2exo"], whole, progress=False)

    class Killed(FramePredictor):
        left = 4

        def predict(self, take, wanted):
            for item in super().predict(take, wanted):
                yield item
                Killed.left -= 1
                if Killed.left == 0:
                    raise KeyboardInterrupt

    out = tmp_path / "p.json"
    with pytest.raises(KeyboardInterrupt):
        predict(Killed(model()), dataset, ["ego2exo"], out, progress=False)
    assert not out.exists()
    for part in (tmp_path / "p.json.parts").glob("*.jsonl"):  # a kill can also cut a line off
        part.write_bytes(part.read_bytes() + b'{"frame": 60, "predi')
    resumed = model()
    predict(FramePredictor(resumed), dataset, ["ego2exo"], out, progress=False)
    assert out.read_bytes() == whole.read_bytes()
    assert resumed.backbone.calls == 2 * 3 * 3 - 4 * 3, "finished frames are not predicted again"


def test_a_run_with_other_settings_is_not_resumed(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    parts = tmp_path / "p.json.parts"
    write_json(parts / "run.json", {"format": 0})
    with pytest.raises(InputError, match="other settings"):
        predict(FramePredictor(model()), dataset, ["ego2exo"], tmp_path / "p.json", progress=False)


def test_without_proposals_or_an_image_the_prediction_is_empty_and_has_a_note(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    counts = predict(FramePredictor(model(NoProposer())), dataset, ["ego2exo"], tmp_path / "p.json", progress=False)
    assert counts["empty"] == {"the target image has no proposals": counts["predictions"]}
    (prepared / "take-a" / "cam01" / "30.jpg").write_bytes(b"\xff\xd8 cut")
    counts = predict(
        FramePredictor(model()), open_dataset(prepared, "test"), ["ego2exo"], tmp_path / "q.json", progress=False
    )
    assert counts["empty"] == {"the image of cam01 is not available": 3}
    entry = json.loads((tmp_path / "q.json").read_text())["ego-exo"]["results"]["take-a"]["masks"]["red"][
        f"{EGO}_cam01"
    ]["30"]
    assert from_coco(entry["pred_mask"]).is_empty
    assert entry["confidence"] == 0.0


def test_a_damaged_take_does_not_stop_the_rest(prepared, tmp_path):
    (prepared / "take-a" / "annotation.json").write_text("{")
    counts = predict(
        FramePredictor(model()), open_dataset(prepared, "test"), ["ego2exo"], tmp_path / "p.json", progress=False
    )
    assert list(counts["failed"]) == ["take-a"]
    assert list(json.loads((tmp_path / "p.json").read_text())["ego-exo"]["results"]) == ["take-b"]


def test_nothing_to_predict(prepared, tmp_path):
    for uid in ("take-a", "take-b"):
        (prepared / uid / "annotation.json").write_text('{"masks": {}, "subsample_idx": []}')
    with pytest.raises(InputError, match="nothing to predict"):
        predict(
            FramePredictor(model()), open_dataset(prepared, "test"), ["ego2exo"], tmp_path / "p.json", progress=False
        )


def predicted(prepared, out, proposer=None, **options):
    data = open_dataset(prepared, "test")
    return predict(FramePredictor(model(proposer)), data, ["ego2exo"], out, progress=False, **options)


def test_a_file_of_another_kind_or_of_other_settings_is_not_replaced(prepared, tmp_path):
    out = tmp_path / "p.json"
    out.write_text("mine")
    with pytest.raises(OutputError, match=r"p.json: exists already.*expected a new name or a prediction file"):
        predicted(prepared, out)
    assert out.read_text() == "mine"
    predicted(prepared, out, overwrite=True)
    before = out.read_bytes()
    with pytest.raises(OutputError, match="holds predictions of other settings or data"):
        predicted(prepared, out, fraction=0.5)
    (prepared / "split.json").write_text('{"test": ["take-a"]}')
    with pytest.raises(OutputError, match="holds predictions of other settings or data"):
        predicted(prepared, out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.json"]


def test_a_finished_file_is_not_computed_again_and_a_take_that_was_left_out_is(prepared, tmp_path):
    out = tmp_path / "p.json"
    annotation = prepared / "take-a" / "annotation.json"
    whole = annotation.read_bytes()
    annotation.write_text("{")
    assert list(predicted(prepared, out)["failed"]) == ["take-a"]
    annotation.write_bytes(whole)
    second = predicted(prepared, out)
    assert not second["finished_before"]
    assert sorted(json.loads(out.read_text())["ego-exo"]["results"]) == ["take-a", "take-b"]
    changed = out.stat().st_mtime_ns
    third = predicted(prepared, out)
    assert third == {**second, "finished_before": True}
    assert out.stat().st_mtime_ns == changed
    # A part of a take is not the take.
    content = json.loads(out.read_text())
    content["ego-exo"]["results"]["take-b"]["masks"].popitem()
    out.write_text(json.dumps(content))
    assert not predicted(prepared, out)["finished_before"]
    assert not predicted(prepared, out, overwrite=True)["finished_before"]


def test_the_pairs_of_a_take_are_counted_once(prepared, tmp_path, monkeypatch):
    """Over a file that lacks a take as over none: once to see what is left, and once to predict it."""
    calls = []

    def counting(take, direction, **options):
        calls.append((take.uid, direction))
        return pairs_of_take(take, direction, **options)

    monkeypatch.setattr(take_parts, "pairs_of_take", counting)
    out, annotation = tmp_path / "p.json", prepared / "take-b" / "annotation.json"
    content = annotation.read_bytes()
    annotation.write_bytes(b"[")
    predicted(prepared, out)
    for expected in ({"take-a": 2, "take-b": 2}, {"take-a": 1, "take-b": 1}):
        annotation.write_bytes(content)
        calls.clear()
        predicted(prepared, out)
        assert {uid: calls.count((uid, "ego2exo")) for uid in ("take-a", "take-b")} == expected


def test_a_damaged_take_never_costs_a_good_file(prepared, tmp_path):
    out = tmp_path / "p.json"
    predicted(prepared, out)
    content = json.loads(out.read_text())
    content["ego-exo"]["results"]["take-b"]["masks"].popitem()  # so that it is not finished
    out.write_text(json.dumps(content))
    before = out.read_bytes()
    for uid in ("take-a", "take-b"):
        (prepared / uid / "annotation.json").write_text("{")
        for option in ({}, {"overwrite": True}) if uid == "take-b" else ({},):
            with pytest.raises(InputError, match=r"nothing to predict|can no longer be predicted"):
                predicted(prepared, out, **option)
            assert out.read_bytes() == before


def test_two_runs_do_not_write_one_file(prepared, tmp_path):
    out = tmp_path / "p.json"
    refused = []

    class Twice(FramePredictor):
        def predict(self, take, wanted):
            with pytest.raises(OutputError, match="another run is writing here") as caught:
                predicted(prepared, out)
            refused.append(str(caught.value))
            yield from super().predict(take, wanted)

    predict(Twice(model()), open_dataset(prepared, "test"), ["ego2exo"], out, progress=False)
    assert len(refused) == 2
    assert f"process {os.getpid()} on " in refused[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.json"]


def test_a_disk_that_fills_up_stops_the_run_and_keeps_what_is_done(prepared, tmp_path, monkeypatch):
    out = tmp_path / "p.json"

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = open_dataset(prepared, "test")
    _ = predict(FramePredictor(model()), data, ["ego2exo"], tmp_path / "whole.json", progress=False)
    with monkeypatch.context() as patch:
        real = media_files.os.fsync
        calls = []
        patch.setattr(media_files.os, "fsync", lambda h: (calls.append(h), real(h) if len(calls) < 2 else fsync(h)))
        with pytest.raises(OutputError, match=r"p.json: cannot be written, the disk is full"):
            predicted(prepared, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "p.json.parts", "whole.json"]
    resumed = model()
    predict(FramePredictor(resumed), data, ["ego2exo"], out, progress=False)
    assert resumed.backbone.calls == 0
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_parts_are_only_removed_where_they_are_ours(prepared, tmp_path):
    out = tmp_path / "p.json"
    parts = tmp_path / "p.json.parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not of an unfinished run"):
        predicted(prepared, out, overwrite=True)
    assert (parts / "notes.txt").read_text() == "mine"
    (parts / "notes.txt").unlink()
    write_json(parts / "run.json", {"format": 0})
    predicted(prepared, out, overwrite=True)
    assert not parts.exists()


def test_what_a_kill_after_the_last_write_left_is_removed_by_the_next_run(prepared, tmp_path, monkeypatch):
    out, parts = tmp_path / "p.json", tmp_path / "p.json.parts"
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module.shutil, "rmtree", lambda _: None)  # killed before its parts were removed
        predicted(prepared, out)
    before = out.read_bytes()
    assert (parts / "run.json").is_file()
    predicted(prepared, out)
    assert not parts.exists()
    parts.mkdir()  # or while they were
    (parts / f"{'0123abcd' * 3}.jsonl").write_text("{}")
    predicted(prepared, out)
    assert not parts.exists()
    parts.mkdir()
    (parts / "notes.txt").write_text("mine")
    predicted(prepared, out)
    assert (parts / "notes.txt").read_text() == "mine"
    assert out.read_bytes() == before


def entries(path):
    """Direction key, take, object, pair and frame of each prediction, and its mask's size."""
    return {
        (key, uid, name, cameras, int(frame)): tuple(entry["pred_mask"]["size"])
        for key, way in json.loads(path.read_text()).items()
        for uid, take in way["results"].items()
        for name, pairs in take["masks"].items()
        for cameras, frames in pairs.items()
        for frame, entry in frames.items()
    }


def test_frame_by_frame_models_write_the_layout_of_lmeec_too(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    official, squares = tmp_path / "official.json", tmp_path / "lmeec.json"
    predict(FramePredictor(model()), dataset, ["ego2exo", "exo2ego"], official, progress=False)
    predict(FramePredictor(model(), LAYOUTS["lmeec"]), dataset, ["ego2exo", "exo2ego"], squares, progress=False)
    every, visible = entries(official), entries(squares)
    # The cup is not in cam02, and cam01 is not annotated at frame 60.
    assert set(visible) == {
        e for e in every if not ("cam02" in e[3] and "blue" in e[2]) and not ("cam01" in e[3] and e[4] == 60)
    }
    assert set(visible.values()) == {(480, 480)}
    assert set(every.values()) == {(480, 480), (270, 480), (480, 270)}
    # Straight from the proposal, at the size of the image, to the square.
    truth = dataset.take("take-a").mask("red", "cam01", 0)
    entry = json.loads(squares.read_text())["ego-exo"]["results"]["take-a"]["masks"]["red"][f"{EGO}_cam01"]["0"]
    assert iou(from_coco(entry["pred_mask"]), resize_mask(truth, (480, 480))) > 0.99
    for path, layout in ((official, "official"), (squares, "lmeec")):
        record = read_record(open_predictions(path))
        assert (record.layout, record.takes, record.pairs) == (LAYOUTS[layout], ("take-a", "take-b"), {})


def test_a_fraction_of_the_pairs_is_predicted_and_no_others(prepared, tmp_path):
    dataset = open_dataset(prepared, "test")
    predictor, out = model(), tmp_path / "p.json"
    predict(FramePredictor(predictor), dataset, ["ego2exo", "exo2ego"], out, fraction=0.2, seed=3, progress=False)
    expected = set()
    for direction, key in (("ego2exo", "ego-exo"), ("exo2ego", "exo-ego")):
        pairs = subset(enumerate_pairs(dataset, direction, targets="annotated"), 0.2, 3)
        expected |= {(key, p.take, p.object, f"{p.query_camera}_{p.target_camera}", p.frame) for p in pairs}
    assert set(entries(out)) == expected
    images = {(e[1], camera, e[4]) for e in expected for camera in (EGO, *EXOS) if camera in e[3]}
    assert predictor.backbone.calls == len(images) < 2 * 3 * 3, "and only their images are encoded"
    record = read_record(open_predictions(out))
    truth = GroundTruth(prepared, "test")
    for direction in ("ego2exo", "exo2ego"):
        report = evaluate(truth, out, direction)
        assert report.totals.frames == len([e for e in expected if e[0] == KEY_OF[direction]])
        assert record.pairs[direction].fraction == 0.2
    # A run that was stopped is not resumed with another selection.
    (tmp_path / "q.json.parts").mkdir()
    header = {"format": 1, "directions": ["ego2exo"], "settings": model().settings()}
    write_json(tmp_path / "q.json.parts" / "run.json", header)
    with pytest.raises(InputError, match="other settings"):
        predict(FramePredictor(model()), dataset, ["ego2exo"], tmp_path / "q.json", fraction=0.2, progress=False)
    with pytest.raises(InputError, match="a fraction of the pairs is from 0 to 1"):
        predict(FramePredictor(model()), dataset, ["ego2exo"], tmp_path / "r.json", fraction=1.5, progress=False)


def test_an_unfinished_run_of_an_earlier_version_is_resumed(prepared, tmp_path):
    """Its header knows nothing of layouts: it is that of the official one, and stays so."""
    dataset = open_dataset(prepared, "test")

    class Killed(FramePredictor):
        def predict(self, take, wanted):
            yield next(super().predict(take, wanted))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(Killed(model()), dataset, ["ego2exo"], tmp_path / "p.json", progress=False)
    header = json.loads((tmp_path / "p.json.parts" / "run.json").read_text())
    assert set(header) == {"format", "directions", "settings", "data"}


def test_what_a_run_will_cost_is_said_while_it_begins(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("counterview.cost.MIN_IMAGES", 2)
    monkeypatch.setattr("counterview.inference.dataset.MIN_IMAGES", 2)
    cached = CachedProposer(ColourProposer(), tmp_path / "cache")
    dataset = open_dataset(prepared, "test")
    predict(FramePredictor(model(cached)), dataset, ["ego2exo"], tmp_path / "p.json")
    said = capsys.readouterr().err
    assert "18 images to encode, in 6 frames of 2 takes" in said
    # Frames have three images: the first is not timed, the second is; four frames are left.
    assert re.search(r"12 images to encode: about \d+ s at [\d.e-]+ s an image; \d+ kB of cache in \S+cache", said)
    predict(FramePredictor(model(cached)), dataset, ["ego2exo"], tmp_path / "q.json", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(prepared, tmp_path):
    """Each loads the model by its name; the file is that of one process to the last byte."""
    make = partial(load_take_predictor, "knn", proposals="graph", features="classical", device="cpu")
    dataset = open_dataset(prepared, "test")
    predictor, engine = make(), JobEngine(workers=2)
    expected = predict(predictor, dataset, ["ego2exo", "exo2ego"], tmp_path / "one.json", progress=False)
    with pytest.raises(ConfigError, match="several processes need a way to load the model"):
        predict(predictor, dataset, ["ego2exo"], tmp_path / "two.json", engine=engine, progress=False)
    counts = predict(
        predictor, dataset, ["ego2exo", "exo2ego"], tmp_path / "two.json", engine=engine, make_predictor=make,
        overwrite=True, progress=False,
    )  # fmt: skip
    assert counts == expected
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_a_process_with_another_model_stops_the_run(prepared, tmp_path):
    make = partial(load_take_predictor, "knn", proposals="graph", features="classical", device="cpu")
    settings = {**make().settings(), "method": "another"}
    work = take_parts.TakeWork(make, settings, open_dataset(prepared, "test"), ["ego2exo"], {}, tmp_path)
    with pytest.raises(InputError, match="the model of a worker is not that of the run; found other method"):
        take_parts.make_take_worker(work)
