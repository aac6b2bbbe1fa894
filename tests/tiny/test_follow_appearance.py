"""Fine features of many tracks, their comparison, and the prompt that is made of it."""

import torch

from counterview.tiny.appearance import AppearancePrompt, FineMaps, likeness, mean_under
from tests.lmeec.lmeec_fill import fill
from tests.tiny.follow_scratch import coloured, scratch


def unit(name):
    """Unit features of eight channels, and objectness."""
    values = fill(name, (1, 9, 4, 4))
    return torch.cat([torch.nn.functional.normalize(values[:, :-1], dim=1), values[:, -1:]], dim=1)


def test_likeness_is_the_cosine_with_the_mean_under_the_mask_and_objectness():
    query, target = unit("q"), unit("t")
    of_query, of_target = FineMaps.of(query), FineMaps.of(target)
    mask = torch.zeros(1, 16, 16)
    mask[0, 0:4, 0:8] = 1  # two full cells
    mask[0, 4, 0:4] = 1  # a quarter of a third, which is too little
    mean = torch.nn.functional.normalize(query[0, :-1, 0, 0] + query[0, :-1, 0, 1], dim=0)
    torch.testing.assert_close(mean_under(of_query, mask)[0], mean)
    expected = torch.einsum("c,chw->hw", mean, target[0, :-1]) + target[0, -1] / 10
    torch.testing.assert_close(likeness(of_query, mask, of_target)[0], expected)
    assert mean_under(of_query, torch.zeros_like(mask)).abs().max() == 0
    # The prompt's two channels: five times the cosine alone, and how far below the best cell with objectness.
    cosine = torch.einsum("c,chw->hw", mean, target[0, :-1])
    compared = AppearancePrompt(16, query.shape[1] - 1).compare(of_query, mask, of_target)[0]
    torch.testing.assert_close(compared, torch.stack([5 * cosine, 10 * (expected - expected.max())]))


def test_tracks_read_maps_as_if_each_had_a_copy():
    maps, rows = fill("m", (3, 5, 4, 4)).requires_grad_(), torch.tensor([2, 0, 2, 2])  # the second image has none
    fine, shares, ways = FineMaps(maps, rows), fill("s", (4, 4, 4)), fill("w", (4, 2, 5))
    under, along = fine.under(shares), fine.along(ways)
    (under.sum() + (along**2).sum()).backward()
    copies = maps.detach()[rows].requires_grad_()
    by_copies = torch.einsum("nchw,nhw->nc", copies, shares), torch.einsum("nkc,nchw->nkhw", ways, copies)
    (by_copies[0].sum() + (by_copies[1] ** 2).sum()).backward()
    torch.testing.assert_close((under, along), by_copies)
    torch.testing.assert_close(maps.grad, torch.zeros_like(maps).index_add(0, rows, copies.grad))
    again = FineMaps.join([fine, FineMaps.of(copies.detach())]).pick([1, 5])
    torch.testing.assert_close(again.along(ways[:2])[1], torch.einsum("kc,chw->khw", ways[1], copies[1]))
    nothing = FineMaps(maps, rows[:0])
    assert nothing.along(ways[:0]).shape == (0, 2, 4, 4)
    assert nothing.under(shares[:0]).shape == (0, 5)


def test_the_prompt_is_given_where_a_query_mask_is_and_reaches_all_resolutions():
    model = scratch()
    batch = coloured()
    with torch.no_grad():
        query, target = (
            model.encode_images(v[0].permute(0, 3, 1, 2).float() / 255)
            for v in (batch.query_images, batch.target_images)
        )
        target, masks = target.pick([0, 0, 0]), batch.query_masks[:, 0]
        fine = query.extra.pick([0, 0, 0])
        plain = model.decode(target.top, target).all_logits
        assert torch.equal(plain, model.decode(target.top, target, masks).all_logits)
        assert (plain - model.decode(target.top, target, masks, fine).all_logits).abs().max() > 0.1
        # Colours alone find each disc.
        comparison = model.appearance.compare(fine, masks, target.extra)
        best = comparison[:, 0].flatten(1).argmax(dim=1)
        truth = torch.nn.functional.avg_pool2d(batch.target_masks[:, 0].float()[:, None], 4).flatten(1)
        assert (truth[torch.arange(3), best] > 0.5).all()
        assert comparison[:, 1].amax(dim=(1, 2)).abs().max() == 0
    # They are where the mask begins.
    start = model.decode(target.top, target, masks, fine).all_logits[:, 0]
    assert (start[truth.view(3, 16, 16) > 0.5] > start[truth.view(3, 16, 16) == 0].mean()).all()
    prompts = AppearancePrompt(64, 16).prompts(comparison)
    assert [tuple(p.shape) for p in prompts] == [(3, 64, 4, 4), (3, 16, 8, 8), (3, 8, 16, 16)]
