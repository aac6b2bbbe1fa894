"""O-MaMa's workflow: masks extracted beforehand in its folders, at the network's input size, for target cameras alone.

Training, predictions and scores are those of the same masks given by a proposer with its cache.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from counterview.cli.main import main
from counterview.config import load_config
from counterview.data.open import open_dataset
from counterview.errors import ProposalError
from counterview.features import load_backbone
from counterview.inference.dataset import predict
from counterview.inference.loading import load, load_take_predictor
from counterview.inference.matchers import HeadMatcher
from counterview.inference.proposal_matcher import ProposalMatcher
from counterview.inference.takes import FramePredictor
from counterview.omama import OMaMa
from counterview.omama.training.image_store import ImageStore
from counterview.omama.training.recipe import OMaMaRecipe
from counterview.omama.training.task import OMaMaTask
from counterview.proposals import CachedProposer, load_proposer
from counterview.proposals.base import fit_proposals, frame_name
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig
from tests.omama.tiny_takes import write_takes

SIZES = ((704, 704), (540, 960))  # as prepared
INPUT_HW = {(704, 704): (700, 700), (540, 960): (532, 952)}
SPLITS = {"train": 2, "val": 1, "test": 1}


class AtInputSize:
    """Masks of ``graph`` at the size of the network's input."""

    name = "graph-at-input-size"

    def __init__(self):
        self.inner = load_proposer("graph", max_masks=12, working_side_px=100, regions=60, candidates=60)

    def settings(self):
        return self.inner.settings()

    def __call__(self, image, name=None):
        return fit_proposals(self.inner(image), INPUT_HW[image.shape[:2]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Takes with two exo cameras whose frames have equal numbers, a small network, and masks of the exo images."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("beforehand")
    write_takes(root / "real", frames=2, exo_cameras=2, splits=SPLITS, sizes=SIZES)
    (root / "data").symlink_to(root / "real", target_is_directory=True)
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=112)
    ).save_pretrained(root / "backbone")
    proposer = AtInputSize()
    for split in SPLITS:
        for take in open_dataset(root / "data", split):
            for camera in take.exo_cameras:
                folder = root / "masks" / f"Masks_{split.upper()}_EGO2EXO" / take.uid / camera
                folder.mkdir(parents=True)
                for frame in take.frames:
                    found = proposer(take.frame(camera, frame))
                    dense = np.stack([mask.to_array() for mask in found.masks])
                    assert dense.shape[1:] == (532, 952)
                    np.savez_compressed(folder / f"{frame}_masks.npz", dense.astype(np.uint8))
                    np.save(folder / f"{frame}_boxes.npy", found.boxes_xywh)
    return root


def recipe(root, name, **model):
    values = {
        "data": {"root": str(root / "data"), "directions": ["ego2exo"], "cache": str(root / f"cache-{name}")},
        "model": {
            "channels": 12, "hidden": 16, "embedding": 8, "heads": 2, "query_grid_hw": [50, 50],
            "target_grid_hw": [38, 68], "visibility": "released", "backbone": str(root / "backbone"),
            "descriptor": {"fallback": "zeros", "mask_size": "input"}, **model,
        },
        "sampling": {"mining": "released", "candidates": 6},
    }  # fmt: skip
    return load_config(OMaMaRecipe, values)


TRAINING = TrainingConfig(epochs=1, batch_size=4, lr=1e-3, seed=1)


@pytest.fixture(scope="module")
def runs(place):
    """Models and prediction files, from stored masks and from the proposer with its cache."""
    results = {}
    stored = recipe(place, "stored", proposer=f"folder:{place / 'masks'}")
    result = fit(OMaMaTask(stored), TRAINING, place / "run-stored", progress=False)
    results["stored"] = result.model_dir
    named = recipe(place, "named", proposer="graph")
    proposer = CachedProposer(AtInputSize(), place / "masks-cache")
    store = ImageStore(named.model, place / "cache-named", proposer=proposer)
    result = fit(OMaMaTask(named, store=store), TRAINING, place / "run-named", progress=False)
    results["named"] = result.model_dir
    dataset = open_dataset(place / "data", "test")
    backbone = load_backbone(str(place / "backbone"))
    by_name = ProposalMatcher(proposer, backbone, HeadMatcher(OMaMa.from_pretrained(results["named"])))
    predict(FramePredictor(by_name), dataset, ["ego2exo"], place / "named.json", progress=False)
    # Its features are a folder of ours outside the model's own, which needs our word.
    command = ["predict", str(results["stored"]), str(place / "data"), "--direction", "ego2exo", "--trust"]
    assert main([*command, "--proposals", f"folder:{place / 'masks'}", "--out", str(place / "stored.json")]) == 0
    return results


def test_the_same_weights_and_predictions(place, runs):
    weights = [(runs[name] / "model.safetensors").read_bytes() for name in ("stored", "named")]
    assert weights[0] == weights[1]
    files = [json.loads((place / f"{name}.json").read_text()) for name in ("stored", "named")]
    assert files[0]["ego-exo"]["results"] == files[1]["ego-exo"]["results"]
    masks = files[0]["ego-exo"]["results"]
    chosen = {json.dumps(m["pred_mask"]) for t in masks.values() for o in t["masks"].values() for c in o.values()
              for m in c.values()}  # fmt: skip
    assert len(chosen) > 3


def test_they_are_scored(place, runs, capsys):
    command = ["evaluate", "--gt", str(place / "data"), "--split", "test", "--direction", "ego2exo", "--json"]
    scores = []
    for name in ("stored", "named"):
        assert main([*command, "--pred", str(place / f"{name}.json")]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0]["counts"] == scores[1]["counts"]
    assert scores[0]["counts"]["visible"] > 10


def test_two_cameras_with_equal_frame_numbers_have_their_own_masks(place):
    proposer = load_proposer(f"folder:{place / 'masks'}")
    take = open_dataset(place / "data", "test").takes[0]
    found = [proposer(take.frame(camera, 30), frame_name(take.uid, camera, 30)) for camera in take.exo_cameras]
    assert found[0].masks != found[1].masks
    for camera, proposals in zip(take.exo_cameras, found, strict=True):
        assert proposals.masks == AtInputSize()(take.frame(camera, 30)).masks
    with pytest.raises(ProposalError, match="no proposals for the image"):
        proposer(take.frame("aria01", 30), frame_name(take.uid, "aria01", 30))


def test_a_query_image_without_masks_is_named_where_its_masks_are_needed(place, tmp_path, capsys):
    command = ["predict", "knn", str(place / "data"), "--direction", "ego2exo", "--out", str(tmp_path / "knn.json")]
    assert main([*command, "--proposals", f"folder:{place / 'masks'}"]) != 0
    message = capsys.readouterr().err
    assert "aria01" in message
    assert "reads the proposals of query images" in message


def test_changed_masks_are_described_again(place, tmp_path):
    shutil.copytree(place / "masks", tmp_path / "masks")
    config = recipe(place, "changed", proposer=f"folder:{tmp_path / 'masks'}").model
    take = open_dataset(place / "data", "test").takes[0]
    camera = take.exo_cameras[0]
    before = ImageStore(config, tmp_path / "cache").record(take, camera, 0)
    path = next((tmp_path / "masks").glob(f"Masks_TEST_*/{take.uid}/{camera}/0_masks.npz"))
    with np.load(path) as archive:
        fewer = archive["arr_0"][:-2]
    np.savez_compressed(path, fewer)
    np.save(path.with_name("0_boxes.npy"), np.load(path.with_name("0_boxes.npy"))[:-2])
    after = ImageStore(config, tmp_path / "cache").record(take, camera, 0)
    assert len(after.descriptors) == len(before.descriptors) - 2
    assert np.array_equal(after.descriptors, before.descriptors[:-2])


def test_one_image_of_a_data_set_is_matched_with_stored_masks(place, runs):
    model = load(runs["stored"], proposals=f"folder:{place / 'masks'}", trust=True)
    take = open_dataset(place / "data", "test").takes[0]
    query = model.encode_query(take.frame("aria01", 30))
    camera = take.exo_cameras[1]
    target = model.encode(take.frame(camera, 30), name=frame_name(take.uid, camera, 30))
    name = next(n for n in take.objects if take.mask(n, "aria01", 30) is not None)
    match = model.match_encoded(query, [take.mask(name, "aria01", 30)], target)[0]
    assert match.mask.shape == SIZES[1]  # at the image's size, though the masks are at the input's
    takes = load_take_predictor(runs["stored"], proposals=f"folder:{place / 'masks'}", trust=True)
    assert takes.settings()["proposals"]["path"] == str(place / "masks")
