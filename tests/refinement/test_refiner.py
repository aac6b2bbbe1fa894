import numpy as np
import pytest
import torch

from counterview.errors import CheckpointError, MaskError
from counterview.geometry.windows import paste_logits
from counterview.masks.geometry import iou
from counterview.proposals.boundary import folded
from counterview.refinement.base import Proposed
from counterview.refinement.evidence import CHANNELS, SIZE, QueryColours, refining_window
from counterview.refinement.network import RefinerNet
from counterview.refinement.refiner import MaskRefiner, load_refiner
from counterview.types import ObjectMask
from tests.refinement.conftest import rectangle


def proposed_of(scene):
    image, half, others = scene
    return Proposed(half, QueryColours.of(image, others[0]), others, np.array([1.0, 0.1]))


def constant(drawn_iou, proposed_iou):
    """A network that draws what is proposed, and predicts these IoUs."""
    net = RefinerNet().eval()
    with torch.no_grad():
        for tensor in (net.out.weight, net.out.bias, net.judge[-1].weight):
            tensor.zero_()
        net.judge[-1].bias.copy_(torch.logit(torch.tensor([drawn_iou, proposed_iou])))
    return net


def test_a_network_that_changes_nothing_draws_what_is_proposed(scene):
    (refined,) = MaskRefiner(constant(0.8, 0.7))(scene[0], [proposed_of(scene)])
    assert refined.mask == scene[1]
    assert refined.drawn_iou == pytest.approx(0.8)
    assert refined.proposed_iou == pytest.approx(0.7)
    assert MaskRefiner(constant(0.8, 0.7))(scene[0], []) == []


def test_what_is_predicted_to_be_worse_is_not_taken(scene):
    net = constant(0.6, 0.7)
    with torch.no_grad():
        net.out.bias.fill_(10)
    (kept,) = MaskRefiner(net)(scene[0], [proposed_of(scene)])
    assert kept.mask == scene[1]
    with torch.no_grad():
        net.judge[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    (drawn,) = MaskRefiner(net)(scene[0], [proposed_of(scene)])
    everything = paste_logits(np.ones((SIZE, SIZE), np.float32), refining_window(scene[1]), scene[1].size_hw)
    assert drawn.mask == everything
    with torch.no_grad():
        net.out.bias.fill_(-10)
    (nothing,) = MaskRefiner(net)(scene[0], [proposed_of(scene)])
    assert nothing.mask == scene[1], "an empty drawing is no answer"


def test_batch_norms_are_folded_into_the_same_network():
    torch.manual_seed(0)
    trained = RefinerNet(train=True)
    maps = torch.rand(4, len(CHANNELS), SIZE, SIZE)
    for _ in range(3):
        trained(maps)
    trained.eval()
    plain = RefinerNet().eval()
    plain.load_state_dict(folded(trained))
    with torch.inference_mode():
        for one, other in zip(trained(maps), plain(maps), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize(
    ("box", "votes"),
    [((60, 40, 90, 60), True), ((60, 40, 90, 72), True), ((52, 34, 98, 86), True), ((60, 40, 90, 72), False)],
    ids=["a half", "a piece is missing", "too large", "without votes"],
)
def test_the_bundled_network_finds_the_outline(scene, box, votes):
    image, _, (whole, elsewhere) = scene
    mask = rectangle(*box)
    others, weights = ([mask, whole, elsewhere], [1.0, 1.0, 0.1]) if votes else ([], [])
    (refined,) = MaskRefiner()(image, [Proposed(mask, QueryColours.of(image, whole), others, np.array(weights))])
    assert iou(mask, whole) <= 0.8
    assert iou(refined.mask, whole) > 0.88
    assert refined.drawn_iou > refined.proposed_iou


def test_objects_are_drawn_as_they_are_alone(scene):
    one, other = proposed_of(scene), Proposed(scene[2][1], proposed_of(scene).query, [], np.zeros(0))
    together = MaskRefiner()(scene[0], [one, other])
    alone = [MaskRefiner()(scene[0], [item])[0] for item in (one, other)]
    assert [r.mask for r in together] == [r.mask for r in alone]
    with pytest.raises(MaskError):
        MaskRefiner()(scene[0], [Proposed(ObjectMask.empty(scene[1].size_hw), one.query, [], np.zeros(0))])


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "hashes.json").write_text('{"refiner.safetensors": "0"}')
    (tmp_path / "refiner.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        load_refiner(tmp_path)
