"""The published optimiser, parameter by parameter: learning rates, weight decay, and stochastic depth."""

import dataclasses
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from counterview.errors import ConfigError
from counterview.lmeec.training import task as training
from counterview.lmeec.training.drop_path import DropPath, add_drop_path, drop_path_rates
from counterview.lmeec.training.groups import lr_scale
from counterview.lmeec.training.recipe import AugmentConfig, ClipDataConfig, LMEECRecipe, OptimConfig
from counterview.lmeec.training.samples import collate
from counterview.lmeec.training.task import LMEECTask
from counterview.tiny.follow import TinyFollow
from counterview.training.fit import fit
from counterview.training.recipe import TrainingConfig, load_recipe
from tests.lmeec.lmeec_fill import small_config, small_model
from tests.lmeec.lmeec_takes import disc_dataset
from tests.tiny.follow_scratch import scratch_config

RECIPES = Path(__file__).parent.parent.parent / "recipes" / "lmeec"
OPTIM = load_recipe(RECIPES / "released-ego2exo.yaml").config.optim
SIDE = 64


@pytest.fixture
def discs(monkeypatch):
    monkeypatch.setattr(training, "open_dataset", lambda root, split=None: disc_dataset(2))
    monkeypatch.setattr(training, "open_datasets", lambda roots, split=None: disc_dataset(2))


def recipe(start, optim=OPTIM, **data):
    return LMEECRecipe(
        ClipDataConfig("discs", clip_frames=3, max_objects=1, absent=False, **data),
        small_config(dropout=0.0),
        init_from=start,
        augment=AugmentConfig(),
        optim=dataclasses.replace(optim, recompute=False),
    )


# -------------------------------------------------------------------------------------- rates and decay


@pytest.fixture
def grouped(discs, tmp_path):
    """Learning rate and weight decay by parameter name, and the model, of the released recipe on a small Hiera."""

    def group(optim):
        task = LMEECTask(recipe(str(small_model().save_pretrained(tmp_path / "start")), optim))
        model = task.build_model()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = task.parameter_groups(model, 5e-6, 0.1)
        found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
        assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
        assert len(found) == sum(len(g["params"]) for g in groups)
        return found, model

    return group


def test_the_learning_rate_of_every_parameter(grouped):
    found, model = grouped(OPTIM)
    blocks = len(model.sam.vision_encoder.backbone.blocks)
    assert blocks == 5
    counts = Counter()
    for name, (lr, _) in found.items():
        encoder, backbone = name.startswith("sam.vision_encoder."), ".backbone." in name
        if not encoder:
            part, expected = "others", 5e-6
        elif not backbone:
            part, expected = "neck", 3e-6
        elif "pos_embed" in name:
            part, expected = "positions", 3e-6
        elif "patch_embed" in name:
            part, expected = "patches", 3e-6 * 0.9**6
        else:
            block = int(re.fullmatch(r"sam\.vision_encoder\.backbone\.blocks\.(\d)\..*", name)[1])
            part, expected = f"block {block}", 3e-6 * 0.9 ** (blocks - block)
        assert lr == pytest.approx(expected, rel=1e-12), name
        counts[part] += 1
    assert counts["positions"] == 2
    assert set(counts) == {"others", "neck", "positions", "patches", *(f"block {i}" for i in range(5))}


def test_the_learning_rate_of_position_embeddings_in_base_plus():
    name = "sam.vision_encoder.backbone.pos_embed"
    for end in ("", "_window"):
        assert 5e-6 * lr_scale(name + end, OPTIM, 24) == pytest.approx(3e-6)
        assert 5e-6 * lr_scale(name + end, OptimConfig(), 24) == pytest.approx(2.15e-7, rel=2e-3)
    first, last = (f"sam.vision_encoder.backbone.blocks.{i}.attn.qkv.weight" for i in (0, 23))
    assert 5e-6 * lr_scale(first, OPTIM, 24) == pytest.approx(3e-6 * 0.9**24)
    assert 5e-6 * lr_scale(last, OPTIM, 24) == pytest.approx(2.7e-6)


def test_the_weight_decay_of_every_parameter(grouped):
    """SAM 2's rule by the names of SAM 2's modules: ``LayerNorm`` is in Hiera and in both transformers.

    The mask decoder's upscaling and the memory encoder have ``LayerNorm2d``.
    """
    found, _ = grouped(OPTIM)
    norm = re.compile(
        r"sam\.(vision_encoder\.backbone\.blocks\.\d+\.layer_norm[12]"
        r"|memory_attention\.(layers\.\d+\.layer_norm[123]|layer_norm)"
        r"|mask_decoder\.transformer\.(layers\.\d+\.layer_norm[1234]|layer_norm_final_attn))\.(weight|bias)"
    )
    for name, (_, decay) in found.items():
        expected = 0.0 if norm.fullmatch(name) or name.endswith(".bias") else 0.1
        assert decay == expected, name
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert {
        "sam.mask_decoder.upscale_layer_norm.weight",
        "sam.memory_encoder.mask_downsampler.layers.0.layer_norm.weight",
        "sam.memory_encoder.memory_fuser.layers.1.layer_norm.weight",
        "sam.memory_encoder.memory_fuser.layers.1.scale",
        "sam.vision_encoder.backbone.pos_embed",
        "sam.vision_encoder.backbone.pos_embed_window",
        "sam.memory_temporal_positional_encoding",
        "sam.no_object_pointer",
        "sam.mask_decoder.iou_token.weight",
        "fusion.conv1.0.weight",
    } <= decayed
    before, _ = grouped(dataclasses.replace(OPTIM, no_decay="vectors"))
    more = {name for name in decayed if not before[name][1]}
    assert more == {
        name for name in found if re.search(r"(upscale_layer_norm|memory_encoder.*layer_norm)\.weight|\.scale", name)
    }
    assert len(more) == 9
    assert not {name for name, (_, decay) in before.items() if decay} - decayed


# --------------------------------------------------------------------------------------- stochastic depth


def backbone_of(model):
    return model.sam.vision_encoder.backbone


def test_rates_rise_linearly_over_the_blocks():
    assert drop_path_rates(0.1, 24) == pytest.approx(torch.linspace(0, 0.1, 24).tolist())
    assert drop_path_rates(0.1, 1) == [0.0]


def test_every_block_drops_whole_images_of_either_branch_at_its_rate():
    model = small_model().train()
    backbone = backbone_of(model)
    names = list(model.state_dict())
    add_drop_path(backbone, 0.4)
    assert list(model.state_dict()) == names
    count = 600
    torch.manual_seed(0)
    images = torch.randn(count, 3, 32, 32)
    outputs = []
    for block in backbone.blocks:
        for branch in (block.attn, block.mlp):
            branch.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    with torch.no_grad():
        backbone(images)
    assert len(outputs) == 10
    for number, rate in enumerate((0.0, 0.1, 0.2, 0.3, 0.4)):
        dropped = []
        for output in outputs[2 * number : 2 * number + 2]:
            windows = output.reshape(count, -1, *output.shape[1:])  # image by image
            zero = ~windows.flatten(2).any(dim=2)
            assert torch.equal(zero.all(dim=1), zero.any(dim=1)), "all windows of an image, or none"
            dropped.append(zero[:, 0])
            spread = math.sqrt(rate * (1 - rate) / count)
            assert abs(float(dropped[-1].float().mean()) - rate) <= 4 * spread
        assert (number == 0) == bool(torch.equal(*dropped)), "either branch by itself"
    # Several windows an image in the first stages.
    assert outputs[2].shape[0] > count


def test_what_is_dropped_leaves_the_residual_and_what_is_kept_grows():
    block = backbone_of(small_model()).blocks[3]
    torch.manual_seed(0)
    x = torch.randn(64, 4, 4, 64)
    with torch.no_grad():
        attended, full = block.attn(block.layer_norm1(x)), block(x)
        DropPath(block, 0.5)
        assert torch.equal(block(x), full)  # in eval mode
        middles = []
        hook = block.layer_norm2.register_forward_pre_hook(lambda module, arguments: middles.append(arguments[0]))
        result = block.train()(x)
        hook.remove()
        [middle] = middles
        forwarded = block.eval().mlp(block.layer_norm2(middle))
    kinds = set()
    for i in range(64):
        left = [torch.equal(middle[i], x[i]), torch.equal(result[i], middle[i])]
        torch.testing.assert_close(middle[i], x[i] if left[0] else x[i] + 2 * attended[i])
        torch.testing.assert_close(result[i], middle[i] if left[1] else middle[i] + 2 * forwarded[i])
        kinds.add(tuple(left))
    assert len(kinds) == 4  # either branch by itself


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_evaluation_and_a_rate_of_zero_change_nothing(rate):
    plain, other = small_model(), small_model()
    add_drop_path(backbone_of(other), rate)
    images = torch.randn(3, 3, SIDE, SIDE)
    for mode in ("eval", "train") if rate == 0 else ("eval",):
        results = []
        for model in (plain, other):
            torch.manual_seed(5)
            features = getattr(model, mode)().encode_images(images)
            results.append((features.top, features.half, features.quarter, torch.rand(1)))  # no number was drawn
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def gradients(task, model, batch, seed):
    torch.manual_seed(seed)
    model.zero_grad()
    loss, _ = task.loss(model, batch)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_recomputed_activations_are_those_of_the_same_draw(discs, tmp_path):
    start = str(small_model().save_pretrained(tmp_path / "start"))
    optim = dataclasses.replace(OPTIM, drop_path=0.5)
    tasks = [LMEECTask(recipe(start, optim)) for _ in range(2)]
    again = dataclasses.replace(optim, recompute=True, recompute_images=16)
    tasks[1].config = dataclasses.replace(tasks[1].config, optim=again)
    batch = collate([tasks[0].sample(0, i, np.random.default_rng(i)) for i in range(2)])
    results = []
    for task in tasks:
        model = task.build_model().train()
        results.append([gradients(task, model, batch, seed) for seed in (1, 1, 2)])
    (kept, kept_again, kept_other), (redone, redone_again, _) = results
    for one, two in ((kept, kept_again), (kept, redone), (redone, redone_again)):
        assert one[0] == two[0]
        assert one[1].keys() == two[1].keys()
        for name in one[1]:
            torch.testing.assert_close(one[1][name], two[1][name], rtol=1e-5, atol=1e-7, msg=name)
    assert kept_other[0] != kept[0]


def test_the_same_run_gives_the_same_bytes(discs, tmp_path):
    start = str(small_model().save_pretrained(tmp_path / "start"))
    config = TrainingConfig(epochs=1, max_steps=2, batch_size=2, lr=1e-3, trackers=(), device="cpu")
    optim = dataclasses.replace(OPTIM, drop_path=0.5)
    weights = []
    for name, of_run in (("a", optim), ("b", optim), ("without", dataclasses.replace(optim, drop_path=0.0))):
        fit(LMEECTask(recipe(start, of_run, val_takes=1, val_frames=2)), config, tmp_path / name, progress=False)
        weights.append(load_file(tmp_path / name / "checkpoints" / "step_00000002" / "model.safetensors"))
    a, b, without = weights
    assert a.keys() == b.keys() == without.keys() == small_model().state_dict().keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], without[name]) for name in a)


def test_other_encoders_have_no_stochastic_depth():
    model = TinyFollow(scratch_config())
    add_drop_path(backbone_of(model), 0.0)
    with pytest.raises(ConfigError, match=r"stochastic depth is for Hiera.*drop_path to 0"):
        add_drop_path(backbone_of(model), 0.1)
