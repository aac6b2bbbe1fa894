"""One way to write tracks in any format, and to read any of them: the format is found in the file's contents."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from counterview.config import nearest
from counterview.errors import AnnotationError, CounterviewError, InputError
from counterview.exchange import coco, cvat, davis, labelme, labelstudio, rerun, yolo
from counterview.exchange.collect import MAX_FILE_BYTES, Missing, ReadOptions, Repeated
from counterview.exchange.tracks import Tracks, read_tracks, write_tracks
from counterview.guard import is_folder, read_file, regular_file
from counterview.media.files import decode_json, safe_join

FORMATS = MappingProxyType(
    {
        "tracks": "tracks.json of Counterview: everything",
        "coco": "COCO JSON: everything, beside COCO's own fields",
        "davis": "index images with the DAVIS palette: overlaps are lost",
        "cvat": "CVAT for video 1.1: masks",
        "labelstudio": "Label Studio JSON: brush masks",
        "labelme": "LabelMe JSON: mask shapes",
        "yolo": "YOLO segmentation: outlines, without holes or visibility",
        "rerun": "Rerun recording for its viewer; written only, needs [rerun]",
    }
)
"""The formats, and what each keeps."""

OWN = "tracks.json"

_FILES = {
    "tracks": OWN,
    "coco": coco.FILE, "davis": davis.FOLDER, "cvat": cvat.FOLDER, "labelstudio": labelstudio.FILE,
    "labelme": labelme.FOLDER, "yolo": yolo.FOLDER,
}  # fmt: skip
_HEAD_BYTES = 4096


def _write_own(tracks: Tracks, folder: str | os.PathLike[str]) -> list[Path]:
    path = safe_join(folder, OWN)
    write_tracks(path, tracks)
    return [path]


_WRITERS: dict[str, Callable[[Tracks, str | os.PathLike[str]], list[Path]]] = {
    "tracks": _write_own, "coco": coco.write, "davis": davis.write, "cvat": cvat.write,
    "labelstudio": labelstudio.write, "labelme": labelme.write, "yolo": yolo.write, "rerun": rerun.write,
}  # fmt: skip
_READERS: dict[str, Callable[[str | os.PathLike[str], ReadOptions], Tracks]] = {
    "tracks": lambda path, _: read_tracks(path), "coco": coco.read, "davis": davis.read, "cvat": cvat.read,
    "labelstudio": labelstudio.read, "labelme": labelme.read, "yolo": yolo.read,
}  # fmt: skip


def check_format(name: str, *, reading: bool = False) -> str:
    """Check that there is a format of that name, and return the name.

    Args:
        name: one of :data:`FORMATS`.
        reading: whether it is to be read.

    Raises:
        InputError: there is none, or it is written only.
    """
    known = list(_READERS if reading else FORMATS)
    if name not in known:
        only = name in FORMATS
        raise InputError(
            f"the format {name!r} is written only" if only else f"there is no format {name!r}",
            expected=" or ".join(known), fix=None if only else nearest(name, known).capitalize(),
        )  # fmt: skip
    return name


def write(tracks: Tracks, format: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write tracks in one format, each file aside and renamed.

    Several formats fit into one folder. ``davis``, ``cvat``, ``labelme`` and ``yolo`` have a folder of their own in it.

    Args:
        tracks: what is written.
        format: one of :data:`FORMATS`.
        folder: in which; it is created.

    Returns:
        the files.

    Raises:
        InputError: no such format, or one that cannot hold the tracks.
        MissingExtraError: ``rerun`` without rerun-sdk.
        OutputError: they cannot be written.
    """
    return _WRITERS[check_format(format)](tracks, folder)


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    camera: str | None = None,
    size_hw: tuple[int, int] | None = None,
    fps: float | None = None,
    missing: Missing = "absent",
    repeated: Repeated = "error",
) -> Tracks:
    """Read annotations as tracks.

    Args:
        path: the file, or the folder of a format of many files.
        format: one of :data:`FORMATS`; found from the contents by default.
        camera: name of the camera, where the files name none.
        size_hw: height and width of the images in pixels, where the files do not state it.
        fps: frames a second, where the files do not state it. Without it, the time of frame N is N seconds.
        missing: what an object without a shape in an annotated frame is: ``absent`` (not visible) or ``unknown``.
        repeated: what several shapes of one label in one frame are, if nothing tells them apart: an ``error``, parts of
            one object (``merge``), or objects of their own (``number``: in their order in each frame).

    Returns:
        the tracks. A mask of another tool has the source ``given``.

    Raises:
        AnnotationError: malformed, or in none of the formats; it names the file and the place.
        InputError: no such format, or a wrong option.
    """
    options = ReadOptions(camera, size_hw, fps, missing, repeated)
    name = detect_format(path) if format is None else check_format(format, reading=True)
    try:
        return _READERS[name](path, options)
    except (AnnotationError, OSError):
        raise
    except CounterviewError as error:  # of a mask, an image or a name
        raise AnnotationError(
            error.problem, path=error.path or path, found=error.found, expected=error.expected, fix=error.fix
        ) from None


def detect_format(path: str | os.PathLike[str]) -> str:
    """The format of a file or folder, by its contents.

    Args:
        path: of it.

    Raises:
        AnnotationError: none of the formats, or several.
    """
    if is_folder(path):
        return _format_of_folder(Path(path))
    name = _format_of_file(regular_file(path, AnnotationError, max_bytes=MAX_FILE_BYTES))
    if name is None:
        raise AnnotationError("is in no known format of annotations", path=path, expected=_known())
    return name


def _known() -> str:
    return " or ".join(_READERS)


def _format_of_file(path: Path) -> str | None:
    data = read_file(path, AnnotationError, max_bytes=MAX_FILE_BYTES)
    head = data[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if data.startswith(b"RRF"):
        raise AnnotationError("is a Rerun recording, which is written only", path=path, expected=_known())
    if head.startswith(b"<"):
        return "cvat" if b"<annotations" in head else None
    if path.suffix.lower() in (".yaml", ".yml"):
        return "yolo" if b"names" in data else None
    if not head.startswith((b"{", b"[")):
        return None
    content = decode_json(data, path, error=AnnotationError)
    return _format_of_json(content)


def _format_of_json(content: Any) -> str | None:
    if coco.is_coco(content):
        return "coco"
    if labelstudio.is_label_studio(content):
        return "labelstudio"
    if labelme.is_labelme(content):
        return "labelme"
    if isinstance(content, dict) and {"version", "cameras", "objects"} <= set(content):
        return "tracks"
    return None


def _format_of_folder(path: Path) -> str:
    """The format whose files lie in a folder; of a folder of several, none."""
    found = []
    if (path / yolo.NAMES).is_file():
        found.append("yolo")
    if any(_format_of_file(file) == "cvat" for file in sorted(path.glob("*.xml"))[:1]):
        found.append("cvat")
    if (path / davis.NAMES).is_file():
        found.append("davis")
    elif not found:
        files = labelme.json_files(path)
        kind = _format_of_file(files[0]) if files else None
        if kind == "labelme":
            found.append("labelme")
        elif not files and davis.image_folders(path):
            found.append("davis")
    if len(found) == 1:
        return found[0]
    inside = [name for name, file in _FILES.items() if (path / file).exists()]
    raise AnnotationError(
        "is a folder of several formats of annotations" if found else "is a folder in no known format of annotations",
        path=path, found=" and ".join(found) or None, expected=_known(),
        fix=f"Give the file or folder of one of them: {', '.join(str(path / _FILES[n]) for n in inside)}" if inside else
        None,
    )  # fmt: skip
