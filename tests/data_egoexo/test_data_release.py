"""The release read directly, and everything in it and in prepared folders that may be wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterview.data.dataset import Dataset
from counterview.data.formats.prepared import PreparedTake
from counterview.data.formats.release import ReleaseTake, video_candidates
from counterview.data.formats.takes_json import TakeFacts
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.errors import AnnotationError, CounterviewError, ImageError, InputError, MaskError, VideoError
from counterview.masks import rle
from counterview.media.video_source import VideoSource
from counterview.types import ObjectMask, Visibility
from tests.data_egoexo.release_maker import EGO, EXO, SIZES, TakeSpec, annotation_of, disc, make_release, read_number


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = [TakeSpec("a", "cook_1", cameras=(EGO, EXO)), TakeSpec("b", "cook_2", cameras=(EGO, EXO), split="train")]
    return make_release(tmp_path_factory.mktemp("release"), specs)


def test_takes_cameras_tracks(release: Path) -> None:
    assert open_dataset(release).uids == ("b", "a")  # train, val, test
    dataset = open_dataset(release, "val")
    assert (len(dataset), dataset.kind, dataset.uids) == (1, "release", ("a",))
    take = dataset.takes[0]
    assert take is dataset.take("a")
    assert (take.name, take.scenario) == ("cook_1", "Making tea")
    assert (take.ego_cameras, take.exo_cameras) == ((EGO,), (EXO,))
    track = take.track("bolt/nut_0", EXO)
    assert list(track.masks) == [0, 30, 90]
    assert track.masks[30] == disc(SIZES[EXO], 30)
    assert track.visibility(60) is Visibility.NOT_VISIBLE
    assert track.visibility(120) is Visibility.UNKNOWN
    assert take.mask("bolt/nut_0", EXO, 60) is None
    assert take.native_size(EGO) == SIZES[EGO]
    assert read_number(take.frame(EGO, 45)) == 45  # any frame, not only annotated ones


def test_opened_takes_are_few_and_do_not_travel(release: Path) -> None:
    dataset = open_dataset(release, kept_takes=1)
    first = dataset.take("a")
    dataset.take("b")
    assert dataset.take("a") is not first
    copy: Dataset = pickle.loads(pickle.dumps(dataset))  # to a worker
    assert copy.take("a").objects == first.objects
    assert [t.uid for t in dataset.takes[:1]] == ["b"]


def test_few_videos_are_open_whichever_takes_they_are_of(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterview.data.formats.open_videos.OPEN_VIDEOS", 3)
    dataset = open_dataset(release)
    uids = dataset.uids[:2]
    assert len(uids) == 2
    pools = {id(dataset.take(uid)._videos) for uid in uids}
    assert len(pools) == 1
    videos = dataset.take(uids[0])._videos
    for uid in (*uids, *uids):
        take = dataset.take(uid)
        for camera in take.cameras:
            assert read_number(take.frame(camera, 30)) == 30
            assert len(videos) <= 3
    first, second = (dataset.take(uid) for uid in uids)
    held = first.video(first.cameras[0])
    second.video(second.cameras[0])
    second.close()
    assert len(videos) >= 1
    assert first.video(first.cameras[0]) is held, "closing a take leaves the others' videos alone"
    first.close()
    assert len(videos) == 0


def test_announced_frames_are_the_same_and_decoded_once(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeks: list[int] = []
    packets = VideoSource.packets

    def counted(self: VideoSource, key: int, *args: Any) -> Any:
        seeks.append(key)
        return packets(self, key, *args)

    monkeypatch.setattr(VideoSource, "packets", counted)
    numbers = [0, 7, 8, 30, 31, 45, 60, 89]
    alone = {n: open_dataset(release, "val").takes[0].frame(EGO, n) for n in numbers}
    take = open_dataset(release, "val").takes[0]
    take.plan_reads({EGO: numbers, EXO: [0]})
    take.frame(EGO, 0)
    seeks.clear()
    for number in numbers:
        for _ in range(2):  # asked for again, as by another direction
            assert np.array_equal(take.frame(EGO, number), alone[number])
    groups = len({take.video(EGO)._group(take.video(EGO)._time(n)) for n in numbers})
    assert len(seeks) < groups <= len(numbers)  # the first group was begun before
    take.plan_reads({EGO: numbers})
    for number in (7, 45, 31, 8, 60, 2, 89):  # some left out, out of order, and not announced
        assert read_number(take.frame(EGO, number)) == number
    take.plan_reads({EGO: [30, 91]})
    assert read_number(take.frame(EGO, 30)) == 30
    with pytest.raises(VideoError, match="has no frame 91"):
        take.frame(EGO, 91)
    take.plan_reads({EGO: numbers})
    assert read_number(take.frame(EGO, 7)) == 7
    take.close()
    assert read_number(take.frame(EGO, 8)) == 8


def test_the_least_recently_used_take_is_dropped() -> None:
    opened: list[str] = []

    def open_take(uid: str) -> Any:
        opened.append(uid)
        return object()

    dataset = Dataset(Path("x"), "prepared", None, ["a", "b", "c"], open_take, kept_takes=2)
    for uid in ("a", "b", "a", "c", "a", "b"):
        dataset.take(uid)
    assert opened == ["a", "b", "c", "b"]  # c replaces b, which was used before a


def test_unknown_names_are_answered_with_the_nearest(release: Path) -> None:
    dataset = open_dataset(release, "val")
    with pytest.raises(InputError, match="no take 'aa'"):
        dataset.take("aa")
    with pytest.raises(AnnotationError, match="Did you mean 'bolt/nut_0'"):
        dataset.takes[0].track("bolt/nut_1", EGO)
    with pytest.raises(AnnotationError, match=f"Did you mean '{EXO}'"):
        dataset.takes[0].mask("mug 0", "cam1", 0)
    with pytest.raises(VideoError, match="has no frame 91"):
        dataset.takes[0].frame(EGO, 91)
    for split, message in (("test", "no annotation of split 'test'"), ("../val", "no annotation of split")):
        with pytest.raises(InputError, match=message):
            open_dataset(release, split)
    with pytest.raises(InputError, match="no such video size"):
        open_dataset(release, "val", height="720")


@pytest.mark.parametrize(
    ("camera", "there", "found"),
    [
        ("aria06_214-1", "frame_aligned_videos/aria06_214-1.mp4", True),
        ("aria01_rgb", "frame_aligned_videos/aria01_214-1.mp4", True),  # takes.json says rgb
        ("aria01_214-1", "frame_aligned_videos/aria01_rgb.mp4", True),
        ("gp03", "frame_aligned_videos/gp03.mp4", True),
        ("moblie", "frame_aligned_videos/moblie.mp4", True),
        ("cam01", "elsewhere/first.mp4", True),  # only takes.json knows
        ("cam01", "frame_aligned_videos/cam02.mp4", False),
    ],
)
@pytest.mark.parametrize("height", ["full", "448"])
def test_videos_are_found_by_rule(tmp_path: Path, camera: str, there: str, found: bool, height: str) -> None:
    path = tmp_path / "takes" / "n" / there
    if height == "448":
        path = path.parent / "downscaled" / "448" / path.name
    path.parent.mkdir(parents=True)
    path.touch()
    facts = TakeFacts("n", "takes/n", {"cam01_0": "elsewhere/first.mp4", "cam01": "elsewhere/first.mp4"})
    candidates = video_candidates(tmp_path, facts, camera, height)
    assert any(p.is_file() for p in candidates) is found


def test_paths_stay_in_the_release(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").touch()
    release = tmp_path / "release"
    entry = annotation_of(TakeSpec("u", "../..", cameras=(EGO,)))
    take = ReleaseTake(release, release / "x.json", "u", entry, None)
    with pytest.raises(InputError, match="cannot be used as a file name"):
        take.frame(EGO, 0)
    facts = TakeFacts("n", "takes/n", {"cam01": "../../../secret.mp4"})
    with pytest.raises(InputError, match="cannot be used as a file name"):
        video_candidates(release, facts, "cam01", "full")


def test_takes_json_may_be_missing_or_strange(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "r")
    (tmp_path / "r" / "takes.json").unlink()
    assert read_number(open_dataset(tmp_path / "r", "val").takes[0].frame(EGO, 30)) == 30
    strange = [None, {"take_uid": 3}, {"take_uid": "a", "take_name": "cook_1", "frame_aligned_videos": [1]}]
    (tmp_path / "r" / "takes.json").write_text(json.dumps(strange))
    assert read_number(open_dataset(tmp_path / "r", "val").takes[0].frame(EXO, 30)) == 30
    (tmp_path / "r" / "takes.json").write_text("{}")
    with pytest.raises(AnnotationError, match=r"takes\.json: is not a list of takes"):
        open_dataset(tmp_path / "r", "val")


def test_what_is_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a data set of a known format"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        open_dataset(tmp_path / "x")
    for text, message in (
        ("[]", "is not a split file"),
        ('{"val": 3}', "split 'val' is not a list"),
        ("{", "is not JSON"),
    ):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(InputError, match=message):
            open_dataset(tmp_path)
    (tmp_path / "split.json").write_text('{"val": ["gone", "../x"], "train": []}')
    dataset = open_dataset(tmp_path, "val")
    with pytest.raises(InputError, match="take gone was not prepared"):
        dataset.take("gone")
    with pytest.raises(AnnotationError, match="cannot be used as a file name"):
        dataset.take("../x")
    with pytest.raises(InputError, match="no split 'test'"):
        open_dataset(tmp_path, "test")


def test_official_folders_are_read_too(tmp_path: Path) -> None:
    """As the official code leaves them: null masks, no annotated_frames, `processed/`, uids in lists of one."""
    folder = tmp_path / "processed" / "t"
    (folder / EXO).mkdir(parents=True)
    mask = {"size": [4, 4], "counts": "44T3d0"}
    good = dict(MASK)
    content = {"masks": {"o": {EGO: {"0": None, "30": good}, EXO: {"30": good, "0": mask}}}, "subsample_idx": [0, 30]}
    (folder / "annotation.json").write_text(json.dumps(content))
    (tmp_path / "processed" / "split.json").write_text(json.dumps({"train": [], "val": [["t"]], "test": []}))
    take = open_dataset(tmp_path, "val").takes[0]
    assert take.annotated_frames("o", EGO) == {30}  # frame 0 is unknown, not "not visible"
    assert "frame 0: the mask is null" in take.problems[0]
    pairs = enumerate_pairs([take], "exo2ego", need_images=False)
    assert [(p.frame, p.target_visible) for p in pairs] == [(0, None), (30, True)]
    with pytest.raises(MaskError, match="object 'o', camera 'cam01', frame 0"):
        take.mask("o", EXO, 0)
    track = take.track("o", EXO)
    assert (list(track.masks), track.annotated_frames) == ([30], {30})
    with pytest.raises(ImageError, match="has no image of frame 30"):
        take.frame(EXO, 30)


def test_masks_of_two_sizes(tmp_path: Path) -> None:
    entry = annotation_of(TakeSpec("u", "n", cameras=(EGO,)))
    odd = annotation_of(TakeSpec("u", "n", cameras=(EXO,)))["object_masks"]["mug 0"][EXO]["annotation"]["0"]
    entry["object_masks"]["mug 0"][EGO]["annotation"]["0"] = odd
    take = ReleaseTake(tmp_path, "x.json", "u", entry)
    track = take.track("mug 0", EGO)
    assert list(track.masks) == [30, 60, 90]
    assert track.visibility(0) is Visibility.UNKNOWN
    assert "the mask has the size (108, 192), the others (128, 128)" in take.problems[0]


SPEC: Any = annotation_of(TakeSpec("u", "n", frames=31, cameras=(EGO, EXO), objects=("o",)))["object_masks"]
MASK = rle.to_coco(ObjectMask.from_array(np.eye(4, dtype=bool)))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(["0", "30", "..", "a/b", "\0", "-1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([EGO, EXO, "0", "30", "..", "a/b", "annotation", "width"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [place for key, inner in items for place in [(value, key), *_places(inner)]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoil=st.lists(st.tuples(st.integers(0, 10_000), JSON), min_size=1, max_size=4), official=st.booleans())
def test_spoilt_annotations_raise_or_are_noted(tmp_path: Path, spoil: list[tuple[int, Any]], official: bool) -> None:
    """Whatever is in a take's annotation, it is read, noted or refused with one of our errors."""
    content: Any = json.loads(json.dumps(SPEC))
    if official:
        masks = {o: {c: dict.fromkeys(e["annotation"], MASK) for c, e in cs.items()} for o, cs in content.items()}
        annotated_frames = {o: {c: e["annotated_frames"] for c, e in cs.items()} for o, cs in content.items()}
        content = {"masks": masks, "subsample_idx": [0, 30], "annotated_frames": annotated_frames}
    else:
        content = {"scenario": "x", "take_name": "n", "object_masks": content}
    for place, value in spoil:
        places = _places(content)
        if places:
            container, key = places[place % len(places)]
            container[key] = value
    try:
        if official:
            (tmp_path / "annotation.json").write_text(json.dumps(content))
            take: Any = PreparedTake(tmp_path, "u")
        else:
            take = ReleaseTake(tmp_path, tmp_path / "x.json", "u", content)
        assert isinstance(take.frames, tuple)
        for name in take.objects:
            for camera in take.cameras_of(name):
                track = take.track(name, camera)
                assert set(track.masks) <= track.annotated_frames
                assert not take.has_frame(camera, 0)
        for direction in ("ego2exo", "exo2ego"):
            list(enumerate_pairs([take], direction))
    except CounterviewError:
        pass
