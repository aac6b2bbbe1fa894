"""How the command line says which objects are meant: files of masks, points and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from counterview.errors import InputError

if TYPE_CHECKING:
    from counterview.inference.prompts import AnyPrompt
    from counterview.inference.shown import ShownObject
    from counterview.media.frame_source import FrameSource


@dataclass(frozen=True)
class GivenPrompt:
    """A prompt of the command line.

    Attributes:
        name: of its object, if a user gives no other.
        prompt: a mask ``(H, W)``, point, box or prompt.
        notes: how a mask was read, in sentences for the user.
    """

    name: str
    prompt: AnyPrompt
    notes: tuple[str, ...] = ()


def check_prompts(masks: Sequence[Path], points: Sequence[str], boxes: Sequence[str], labels: Sequence[int]) -> None:
    """Refuse options that do not go together, before anything is read.

    Raises:
        InputError: no object, or labels that do not belong to the masks one to one.
    """
    if not masks and not points and not boxes:
        raise InputError("no object was given", expected="at least one --mask, --point or --box")
    if labels and len(masks) != 1 and len(labels) not in (1, len(masks)):
        raise InputError(
            "--label does not belong to the masks", found=f"{len(labels)} labels, {len(masks)} masks",
            expected="one mask with labels, or a label for each mask",
        )  # fmt: skip
    if labels and not masks:
        raise InputError("--label needs a mask", expected="--mask FILE --label N")


def read_given(
    masks: Sequence[Path],
    points: Sequence[str],
    boxes: Sequence[str],
    labels: Sequence[int] = (),
    *,
    image_hw: tuple[int, ...] = (),
    image_orientation: int = 1,
    orientation: str = "auto",
) -> list[GivenPrompt]:
    """Read prompts in the order masks, points, boxes. Arguments and errors as of :func:`read_prompts`."""
    from counterview.inference.prompts import prompt_from_text
    from counterview.masks.orientation import read_mask_of
    from counterview.types import ObjectMask

    check_prompts(masks, points, boxes, labels)
    wanted: list[tuple[Path, int | None]] = [(path, None) for path in masks]
    if labels:
        repeat = max(len(masks), len(labels))
        wanted = list(zip([*masks] * (repeat // len(masks)), [*labels] * (repeat // len(labels)), strict=True))
    found: list[GivenPrompt] = []
    for path, label in wanted:
        mask, said = read_mask_of(
            path,
            (image_hw[0], image_hw[1]),
            image_orientation,
            label=label,
            orientation=orientation,  # type: ignore[arg-type]
        )
        stem = f"{path.stem}-{label}" if len(labels) > 1 and len(masks) == 1 else path.stem
        found.append(GivenPrompt(stem, ObjectMask.from_array(mask), said))
    found += [GivenPrompt("point", prompt_from_text(text, "point", "--point")) for text in points]
    return [*found, *(GivenPrompt("box", prompt_from_text(text, "box", "--box")) for text in boxes)]


def read_prompts(
    masks: Sequence[Path],
    points: Sequence[str],
    boxes: Sequence[str],
    names: Sequence[str] = (),
    labels: Sequence[int] = (),
    *,
    image_hw: tuple[int, ...] = (),
    image_orientation: int = 1,
    orientation: str = "auto",
) -> tuple[dict[str, AnyPrompt], dict[str, tuple[str, ...]]]:
    """Read the query objects of the command line.

    Args:
        masks: files.
        points: texts ``X,Y``, each with further points ``+X,Y`` and background points ``-X,Y`` of the same object.
        boxes: texts ``X1,Y1,X2,Y2``, likewise.
        names: of the objects, in the order masks, points, boxes; the rest keep their own.
        labels: of one mask, one for each mask, or one for all of them; none if they hold one object each.
        image_hw: height and width of the upright query image, in pixels.
        image_orientation: EXIF orientation of the query image's file.
        orientation: what the masks were drawn on: ``auto``, ``upright`` or ``raw``.

    Returns:
        name to prompt, in the order masks, points, boxes, and name to notes on how a mask was read. Without a name, a
        mask is named after its file, and one of several labels after both.

    Raises:
        InputError: no object, a malformed point or box, more names than objects, a name twice or one that cannot be
            a file name, or a file that does not exist.
        MaskError: a file that is not a mask.
        ConfigError: an unknown orientation.
    """
    from counterview.media.files import check_name

    given = read_given(
        masks, points, boxes, labels, image_hw=image_hw, image_orientation=image_orientation, orientation=orientation
    )
    found = [(item.name, item.prompt, item.notes) for item in given]
    if len(names) > len(found) or len(set(names)) < len(names):
        raise InputError("--name is given too often, or one name twice", found=f"{len(names)} for {len(found)} objects")
    prompts: dict[str, AnyPrompt] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for number, (name, prompt, said) in enumerate(found):
        name = check_name(names[number]) if number < len(names) else name
        unique, count = name, 2
        while unique in prompts or (number >= len(names) and unique in names):
            unique, count = f"{name}-{count}", count + 1
        prompts[unique], notes[unique] = prompt, said
    return prompts, notes


ANNOTATIONS = (".xml", ".json", ".yaml", ".yml")
"""Endings of files of annotation tools; others are masks. A folder is one of such a tool."""


def split_time(text: str) -> tuple[str, float | None]:
    """A prompt and the time behind it, in seconds; a file whose name ends so is a file.

    Args:
        text: ``PROMPT`` or ``PROMPT@SECONDS``.

    Raises:
        InputError: a time below 0.

    >>> split_time("410,260@3.2"), split_time("mug@2.png")
    (('410,260', 3.2), ('mug@2.png', None))
    """
    head, at, tail = text.rpartition("@")
    if not at or Path(text).exists():
        return text, None
    try:
        seconds = float(tail)
    except ValueError:
        return text, None
    if not 0 <= seconds < float("inf"):
        raise InputError("the time of a prompt is not a time", found=text, expected="PROMPT@SECONDS, 0 or more")
    return head, seconds


def read_shown(
    masks: Sequence[str],
    points: Sequence[str],
    boxes: Sequence[str],
    names: Sequence[str],
    labels: Sequence[int],
    cameras: Mapping[str, FrameSource],
    *,
    orientation: str = "auto",
) -> tuple[list[ShownObject], tuple[str, ...]]:
    """Read where objects are shown in videos.

    Args:
        masks: files of masks of the query camera, ``PNG@SECONDS``, and files and folders of annotation tools, which
            have names and times of their own.
        points: texts as of :func:`read_prompts`, with ``@SECONDS``.
        boxes: likewise.
        names: of masks, points and boxes in this order. A name that is there again is the same object at another time.
        labels: as of :func:`read_prompts`.
        cameras: by name, the query camera first.
        orientation: what the masks were drawn on: ``auto``, ``upright`` or ``raw``.

    Returns:
        the objects, and notes on how masks were read.

    Raises:
        InputError: no object, a malformed prompt, or more names than prompts.
        MaskError: a file that is not a mask.
        AnnotationError: a file of an annotation tool that is malformed, or of other cameras.
        ConfigError: an unknown orientation.
    """
    from counterview.inference.shown import ShownObject
    from counterview.media.files import check_name

    query, source = next(iter(cameras.items()))
    timed = {kind: [split_time(text) for text in texts] for kind, texts in
             (("--mask", masks), ("--point", points), ("--box", boxes))}  # fmt: skip
    check_prompts([Path(text) for text, _ in timed["--mask"]], points, boxes, labels)
    tools: list[tuple[str, float | None]] = []
    files: list[tuple[str, float | None]] = []
    for text, time_s in timed["--mask"]:
        is_tool = Path(text).is_dir() or Path(text).suffix.lower() in ANNOTATIONS
        if is_tool and time_s is not None:
            raise InputError("annotations have times of their own", found=f"{text}@{time_s:g}", fix=f"Write {text}.")
        (tools if is_tool else files).append((text, time_s))
    timed["--mask"] = files
    turned = _orientation(source) if files else 1
    given = read_given(
        [Path(text) for text, _ in files], [t for t, _ in timed["--point"]], [t for t, _ in timed["--box"]], labels,
        image_hw=source.size_hw, image_orientation=turned, orientation=orientation,
    ) if any(timed.values()) else []  # fmt: skip
    if len(names) > len(given):
        raise InputError("--name is given too often", found=f"{len(names)} for {len(given)} prompts")
    repeat = max(1, len(labels)) if len(files) == 1 else 1
    times = [time_s for kind in timed for _, time_s in timed[kind] * (repeat if kind == "--mask" else 1)]
    texts = [f"{kind} {text}" for kind in timed for text, _ in timed[kind] * (repeat if kind == "--mask" else 1)]
    result: list[ShownObject] = []
    for tool, _ in tools:
        result += _annotated(Path(tool), cameras)
    taken = {*names, *(item.object for item in result)}
    notes: list[str] = []
    for number, (item, time_s, text) in enumerate(zip(given, times, texts, strict=True)):
        name, count = check_name(names[number]) if number < len(names) else item.name, 2
        while number >= len(names) and name in taken:
            name, count = f"{item.name}-{count}", count + 1
        taken.add(name)
        result.append(ShownObject(name, query, item.prompt, time_s or 0.0, source=text))
        notes += [f"{name}: {note}" for note in item.notes]
    return result, tuple(notes)


def _orientation(source: FrameSource) -> int:
    """How the stored images of a camera are turned: its EXIF orientation."""
    from counterview.media.sources import VideoFrames
    from counterview.media.video_source import stored_orientation

    return stored_orientation(source.reader.path) if isinstance(source, VideoFrames) else 1


def _annotated(path: Path, cameras: Mapping[str, FrameSource]) -> list[ShownObject]:
    """The objects of a file or folder of an annotation tool."""
    from counterview.errors import AnnotationError
    from counterview.exchange import prompts_of, read
    from counterview.inference.shown import ShownObject

    query, source = next(iter(cameras.items()))
    tracks = read(path, camera=query, size_hw=source.size_hw, fps=source.fps)
    here = {name: name for name in tracks.cameras if name in cameras}
    if not here and len(tracks.cameras) == 1:
        here = {tracks.query_camera: query}  # of whatever name: it is the only one
    if not here:
        raise AnnotationError(
            "has annotations of other cameras", path=path, found=", ".join(tracks.cameras), expected=", ".join(cameras)
        )
    return [
        ShownObject(name, own, mask, time_s, source=str(path))
        for annotated, own in here.items()
        for name, prompts in prompts_of(tracks, annotated).items()
        for time_s, mask in prompts
    ]
