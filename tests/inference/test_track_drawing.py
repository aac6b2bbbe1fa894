"""Images of objects that were followed. Oracles: pixels of synthetic masks, and what a video reader reads back."""

import csv
import itertools

import numpy as np
import pytest
from PIL import Image

from counterview.errors import InputError, OutputError
from counterview.exchange.tracks import TrackedCamera, TrackedMask, Tracks
from counterview.inference import track_drawing, track_sheets
from counterview.inference.track_drawing import TrackDrawing, clock, draw_objects, resized
from counterview.inference.track_writer import FILES, TrackWriter
from counterview.masks.draw import object_colors
from counterview.masks.geometry import fit_mask
from counterview.media.video import VideoReader
from counterview.tracking.base import UNKNOWN, Observation
from counterview.tracking.review import Review
from counterview.types import ObjectMask

SIZES = {"ego": (120, 120), "cam01": (96, 170), "tall": (170, 96)}
CAMERAS = {name: TrackedCamera(None, size) for name, size in SIZES.items()}
GREY = {name: np.full((*size, 3), 90, np.uint8) for name, size in SIZES.items()}


def disc(size, x, y, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return ObjectMask.from_array(np.hypot(columns - x, rows - y) <= radius)


def seen(mask, visibility=0.9, **doubts):
    return Observation(mask, visibility, "followed", doubts=doubts)


def everywhere(names, seed=0, radius=(1, 6)):
    """An object of random size and place for each name in each camera."""
    rng = np.random.default_rng(seed)
    return {
        camera: {
            name: seen(disc(size, *rng.uniform((5, 5), (size[1] - 5, size[0] - 5)), rng.uniform(*radius)))
            for name in names
        }
        for camera, size in SIZES.items()
    }


def rgb(color):
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def drawing(names=("a", "b"), **options):
    return TrackDrawing(CAMERAS, names, (0.0, 9.0), 1.0, **options)


@pytest.mark.parametrize("names", [[f"a rather long name {i}" for i in range(16)], [f"o{i}" for i in range(16)]])
def test_labels_cover_neither_masks_nor_one_another(names):
    colors = dict(zip(names, object_colors(16), strict=True))
    for seed, size in itertools.product(range(2), [(480, 480), (358, 634)]):
        observations = everywhere(names, seed)["cam01"]
        labels = {}
        draw_objects(GREY["cam01"], size, observations, colors, earlier=labels)
        assert set(labels) == set(names)
        boxes = [(*label.xy, label.xy[0] + label.size_wh[0], label.xy[1] + label.size_wh[1])
                 for label, _ in labels.values()]  # fmt: skip
        masks = [fit_mask(observations[name].mask_rle, size).to_array() for name in names]
        assert not any(mask[y1:y2, x1:x2].any() for mask in masks for x1, y1, x2, y2 in boxes)
        for a, b in itertools.combinations(boxes, 2):
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_an_object_has_one_colour_in_all_cameras_and_another_has_none_of_it():
    names = ["a", "b", "c"]
    made = drawing(names)
    observations = {
        camera: {name: seen(disc(size, 30 + 20 * i, 30 + 15 * i, 6)) for i, name in enumerate(names)}
        for camera, size in SIZES.items()
    }
    image = made.draw(0.0, GREY, observations)
    assert len(set(made.colors.values())) == 3
    for camera, panel in made._panels.items():
        part = image[panel.y : panel.y + panel.height, panel.x : panel.x + panel.width]
        for name in names:
            mask = fit_mask(observations[camera][name].mask_rle, (panel.height, panel.width)).to_array()
            there = {tuple(map(int, pixel)) for pixel in part[mask]}
            assert rgb(made.colors[name]) in there, (camera, name)
            assert not {rgb(made.colors[other]) for other in names if other != name} & there, (camera, name)


def test_what_is_not_visible_is_not_drawn():
    masks = {"a": disc(SIZES["ego"], 50, 50, 20)}
    colors = {"a": "#1f9bff"}
    for observation in (seen(masks["a"], 0.4), Observation(None, 0.1, "followed"), UNKNOWN):
        drawn = draw_objects(GREY["ego"], (240, 240), {"a": observation}, colors)
        assert np.array_equal(drawn, resized(GREY["ego"], (240, 240)))


def test_a_speck_is_still_drawn_and_a_large_image_is_made_smaller():
    mask = disc((1200, 1600), 800, 600, 1)
    drawn = draw_objects(np.zeros((1200, 1600, 3), np.uint8), (120, 160), {"a": seen(mask)}, {"a": "#1f9bff"})
    assert drawn.shape == (120, 160, 3)
    assert (drawn[58:63, 78:83] == rgb("#1f9bff")).all(-1).any()


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([(448, 448), (448, 796)], 1),
        ([(1080, 1920)] * 3, 1),
        ([(1920, 1080)] * 2, 1),
        ([(1080, 1920)] * 6, 2),
        ([(480, 640)], 1),
        ([(720, 1280)] * 12, 3),
    ],
)
def test_cameras_are_side_by_side_at_equal_height_within_the_limits(sizes, rows):
    cameras = {f"cam{i}": TrackedCamera(None, size) for i, size in enumerate(sizes)}
    made = TrackDrawing(cameras, ["a"], (0, 1), 0.5)
    height, width = made.size_hw
    panels = list(made._panels.values())
    assert len({panel.height for panel in panels}) == 1
    assert panels[0].height <= 480
    assert len({panel.y for panel in panels}) == rows
    assert width <= 1920
    assert height <= 1400
    assert (width % 2, height % 2) == (0, 0)
    for a, b in itertools.combinations(panels, 2):
        assert a.y != b.y or a.x + a.width <= b.x
    for panel, size in zip(panels, sizes, strict=True):
        assert panel.x >= 0
        assert panel.x + panel.width <= width
        assert panel.width == pytest.approx(panel.height * size[1] / size[0], abs=1)
    image = made.draw(0.0, {name: np.zeros((*c.size_hw, 3), np.uint8) for name, c in cameras.items()}, {})
    assert image.shape == (height, width, 3)


def bar(made, image, camera, name):
    x1, x2, y1, _ = made._bars[camera, name]
    return image[y1 + 1, x1:x2]


def test_the_bars_are_filled_as_the_steps_come_and_the_cursor_moves():
    made = drawing()
    mask = disc(SIZES["ego"], 50, 50, 5)
    states = [seen(mask, 1.0), Observation(None, 0.1, "followed"), UNKNOWN]
    for step, state in enumerate(states):
        image = made.draw(float(step), GREY, {"ego": {"a": state, "b": state}, "cam01": {"a": seen(mask, 1.0)}})
    pixels = bar(made, image, "ego", "a")
    tenth = len(pixels) // 10
    assert (pixels[2 : tenth - 2] == rgb(made.colors["a"])).all()
    assert (pixels[tenth + 2 : 2 * tenth - 2] == track_drawing.NOT_VISIBLE).all()
    unknown = {tuple(map(int, p)) for p in pixels[2 * tenth + 4 : 3 * tenth - 2]}
    assert unknown == {track_drawing.NOT_YET, track_drawing.UNKNOWN_STRIPE}
    assert (pixels[3 * tenth + 6 :] == track_drawing.NOT_YET).all()
    white = np.flatnonzero((pixels == 255).all(-1))
    assert abs(white.mean() - 2 * tenth) <= 2
    assert (bar(made, image, "tall", "a")[:10] == track_drawing.NOT_YET).all()


def test_known_tracks_fill_the_bars_from_the_start_on_the_query_clock():
    cameras = {"ego": CAMERAS["ego"], "cam01": TrackedCamera(None, SIZES["cam01"], offset_s=5.0)}
    mask = disc(SIZES["cam01"], 50, 50, 5)
    track = [TrackedMask(float(i), i, mask, 1.0, "matched") for i in range(3)]
    made = TrackDrawing(cameras, ["a"], (0.0, 9.0), 1.0, tracks=Tracks(cameras, {"a": {"cam01": track}}))
    pixels = bar(made, made.draw(0.0, GREY, {}), "cam01", "a")
    tenth = len(pixels) // 10
    filled = np.flatnonzero((pixels == rgb(made.colors["a"])).all(-1))
    assert abs(filled[0] - 5 * tenth) <= 4
    assert abs(filled[-1] - 8 * tenth) <= 8


def test_many_objects_and_cameras_without_images():
    names = [f"object with a very long name indeed {i}" for i in range(120)]
    made = drawing(names)
    image = made.draw(1.0, {"ego": GREY["ego"], "cam01": None}, {"ego": dict.fromkeys(names, UNKNOWN)})
    assert image.shape[0] < 1200
    panel = made._panels["cam01"]
    assert (image[panel.y + 40 : panel.y + panel.height, panel.x : panel.x + panel.width] == 0x2A).all()


def test_nothing_to_draw_is_refused():
    for cameras, names, span in (({}, ["a"], (0, 1)), (CAMERAS, [], (0, 1)), (CAMERAS, ["a"], (1, 0))):
        with pytest.raises(InputError, match="nothing to draw"):
            TrackDrawing(cameras, names, span, 1.0)
    assert clock(3599.999) == "60:00.00"


# ------------------------------------------------------------------------------------------------------ all files


def frame_of(camera, number):
    if number == 3:
        raise InputError("cannot be read", path=camera)
    return GREY[camera]


def run(folder, times, fps, **options):
    span = times[0], times[-1]
    with TrackWriter(folder, CAMERAS, ["a", "b"], span, fps=fps, frame_of=frame_of, **options) as writer:
        for number, time_s in enumerate(times):
            observations = {
                camera: {
                    "a": seen(disc(size, 40 + number, 40, 8), way_back=0.9 if number in (1, 5) else 0.0),
                    "b": seen(disc(size, 70, 70, 5)) if number % 4 else Observation(None, 0.1, "followed"),
                }
                for camera, size in SIZES.items()
            }
            writer.add(time_s, GREY, observations, dict.fromkeys(SIZES, (number, time_s)))
    return writer


@pytest.mark.parametrize(("fps", "video_fps", "repeats"), [(2, 10, 5), (3, 12, 4), (25, 25, 1)])
def test_the_overlay_reads_back_at_a_rate_that_plays_smoothly(tmp_path, fps, video_fps, repeats):
    times = [i / fps for i in range(7)]
    writer = run(tmp_path, times, fps)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    with VideoReader(tmp_path / "overlay.mp4") as video:
        assert video.frame_count == 7 * repeats
        assert float(video.fps) == pytest.approx(video_fps)
        frame = video.frame(video.frame_count - 1)
        assert frame.shape[:2] == writer._drawing.size_hw
        assert video.duration_s == pytest.approx(7 / fps, abs=1.5 / video_fps)


def test_the_overlay_keeps_the_time_where_steps_are_missing(tmp_path):
    run(tmp_path, [0.0, 0.5, 2.0, 100.0], 2)
    with VideoReader(tmp_path / "overlay.mp4") as video:
        assert video.frame_count == 5 + 15 + 50 + 5


def test_contact_sheet_and_review_hold_what_they_should(tmp_path):
    writer = run(tmp_path, [float(i) for i in range(20)], 1)
    assert len(writer._contact._columns) == 8
    taken = [time_s for time_s, _ in writer._contact._columns]
    assert (taken[0], taken[-1]) == (0.0, 19.0)
    assert np.ptp(np.diff(taken)) <= 1
    with Image.open(tmp_path / "contact.jpg") as sheet:
        assert sheet.width == 8 * (track_sheets.TILE_PX + track_sheets.GAP_PX) + track_sheets.GAP_PX
        assert sheet.height > sum(track_sheets._fit(size)[0] for size in SIZES.values())
    with (tmp_path / "review.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len(writer.review.rows()) > 6
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert {row["reason"] for row in rows[:6]} == {"way_back"}
    with Image.open(tmp_path / "review.jpg") as crops:
        count = min(len(rows), track_sheets.MAX_CROPS)
        assert crops.width == min(6, count) * (track_sheets.CROP_PX[1] + track_sheets.GAP_PX) + track_sheets.GAP_PX
        assert crops.height // track_sheets.CROP_PX[0] >= -(-count // 6)


def test_the_images_of_a_review_show_the_outline_and_stay_grey_where_a_frame_cannot_be_read():
    review = Review()
    mask = disc(SIZES["cam01"], 100, 50, 4)
    review.add("cam01", 0.0, {"a": seen(mask, way_back=0.9)}, frame=0)
    review.add("cam01", 3.0, {"a": seen(mask, cameras_disagree=0.5)}, frame=3)
    review.add("cam01", 6.0, {"a": UNKNOWN, "b": UNKNOWN}, frame=None)
    asked = []

    def reading(camera, number):
        asked.append((camera, number))
        return frame_of(camera, number)

    sheet = track_sheets.review_sheet(review.rows(), reading, {"a": "#aaee00"})
    assert asked == [("cam01", 0), ("cam01", 3)]
    (h, w), gap = track_sheets.CROP_PX, track_sheets.GAP_PX
    cells = [sheet[gap : gap + h, gap + i * (w + gap) : gap + i * (w + gap) + w] for i in range(3)]
    assert (cells[0] == rgb("#aaee00")).all(-1).any()
    assert abs(np.argwhere((cells[0] == rgb("#aaee00")).all(-1)).mean(0) - (h / 2, w / 2)).max() < 6
    for cell in cells[1:]:
        assert (cell == track_sheets.EMPTY).all()
    assert track_sheets.review_sheet([], reading, {}).shape[0] < 40


def test_a_review_that_was_collected_before_is_taken_as_it_is(tmp_path):
    review = Review()
    review.add("cam01", 1.0, {"a": seen(disc(SIZES["cam01"], 60, 40, 5), way_back=0.3)}, frame=1)
    writer = run(tmp_path, [0.0, 1.0], 1, review=review)
    assert writer.review.rows() == review.rows()
    assert (tmp_path / "review.csv").read_text(encoding="utf-8").count("\n") == 2


def test_nothing_is_left_of_a_run_that_fails_and_a_short_one_is_closed(tmp_path):
    with pytest.raises(InputError, match="do not ascend"):
        run(tmp_path / "a", [0.0, 1.0, 1.0], 1)
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(InputError, match="at least one step"), \
            TrackWriter(tmp_path / "b", CAMERAS, ["a"], (0, 1), fps=1, frame_of=frame_of):  # fmt: skip
        pass
    assert list((tmp_path / "b").iterdir()) == []
    with pytest.raises(InputError, match="a rate is out of range"):
        TrackWriter(tmp_path, CAMERAS, ["a"], (0, 1), fps=0, frame_of=frame_of)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        TrackWriter(tmp_path / "file" / "x", CAMERAS, ["a"], (0, 1), fps=1, frame_of=frame_of)
    run(tmp_path / "one", [4.0], 2)
    with VideoReader(tmp_path / "one" / "overlay.mp4") as video:
        assert video.frame_count == 5
