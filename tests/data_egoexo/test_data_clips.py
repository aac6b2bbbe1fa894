"""Clips: consecutive frames with masks in both views, and draws that depend on seed, epoch and index alone."""

from __future__ import annotations

from collections import Counter

import pytest

from counterview.data.clips import ClipSampler, ClipSource, clip_sources, enumerate_clips
from counterview.data.dataset import Dataset
from counterview.data.open import open_dataset
from counterview.errors import InputError
from tests.data_egoexo.release_maker import EGO, EXO, PORTRAIT, TakeSpec, annotation_of, make_release


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """14 annotated frames a take; cam01 does not see the objects at 60 and 90. No videos are needed."""
    root = tmp_path_factory.mktemp("clips")
    specs = [
        TakeSpec(f"u{i}", f"n{i}", frames=14 * 30, objects=("a", "b", "c/d", "e"), absent={EXO: [60, 90]})
        for i in range(2)
    ]
    make_release(root, [])
    (root / "takes.json").unlink()  # it lists no take
    import json

    content = {"annotations": {spec.uid: annotation_of(spec) for spec in specs}}
    (root / "annotations" / "relations_val.json").write_text(json.dumps(content))
    return open_dataset(root, "val")


def test_sources_hold_the_frames_seen_in_both(dataset: Dataset) -> None:
    sources = clip_sources(dataset, "ego2exo", need_images=False)
    assert len(sources) == 2 * 4 * 2
    by_camera = {s.target_camera: s for s in sources if (s.take, s.object) == ("u0", "c/d")}
    assert by_camera[EXO].frames == tuple(f for f in range(0, 420, 30) if f not in (60, 90))
    assert by_camera[PORTRAIT].frames == tuple(range(0, 420, 30))
    assert {s.query_camera for s in sources} == {EGO}
    back = clip_sources(dataset, "exo2ego", need_images=False)
    assert {s.target_camera for s in back} == {EGO}
    assert clip_sources(dataset, "ego2exo") == []  # there are no videos


def test_absent_targets_come_along_when_asked_for(dataset: Dataset) -> None:
    sources = clip_sources(dataset, "ego2exo", targets="annotated", need_images=False)
    source = next(s for s in sources if s.target_camera == EXO)
    assert source.frames == tuple(range(0, 420, 30))
    clip = next(enumerate_clips([source]))
    assert clip.frames == tuple(range(0, 240, 30))
    assert clip.target_visible == ((True, True, False, False, True, True, True, True),)
    # In the other direction the query has no mask there, so there is nothing to ask with.
    back = clip_sources(dataset, "exo2ego", targets="annotated", need_images=False)
    assert next(s for s in back if s.query_camera == EXO).frames == tuple(
        f for f in range(0, 420, 30) if f not in (60, 90)
    )


def test_enumeration_covers_every_frame(dataset: Dataset) -> None:
    sources = clip_sources(dataset, "ego2exo", need_images=False)
    for source in sources:
        clips = list(enumerate_clips([source]))
        assert {f for c in clips for f in c.frames} == set(source.frames)
        assert all(len(c.frames) == 8 for c in clips)
        starts = [source.frames.index(c.frames[0]) for c in clips]
        assert all(c.frames == source.frames[s : s + 8] for c, s in zip(clips, starts, strict=True))
        assert starts == [0, len(source.frames) - 8]
        assert len(list(enumerate_clips([source], stride=1))) == len(source.frames) - 7


def test_draws_are_a_pure_function(dataset: Dataset) -> None:
    sources = clip_sources(dataset, "ego2exo", need_images=False)
    one, two = ClipSampler(sources, seed=3), ClipSampler(sources, seed=3)
    forward = [one.clip(1, i) for i in range(len(one))]
    assert [two.clip(1, i) for i in reversed(range(len(two)))][::-1] == forward
    assert [ClipSampler(sources, seed=4).clip(1, i) for i in range(len(one))] != forward
    assert one.clip(1, len(one)) == one.clip(2, 0)
    # Each source leads once an epoch.
    assert len({(c.take, c.target_camera, c.objects[0]) for c in forward}) == len(sources)


def test_draws_are_fair(dataset: Dataset) -> None:
    """Over many epochs all starts of one source come about equally often, and so do its companions."""
    sampler = ClipSampler(clip_sources(dataset, "ego2exo", need_images=False), seed=1, max_objects=3)
    starts: Counter[int] = Counter()
    others: Counter[str] = Counter()
    for epoch in range(700):
        for index in range(len(sampler)):
            clip = sampler.clip(epoch, index)
            assert len(clip.objects) == 3 == len(set(clip.objects))
            if (clip.take, clip.target_camera, clip.objects[0]) == ("u0", PORTRAIT, "a"):
                starts[clip.frames[0] // 30] += 1
                others.update(clip.objects[1:])
    assert sum(starts.values()) == 700
    assert set(starts) == set(range(7))
    assert all(65 < n < 140 for n in starts.values()), starts  # 100 expected, standard deviation 9
    assert all(400 < others[name] < 540 for name in ("b", "c/d", "e")), others  # 467 expected


def test_every_source_may_be_visited_twice_an_epoch_with_independent_starts(dataset: Dataset) -> None:
    sources = clip_sources(dataset, "ego2exo", need_images=False)
    sampler = ClipSampler(sources, seed=2, max_objects=1, clips_per_source=2)
    assert len(sampler) == 2 * len(sources)
    same = pairs = 0
    for epoch in range(100):
        starts: dict[tuple[str, str, str], list[int]] = {}
        for index in range(len(sampler)):
            clip = sampler.clip(epoch, index)
            starts.setdefault((clip.take, clip.target_camera, clip.objects[0]), []).append(clip.frames[0])
        assert len(starts) == len(sources)
        assert all(len(of_source) == 2 for of_source in starts.values())
        of_seven = [of_source for key, of_source in starts.items() if key[1] == PORTRAIT]
        pairs += len(of_seven)
        same += sum(first == second for first, second in of_seven)
    assert pairs == 800
    assert 75 < same < 155, same  # 114 expected of 7 starts each, standard deviation 10
    assert sampler.clip(0, len(sampler)) == sampler.clip(1, 0)
    with pytest.raises(InputError, match="at least one clip of every source"):
        ClipSampler(sources, clips_per_source=0)


def test_further_objects_are_visible_in_the_clip() -> None:
    """An object that is usable in every frame of a clip, but visible in none, has nothing to follow."""
    frames = tuple(range(0, 330, 30))
    cup, lid = (
        ClipSource("u", EGO, EXO, name, frames, frozenset(visible))
        for name, visible in (("cup", frames), ("lid", [300]))
    )
    sampler = ClipSampler([cup, lid], length=4)
    clips = [sampler.clip(epoch, index) for epoch in range(40) for index in range(2)]
    of_cup = [clip for clip in clips if clip.objects[0] == "cup"]
    assert len({clip.frames for clip in of_cup}) > 4
    assert all(("lid" in clip.objects) == (300 in clip.frames) for clip in of_cup)


def test_too_little_to_cut_from(dataset: Dataset) -> None:
    assert clip_sources(dataset, "ego2exo", length=15, need_images=False) == []
    with pytest.raises(InputError, match="no clip of 15 frames"):
        ClipSampler(clip_sources(dataset, "ego2exo", need_images=False), length=15)
    with pytest.raises(InputError, match="no clip of 8 frames"):
        ClipSampler([])
    with pytest.raises(InputError, match="no such choice"):
        clip_sources(dataset, "ego2exo", targets="official")
