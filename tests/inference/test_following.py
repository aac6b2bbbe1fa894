"""Plans and runs of following, through videos of coloured rectangles."""

import pytest

from counterview.errors import ImageError, InputError
from counterview.inference.follow_plan import FollowPlan
from counterview.inference.following import Following, TracksBuilder, smoothed
from counterview.inference.prompts import Point
from counterview.inference.shown import ShownObject, TimedPrompt
from counterview.masks.geometry import iou
from counterview.media.sources import ArrayFrames
from tests.inference.coloured_videos import ColourPredictor, cam_images, ego_images
from tests.tracking.coloured import mask_of

RED, BLUE = Point(20, 25), Point(70, 45)


def sources(count=10, fps=5):
    return ArrayFrames(ego_images(count), fps, name="ego"), ArrayFrames(cam_images(count), fps, name="cam")


def plan(objects, **options):
    ego, cam = sources()
    return FollowPlan(ego, {"cam": cam}, objects, **options)


def test_objects_are_followed_from_the_time_at_which_they_are_shown():
    ego, cam = sources()
    objects = {"mug": RED, "cup": TimedPrompt(BLUE, time_s=0.6)}
    with Following(ColourPredictor(), ego, {"cam": cam}, objects, fps=2) as run:
        steps = list(smoothed(run.steps(), run.engine))
    assert [s.time_s for s in steps] == pytest.approx([0.0, 0.4, 0.6, 1.0, 1.4], abs=1e-6)
    assert [set(s["cam"]) for s in steps] == [{"mug"}, {"mug"}, {"mug", "cup"}, {"mug", "cup"}, {"mug", "cup"}]
    for step in steps:
        for name, colour in (("mug", "red"), ("cup", "blue")):
            if name in step["cam"]:
                truth = mask_of(cam_images(10)[step.frames["cam"][0]], colour)
                assert iou(step["cam"][name].mask_rle, truth) == 1
    builder = TracksBuilder(run.cameras, run.names, {})
    for step in steps:
        builder.add(step)
    assert [m.frame for m in builder.build().objects["cup"]["ego"]] == [3, 5, 7]


def test_known_objects_are_not_followed_and_keep_their_place():
    """The mug looks like the cup, of which it is known where it is: there the mug is not."""
    predictor, made = ColourPredictor(), plan({"mug": BLUE}, fps=2)
    engine = predictor.make_engine(["ego", "cam"])
    known = {("cam", n): {"cup": mask_of(cam_images(10)[n], "blue")} for n in range(10)}
    steps = list(Following.through(predictor, made, engine, known).steps())
    assert all(set(step["cam"]) == set(step["ego"]) == {"mug"} for step in steps)
    assert set(engine.objects) == {"mug", "cup"}
    for step in steps:
        blue = known["cam", step.frames["cam"][0]]["cup"]
        assert iou(step["cam"]["mug"].mask_rle, blue) == 0
    alone = Following.through(predictor, made, predictor.make_engine(["ego", "cam"]), {}).steps()
    assert iou(next(alone)["cam"]["mug"].mask_rle, known["cam", 0]["cup"]) == 1


def test_steps_that_were_done_before_stay_steps():
    made = plan({"mug": RED}, fps=1)
    assert [s.time_s for s in made.timeline.steps] == pytest.approx([0, 1])
    made.include([0.4])
    assert [s.time_s for s in made.timeline.steps] == pytest.approx([0, 0.4, 1])
    assert made.timeline.steps[1].frames == {"ego": 2, "cam": 2}


def test_one_prompt_may_be_there_twice_and_two_may_not():
    same = [ShownObject("mug", "ego", RED, 0.0), ShownObject("mug", "ego", RED, frame=0)]
    assert len(plan(same).objects) == 1
    with pytest.raises(InputError, match="twice at one time"):
        plan([*same, ShownObject("mug", "ego", BLUE, 0.05)])
    with pytest.raises(InputError, match="no such camera"):
        plan([*same, ShownObject("mug", "cam9", BLUE, 0.0)])


def test_frames_that_cannot_be_read_are_named():
    class Broken(ArrayFrames):
        def _image(self, number):
            if number == 5:
                raise ImageError("is damaged")
            return super()._image(number)

    ego, _ = sources()
    cam = Broken(cam_images(10), 5, name="cam")
    with Following(ColourPredictor(), ego, {"cam": cam}, {"mug": RED}, fps=1) as run:
        steps = list(run.steps())
    assert [s.unreadable for s in steps] == [(), ("cam",)]
    assert steps[1]["cam"]["mug"].visibility is None
    assert steps[1].frames["cam"] == (5, pytest.approx(1.0))
