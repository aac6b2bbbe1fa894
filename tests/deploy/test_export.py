"""Exported networks give what torch gives, at any size, and a folder that was tampered with is refused."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import counterview
from counterview.cli.main import main
from counterview.deploy import export
from counterview.deploy.manifest import MANIFEST, SIGNATURES, TOLERANCE, file_name, read_manifest, read_network
from counterview.deploy.models import OnnxNetworks
from counterview.deploy.networks import Network, RankerNet, networks_of
from counterview.deploy.runtime import OnnxSession, providers_for
from counterview.errors import CheckpointError, ConfigError, CounterviewError
from counterview.inference.examples import load_pair
from counterview.masks.geometry import iou
from counterview.nn.checkpoint import model_file
from counterview.omama import OMaMa, OMaMaConfig
from counterview.omama.model import ImageInput
from counterview.proposals.bundled import load_ranker
from counterview.tiny import TinyMatch
from tests.deploy.small_network import scene

pytest.importorskip("onnxruntime", reason='nothing is exported: pip install -e ".[onnx]"')
onnx = pytest.importorskip("onnx", reason='nothing is exported: pip install -e ".[onnx]"')
pytest.importorskip("onnxscript", reason='nothing is exported: pip install -e ".[onnx]"')

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(small):
    return TinyMatch.from_pretrained(small)


@pytest.fixture(scope="module")
def by_onnx(model, exported):
    """The same model, computed by ONNX Runtime."""
    return OnnxNetworks(model, exported, proposer="graph").model()


def difference(network: Network, module: torch.nn.Module, session: OnnxSession, sizes: dict[str, int]) -> float:
    inputs = network.example(sizes, seed=7)
    with torch.inference_mode():
        expected = module(*inputs)
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    return max(export.relative_difference(a, b) for a, b in zip(expected, session(*inputs), strict=True))


def test_every_network_equals_torch_at_every_size(model, exported):
    networks, manifest = networks_of(model, "graph"), read_manifest(exported)
    assert set(networks) == {"map", "crops", "head", "reranker", "weighing"} == set(manifest.networks)
    for name, network in networks.items():
        session = OnnxSession(read_network(exported, name, manifest.networks[name]), SIGNATURES[name], exported)
        module = network.build()
        for first, step in ((1, 0), (2, 3), (13, -2), (4, 0)):  # 4: the grid of the position embeddings
            sizes = {key: max(1, first + step * number) for number, key in enumerate(network.varying)}
            assert difference(network, module, session, sizes) < TOLERANCE, (name, sizes)


def test_the_difference_would_be_seen(model, exported):
    """The same files beside other weights are far from equal."""
    network, manifest = networks_of(model, "graph")["crops"], read_manifest(exported)
    session = OnnxSession(read_network(exported, "crops", manifest.networks["crops"]), SIGNATURES["crops"], exported)
    other = TinyMatch(model.config).eval().network.object_crops
    assert difference(network, other, session, {"n": 3}) > 100 * TOLERANCE


def test_the_ranker_equals_the_one_in_numpy():
    features = np.random.default_rng(0).normal(size=(9, 26)).astype(np.float32) * 3
    ranker = load_ranker()
    with torch.inference_mode():
        found = RankerNet(ranker).eval()(torch.from_numpy(features))
    for a, b in zip(ranker(features), found, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5)


def test_a_pair_is_matched_as_by_torch(small, exported):
    (query, masks), (target, _) = scene(), scene(shift=12)
    plain, other = (counterview.load(small, device="cpu", runtime=r) for r in ("torch", f"onnx:{exported}"))
    for a, b in zip(plain.match(query, masks, target), other.match(query, masks, target), strict=True):
        assert iou(a.mask_rle, b.mask_rle) == 1
        assert abs(a.similarity - b.similarity) < TOLERANCE
        assert abs(a.visibility - b.visibility) < TOLERANCE
        assert [c.proposal for c in a.candidates] == [c.proposal for c in b.candidates]
    settings = other.settings()
    assert settings.pop("runtime")["name"] == "onnx"
    assert settings == plain.settings()


def test_objects_are_followed_as_by_torch(small, exported):
    found = []
    for runtime in ("torch", f"onnx:{exported}"):
        tracker = counterview.load(small, device="cpu", runtime=runtime).tracker(["cam01"], query="ego")
        for step in range(3):
            (query, masks), (target, _) = scene(2 * step), scene(12 + 2 * step)
            result = tracker.step(query, {"cam01": target}, time_s=float(step), prompts=None if step else masks)
        found.append(result["cam01"])
    assert set(found[0]) == {"red", "blue", "green"}
    for name, a in found[0].items():
        b = found[1][name]
        assert (a.mask_rle is None) == (b.mask_rle is None)
        assert a.mask_rle is None or iou(a.mask_rle, b.mask_rle) == 1
        assert abs(a.visibility - b.visibility) < TOLERANCE


def image_input(count: int, model: TinyMatch, seed: int) -> ImageInput:
    rng = np.random.default_rng(seed)
    boxes = np.column_stack([rng.uniform(0, 60, (count, 2)), rng.uniform(5, 40, (count, 2))])
    config = model.config.omama
    tensors = (rng.normal(size=s).astype(np.float32) for s in ((count, config.descriptor_width), (8, 7, 9)))
    descriptors, features = (torch.from_numpy(t) for t in tensors)
    return ImageInput(descriptors, features, boxes, (100, 100), rng.uniform(0.1, 1, count))


@pytest.mark.parametrize("candidates", [1, 6])
@pytest.mark.parametrize("has_context", [False, True])
def test_matching_masks_that_are_no_proposals(model, by_onnx, candidates, has_context):
    query, target = image_input(9, model, 0), image_input(candidates, model, 1)
    context = image_input(11, model, 2) if has_context else None
    arguments = (query.descriptors[:2], query.boxes_xywh[:2], query, target, context)
    a, b = model.match(*arguments), by_onnx.match(*arguments)
    for name in ("similarity", "score", "visibility", "visibility_logit"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4, rtol=1e-4)


def test_what_no_graph_takes_is_computed_by_torch(model, by_onnx):
    config = model.config.omama
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (torch.rand(2, n, config.descriptor_width, generator=generator) for n in (1, 4))
    maps = torch.rand(2, 8, 5, 6, generator=generator)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    with torch.inference_mode():
        a, b = model(queries, candidates, maps, maps, mask), by_onnx(queries, candidates, maps, maps, mask)
    assert torch.equal(a.similarity, b.similarity)
    assert torch.equal(a.visibility, b.visibility)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_exported_now_equals_what_is_kept(small, exported, model, tmp_path):
    """Through the command; and each network at every size again, from files that were just written."""
    assert main(["export", "onnx", str(small), str(tmp_path / "out")]) == 0
    assert read_manifest(tmp_path / "out").model["weights"] == read_manifest(exported).model["weights"]
    test_every_network_equals_torch_at_every_size(model, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("visibility", ["trained", "released"])
def test_a_head_of_omama(visibility, tmp_path):
    torch.manual_seed(1)
    config = OMaMaConfig(
        channels=8, hidden=16, embedding=8, heads=2, query_grid_hw=(3, 5), target_grid_hw=(4, 4), visibility=visibility
    )
    head = OMaMa(config).eval()
    network = networks_of(head, "fastsam")["head"]
    session = OnnxSession(export.to_onnx(network, network.build()), SIGNATURES["head"], tmp_path / "head.onnx")
    for numbers in ((1, 1, 3, 5, 4, 4), (4, 9, 2, 7, 1, 3)):
        sizes = dict(zip(network.varying, numbers, strict=True))
        assert difference(network, network.build(), session, sizes) < TOLERANCE


def test_nearest_neighbour_has_nothing_to_export():
    with pytest.raises(ConfigError, match="no head"):
        networks_of(OMaMa(OMaMaConfig.knn(8)), "graph")


# ------------------------------------------------------------------------------------------------------ folders


def test_files_hold_no_paths_and_no_code_of_this_machine(exported):
    for path in exported.glob("*.onnx"):
        data = path.read_bytes()
        assert str(ROOT).encode() not in data
        assert b".py" not in data


def test_the_manifest_says_what_is_there(exported, model):
    manifest = read_manifest(exported)
    assert manifest.model["weights"] == model.fingerprint()
    assert manifest.networks["map"].inputs == {"pixels": [1, 3, "32*h", "32*w"]}
    assert set(manifest.calibration) == set(model.calibration.state_dict())
    for name, entry in manifest.networks.items():
        data = (exported / file_name(name)).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry.sha256, entry.size)
        assert 0 <= entry.difference <= manifest.tolerance


def test_an_export_is_replaced_and_other_files_stay(exported, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "export_model", lambda model, folder, **_: _copy(exported, folder))
    out = tmp_path / "out"
    for _ in range(2):
        assert main(["export", "onnx", str(small), str(out)]) == 0
    assert "largest difference from torch" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["export", "onnx", str(small), str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def _copy(source: Path, folder: Path):
    for path in source.glob("*"):
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
    return read_manifest(folder)


def test_a_model_is_exported_once_and_again_where_that_is_damaged(exported, model, tmp_path, monkeypatch, caplog):
    made = []

    def fake(model, folder, **_):
        made.append(folder)
        return _copy(exported, folder)

    monkeypatch.setattr(export, "export_model", fake)
    monkeypatch.setattr("huggingface_hub.cached_assets_path", lambda *_: tmp_path)
    first = export.cached_export(model, proposer="graph")
    assert export.cached_export(model, proposer="graph").folder == first.folder
    assert len(made) == 1
    with (first.folder / "crops.onnx").open("ab") as handle:
        handle.write(b"x")
    assert export.cached_export(model, proposer="graph").files == first.files
    assert len(made) == 2
    assert "exported again" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]


def test_an_export_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.cached_assets_path", lambda *_: tmp_path)
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"no graph")
    with pytest.raises(CheckpointError, match=r"cannot be loaded by ONNX Runtime"):
        export.cached_export(model, proposer="graph")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_differs_is_not_kept(model, exported, tmp_path, monkeypatch):
    data = (exported / "crops.onnx").read_bytes()
    monkeypatch.setattr(export, "to_onnx", lambda *_: data)
    other = networks_of(TinyMatch(model.config).eval(), "graph")["crops"]
    with pytest.raises(CounterviewError, match=r"differs from torch; found .*; expected at most 0\.0001"):
        export._export(other, tmp_path)


def edit(folder: Path, **values: object) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, **values}))


def rehash(folder: Path, name: str) -> None:
    networks = json.loads((folder / MANIFEST).read_text())["networks"]
    networks[name]["sha256"] = hashlib.sha256((folder / file_name(name)).read_bytes()).hexdigest()
    edit(folder, networks=networks)


def changed_graph(folder: Path, change) -> None:
    proto = onnx.load(folder / "crops.onnx")
    change(proto)
    (folder / "crops.onnx").write_bytes(proto.SerializeToString())
    rehash(folder, "crops")


def _external(proto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _branch(proto) -> None:
    inner = onnx.helper.make_graph([], "inner", [], [])
    proto.graph.node.append(onnx.helper.make_node("If", ["pixels"], ["x"], then_branch=inner, else_branch=inner))


DAMAGE = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "no such file"),
    "not JSON": (lambda f: (f / MANIFEST).write_text("{"), "not JSON"),
    "another format": (lambda f: edit(f, format="zip"), "is not a manifest"),
    "a later version": (lambda f: edit(f, format_version=9), "another version"),
    "an unknown key": (lambda f: edit(f, more=1), "is damaged"),
    "an unknown network": (lambda f: edit(f, networks={"../x": _ENTRY}), "not Counterview's"),
    "hashes of no text": (lambda f: edit(f, networks={"crops": {**_ENTRY, "sha256": 3}}), "no hashes"),
    "a network less": (lambda f: edit(f, networks={}), "is missing"),
    "no file": (lambda f: (f / "crops.onnx").unlink(), "no such file"),
    "another file": (lambda f: (f / "crops.onnx").write_bytes(b"x"), "was replaced"),
    "no graph": (lambda f: ((f / "crops.onnx").write_bytes(b"\xff" * 9), rehash(f, "crops")), "not a readable file"),
    "a file elsewhere": (lambda f: changed_graph(f, _external), "refers to other files"),
    "a branch": (lambda f: changed_graph(f, _branch), "graph within its graph"),
    "other outputs": (lambda f: changed_graph(f, lambda p: setattr(p.graph.output[0], "name", "y")), "other inputs"),
}
_ENTRY = {"sha256": "0", "size": 1, "source": "0", "inputs": {}, "outputs": [], "difference": 0.0}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_strange_folder_is_refused(damage, copied, model):
    change, message = DAMAGE[damage]
    change(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        OnnxNetworks(model, copied, proposer="graph")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_out_of_the_folder_is_refused(copied, exported, model):
    (copied / "crops.onnx").unlink()
    (copied / "crops.onnx").symlink_to(exported / "crops.onnx")
    with pytest.raises(CheckpointError, match="is a link out"):
        OnnxNetworks(model, copied, proposer="graph")
    assert model_file(exported, "crops.onnx").is_file()


def test_the_export_of_another_model_is_refused(exported, model):
    with pytest.raises(CheckpointError, match="exported from other weights"):
        OnnxNetworks(TinyMatch(model.config).eval(), exported, proposer="graph")


def test_the_export_for_another_proposer_is_refused(exported, small, capsys):
    with pytest.raises(CheckpointError, match="boundary is missing"):
        counterview.load(small, proposals="tiny", runtime=f"onnx:{exported}")


def test_devices(monkeypatch):
    import onnxruntime

    assert providers_for("cpu") == ["CPUExecutionProvider"]
    with pytest.raises(ConfigError, match="does not have this device"):
        providers_for("mps")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        providers_for("cuda")
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    assert providers_for("auto") == providers_for("cuda:0") == both


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_bundled_model_on_the_bundled_pair(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.cached_assets_path", lambda *_: tmp_path)
    pair = load_pair()
    plain, other = (counterview.load("tiny-match", device="cpu", runtime=r) for r in ("torch", "onnx"))
    assert other.proposer.settings()["runtime"] == "onnx"
    arguments = (pair.near.image, dict(pair.near.masks), pair.far.image)
    for a, b in zip(plain.match(*arguments), other.match(*arguments), strict=True):
        assert iou(a.mask_rle, b.mask_rle) > 0.99
        assert abs(a.similarity - b.similarity) < 1e-3
        assert abs(a.visibility - b.visibility) < 1e-2
