"""Fusion, compression and preprocessing against the outputs of the official modules."""

import numpy as np
import pytest
import torch

from counterview.errors import ImageError, InputError, MaskError
from counterview.lmeec import preprocess
from counterview.lmeec.constants import constant
from counterview.lmeec.fusion import Concat, MVMoE, Sum, build_fusion
from counterview.lmeec.memory import MemoryBank, PointerBank, compress, shorten
from counterview.lmeec.preprocess import as_mask, soft_mask, to_native, to_native_sizes, to_pixels, to_query_mask
from counterview.types import ObjectMask
from tests.lmeec.lmeec_fill import disc, fill, uniform


@pytest.mark.parametrize("case", ["moe256", "moe16"])
def test_moe_equals_the_official_module(units, case):
    description, arrays = units
    d = description[case]
    moe = MVMoE(d["C"])
    prefix = f"{case}.MV_MoE."
    moe.load_state_dict(
        {p["name"].removeprefix(prefix): fill(p["name"], p["shape"], p["scale"], p["offset"]) for p in d["parameters"]}
    )
    shape = (d["B"], d["C"], d["H"], d["W"])
    memory, view = (fill(f"{case}/{name}", shape, 2) for name in ("memory_fused", "view_guided"))
    with torch.no_grad():
        single = moe(memory, view)
        moe.double()
        double = moe(memory.double(), view.double())
        gates = moe.gates(memory.double(), view.double())
    np.testing.assert_allclose(double, arrays[f"{case}/output_f64"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(single, arrays[f"{case}/output_f64"], rtol=0, atol=1e-5)
    for name, gate in zip(("mlp1", "mlp2", "conv1", "conv2"), gates, strict=True):
        np.testing.assert_allclose(gate, arrays[f"{case}/{name}_f64"], rtol=0, atol=1e-11)


def test_other_fusions():
    a, b = fill("a", (2, 8, 3, 3)), fill("b", (2, 8, 3, 3))
    assert torch.equal(Sum()(a, b), a + b)
    torch.testing.assert_close(Concat(8)(a, b), a + b)  # it starts as the sum
    with pytest.raises(InputError, match="moe, add or concat"):
        build_fusion("mixture", 8)


@pytest.mark.parametrize("case", ["compress_t7", "compress_t2", "compress_t7_c64"])
def test_compression_equals_the_official_function_and_the_papers_equation(units, case):
    description, arrays = units
    d = description[case]
    memory = fill(f"{case}/memory", (d["T"], d["N"], d["B"], d["C"]))
    expected = {"drop": "output", "merge": "averaged_would_be"}
    for how, name in expected.items():
        short, counts = compress(memory, how)
        # The reference has the batch first.
        np.testing.assert_array_equal(short.permute(2, 0, 1, 3), arrays[f"{case}/{name}"])
        assert counts.shape == short.shape[:-1]
    removed = arrays[f"{case}/dropped_frame_index"].T  # (N, B)
    dropped, _ = compress(memory, "drop")
    kept = torch.from_numpy(np.arange(d["T"])[:, None, None] != removed)
    assert torch.equal(
        dropped, memory.transpose(0, 2)[kept.transpose(0, 2)].view(d["B"], d["N"], -1, d["C"]).permute(2, 1, 0, 3)
    )


def test_first_of_equal_gaps_is_merged(units):
    d = units[0]["compress_all_gaps_equal"]
    memory = torch.tensor(d["input"])[:, None, None]
    assert compress(memory, "drop")[0].flatten().tolist() == d["output"]
    assert compress(memory, "merge")[0].flatten().tolist() == [0.5, 2, 3, 4, 5, 6]
    assert compress(memory, "fifo")[0].flatten().tolist() == [1, 2, 3, 4, 5, 6]


def test_one_frame_cannot_be_compressed():
    with pytest.raises(InputError, match="two frames"):
        compress(torch.zeros(1, 4, 8))


def test_weighted_merging_keeps_the_weight_of_every_frame():
    rng = torch.Generator().manual_seed(1)
    frames = torch.randn(12, 20, 4, generator=rng, dtype=torch.float64)
    memory, counts = frames[:7], torch.ones(7, 20, dtype=torch.float64)
    for t in range(7, 13):
        memory, counts = compress(memory, "weighted", counts)
        total = (memory * counts[..., None]).sum(0)
        torch.testing.assert_close(total, frames[:t].sum(0))  # nothing is lost, nothing counts twice
        assert (counts.sum(0) == t).all()
        if t < 12:
            memory = torch.cat([memory, frames[t][None]])
            counts = torch.cat([counts, torch.ones(1, 20, dtype=torch.float64)])


def test_one_pair_stays_free_however_many_frames_are_protected():
    memory = torch.tensor([0.0, 0.1, 10.0])[:, None, None]
    for protected in (1, 2, 5):
        short, counts = compress(memory, "weighted", protected=protected)
        assert short.flatten().tolist() == pytest.approx([0.0, 5.05])
        assert counts.flatten().tolist() == [1, 2]


def test_key_frames_are_never_merged():
    frames = [torch.randn(9, 4, generator=torch.Generator().manual_seed(i)) * 0.1 for i in range(30)]
    bank = MemoryBank(size=4, how="weighted", protected=2)
    for number, frame in enumerate(frames):
        bank.add(number, frame)
        assert torch.equal(bank.read(number + 1)[0], frames[0])
    assert torch.equal(bank.entries[1], frames[1])
    assert len(bank.entries) == 4
    assert torch.stack(bank.counts).sum(0).tolist() == [30.0] * 9


def test_bank_without_gaps_is_the_same_in_both_conventions():
    frames = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(15)]
    ours, released = (MemoryBank(6, "drop", gaps=g) for g in ("keep", "released"))
    for t, frame in enumerate(frames):
        a, b = ours.read(t), released.read(t)
        assert len(a) == min(t, 6)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        ours.add(t, frame)
        released.add(t, frame)


def test_released_bank_forgets_over_gaps_and_ours_does_not():
    def run(gaps, shown):
        bank = MemoryBank(6, "fifo", gaps=gaps)
        lengths, contents = {}, {}
        for t in shown:
            contents[t] = [int(e[0, 0]) for e in bank.read(t)]
            lengths[t] = len(contents[t])
            bank.add(t, torch.full((1, 1), float(t)))
        return lengths, contents

    # Frames 3 and 4 have no query mask: the window of six frame numbers holds four to five processed frames, and
    # after seven processed frames the bank stays as long as it was.
    lengths, contents = run("released", [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12])
    assert contents[6] == [0, 1, 2, 5]
    assert contents[8] == [2, 5, 6, 7]
    assert contents[9] == [5, 6, 7, 8]  # six processed before 8, seven before 9
    assert [lengths[t] for t in (9, 10, 11, 12)] == [4, 4, 4, 4]
    # After a gap the frame before it is never banked.
    _, contents = run("released", [*range(8), 10, 11])
    assert contents[10] == [1, 2, 3, 4, 5, 6]
    assert contents[11] == [2, 3, 4, 5, 6, 10]
    _, contents = run("keep", [*range(8), 10, 11])
    assert contents[10] == [2, 3, 4, 5, 6, 7]
    # A gap longer than the window leaves nothing; the official code then stops with an IndexError.
    _, contents = run("released", [*range(6), 20, 21, 22, 23])
    assert contents[20] == []
    assert contents[21] == [20]


@pytest.mark.parametrize("how", ["merge", "drop", "fifo", "weighted"])
def test_banks_that_are_shortened_together_are_as_each_alone(how):
    """Oracle: a bank at a time. Banks of other lengths and other cells go in groups of their own."""
    shapes = [(4, 6, 3), (4, 6, 3), (2, 6, 3), (4, 5, 3), (4, 6, 3)]

    def banks():
        result = []
        for number, (length, cells, channels) in enumerate(shapes):
            bank = MemoryBank(length - 1, how, protected=1)
            for t in range(length):
                assert bank.put(t, fill(f"{number}/{t}", (cells, channels))) == (t == length - 1)
                bank.counts[-1] = bank.counts[-1] + number
            result.append(bank)
        return result

    together, alone = banks(), banks()
    shorten(together)
    for bank, expected in zip(together, alone, strict=True):
        shorten([expected])
        assert bank.numbers == expected.numbers == list(range(1, expected.size + 1))
        assert torch.equal(torch.stack(bank.entries), torch.stack(expected.entries))
        assert torch.equal(torch.stack(bank.counts), torch.stack(expected.counts))
    first, second = (bank.entries[0].untyped_storage() for bank in together[:2])
    assert first.data_ptr() != second.data_ptr(), "no bank keeps another one's memory alive"


def test_constants_follow_their_weights():
    layer, made = torch.nn.Linear(3, 3), []

    def value():
        def compute():
            made.append(layer.weight.sum())
            return made[-1]

        return constant(layer, "sum", [layer.weight], compute)

    with torch.inference_mode():
        assert value() is value()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert value() is value()
    assert len(made) == 2
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode():
        assert value().item() == pytest.approx(layer.weight.sum().item())
    layer.weight = torch.nn.Parameter(torch.ones(3, 3))
    with torch.inference_mode():
        assert value().item() == 9
    assert value().requires_grad, "outside inference nothing is kept"
    assert value() is not value()


def test_masks_of_several_sizes_are_as_each_alone(monkeypatch):
    monkeypatch.setattr(preprocess, "MAX_RESIZED_PX", 2 * 37 * 53)  # two at a time
    logits = fill("logits", (7, 12, 12))
    sizes = [(37, 53), (20, 9), (37, 53), (37, 53), (20, 9), (37, 53), (12, 12)]
    for mask, row, size in zip(to_native_sizes(logits, sizes), logits, sizes, strict=True):
        assert np.array_equal(mask, to_native(row, size))


def test_pointers_reach_back_a_fixed_distance():
    bank = PointerBank(reach=4)
    for t in (0, 1, 2, 5, 6):
        bank.add(t, torch.full((2,), float(t)))
    distances, pointers = bank.read(7)
    assert distances == [1, 2]
    assert [int(p[0]) for p in pointers] == [6, 5]
    assert len(bank.pointers) == 2  # older ones are gone for good
    assert PointerBank(reach=1).read(0) == ([], [])
    # SAM 2 counts the present frame: of sixteen frames fifteen are past ones.
    for reach in (1, 2, 16):
        bank = PointerBank(reach)
        for t in range(20):
            bank.add(t, torch.full((2,), float(t)))
        assert bank.read(20)[0] == list(range(1, reach))


@pytest.mark.parametrize("case", ["mask_704", "mask_2160x3840"])
def test_masks_are_resized_as_officially(units, case):
    if case == "mask_704":
        mask = disc((704, 704), 300, 350, 90) ^ disc((704, 704), 300, 350, 30)
    else:
        yy, xx = np.mgrid[:2160, :3840]
        mask = disc((2160, 3840), 2100, 900, 160) | (((xx // 7 + yy // 5) % 2 == 0) & (xx > 3000) & (yy > 1700))
    description, arrays = units
    d = description[case]
    assert mask.sum() == d["ones_before"]
    soft = soft_mask(mask, 480)
    np.testing.assert_allclose(soft[::16, ::16], arrays[f"{case}/soft_every16"], atol=1e-5)
    assert abs(float(soft.double().sum()) - d["soft_sum"]) < 0.5
    expected = np.unpackbits(arrays[f"{case}/resized480_packed"]).reshape(480, 480).astype(bool)
    differ = to_query_mask(mask, 480).bool().numpy() != expected
    assert (np.abs(soft.numpy()[differ] - 0.5) <= 1e-4).all()
    assert differ.sum() <= d["within_1e-4_of_half"]


def test_images_are_prepared_as_officially(units):
    image = np.floor(256 * uniform("preprocess/image", 540 * 960 * 3)).astype(np.uint8).reshape(540, 960, 3)
    x = np.arange(960).astype(np.uint8)[None, :, None]
    image[:, :480] = ((image // 64) * 20 + x % 50)[:, :480]
    result = to_pixels(image, 480)
    d, arrays = units
    np.testing.assert_allclose(result[:, ::12, ::12], arrays["preprocess/every12"], atol=1e-6)
    assert abs(float(result.double().mean()) - d["preprocess"]["mean"]) < 1e-6
    assert abs(float(result.double().std()) - d["preprocess"]["std"]) < 1e-5


def test_a_thin_mask_does_not_vanish():
    mask = np.zeros((2000, 2000), bool)
    mask[:, 1000] = True
    square = to_query_mask(mask, 480)
    assert square.sum() >= 480
    assert square[:, 200:280].sum() == square.sum()


def test_masks_and_images_are_checked():
    with pytest.raises(MaskError, match=r"'mug' has another size .* found 5x4; expected 4x5"):
        as_mask(np.ones((5, 4), bool), (4, 5), "mug")
    with pytest.raises(MaskError, match="not a boolean mask"):
        as_mask(np.ones((4, 5), np.uint8), (4, 5), "mug")
    with pytest.raises(ImageError, match="not an RGB array"):
        to_pixels(np.zeros((4, 5)), 32)
    assert as_mask(np.zeros((4, 5), bool), (4, 5), "mug") is None
    assert as_mask(ObjectMask.from_array(np.ones((4, 5), bool)), (4, 5), "mug").all()


def test_logits_become_a_mask_of_native_size():
    logits = torch.full((4, 4), -1.0)
    logits[:2] = 1.0
    mask = to_native(logits, (40, 24))
    assert mask.shape == (40, 24)
    assert mask[:20].all()
    assert not mask[20:].any()
