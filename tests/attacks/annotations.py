"""Annotations of other tools under attack: what each format of ``counterview.exchange`` reads."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from random import Random

from tests.attacks import mutations as m
from tests.attacks.entry import Entry

_VALUES = (
    "", "x", "-1", "0", "1", "1e308", "nan", "99999", "4294967296", "9" * 400, "1,", "1,1;2,2", "0, 5", "\u00e9",
    "1" * 30, ", ".join(["1"] * 2000), "3,3;" * 300 + "3,3",
)  # fmt: skip
_HEADS = (
    b'<!DOCTYPE a [<!ENTITY b "ccccccccc">]>', b'<!DOCTYPE a SYSTEM "file:///etc/passwd">', b"<!-- counterview {} -->",
    b'<!--counterview {"frames": [{"frame": 0}]}-->', b"<a>" * 100, b"<?xml version='1.1' encoding='utf-7'?>",
)  # fmt: skip


def xml_values(data: bytes, rng: Random) -> bytes:
    """Other values for attributes, elements of other names, or a beginning that XML allows and annotations do not."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = [match.span(1) for match in re.finditer(r'"([^"]*)"', text)]
        names = [match.span(1) for match in re.finditer(r"</?(\w+)", text)]
        if rng.random() < 0.8 and places:
            start, end = rng.choice(places)
            text = text[:start] + rng.choice(_VALUES) + text[end:]
        elif names:
            start, end = rng.choice(names)
            text = text[:start] + rng.choice(("mask", "box", "track", "image", "meta", "polygon", "a")) + text[end:]
    if rng.random() < 0.2:
        return rng.choice(_HEADS) + text.encode()
    return text.encode()


def inner_png(data: bytes, rng: Random) -> bytes:
    """Damage to the PNG of a mask in LabelMe's JSON."""
    try:
        content = json.loads(data)
        shape = rng.choice([shape for shape in content["shapes"] if "mask" in shape])
        png = rng.choice((m.png_chunks, m.flip, m.truncate))(base64.b64decode(shape["mask"]), rng)
    except (ValueError, KeyError, TypeError, IndexError):
        return m.flip(data, rng)
    shape["mask"] = base64.b64encode(png).decode()
    return json.dumps(content).encode()


def lines_of_numbers(data: bytes, rng: Random) -> bytes:
    """Other numbers in lines of numbers."""
    words = data.decode("utf-8", "replace").split(" ")
    for _ in range(rng.choice((1, 1, 3))):
        words[rng.randrange(len(words))] = rng.choice(_VALUES)
    return " ".join(words).encode()


class _FormatEntry(Entry):
    """The files of one format; one of them is damaged.

    Attributes:
        place: what is read, relative to the folder.
    """

    place = ""

    def prepare(self) -> None:
        from counterview.exchange import write
        from tests.exchange.samples import some_tracks

        files = write(some_tracks(), self.name.removeprefix("read-"), self.folder / "out")
        self.files = [path for path in files if self.is_read(path)]
        self.valid = {path: path.read_bytes() for path in self.files}
        self.names = ("out", *(path.name for path in self.files))

    def is_read(self, path: Path) -> bool:
        return True

    def damage(self, rng: Random) -> None:
        for path, data in self.valid.items():
            path.write_bytes(data)
        self.path = rng.choice(self.files)
        how = m.BLIND if self.path.suffix == ".png" else self.mutations
        if self.path.suffix == ".yaml":
            how = (m.yaml_words, *m.BLIND)
        self.path.write_bytes(self.damaged(self.valid[self.path], self.path.name, rng, how))

    def read(self, rng: Random) -> str:
        from counterview.exchange import prompts_of, read

        tracks = read(
            self.folder / "out" / self.place, self.name.removeprefix("read-") if rng.random() < 0.7 else None,
            missing=rng.choice(("absent", "unknown")), repeated=rng.choice(("error", "merge", "number")),
        )  # fmt: skip
        for cameras in tracks.objects.values():
            for camera, items in cameras.items():
                for item in items:
                    assert item.mask_rle is None or item.mask_rle.size_hw == tracks.cameras[camera].size_hw
        prompts_of(tracks)
        return "answer"


class CocoEntry(_FormatEntry):
    """COCO JSON."""

    name, place = "read-coco", "coco.json"
    mutations = (m.json_values, m.json_values, m.json_values, *m.BLIND)


class DavisEntry(_FormatEntry):
    """Index images, and the list of their names."""

    name, place = "read-davis", "davis"
    mutations = (m.json_values, m.json_values, *m.BLIND)


class CvatEntry(_FormatEntry):
    """CVAT's XML."""

    name, place = "read-cvat", "cvat"
    mutations = (xml_values, xml_values, xml_values, *m.BLIND)


class LabelStudioEntry(_FormatEntry):
    """Label Studio JSON, with its run lengths."""

    name, place = "read-labelstudio", "labelstudio.json"
    mutations = (m.json_values, m.json_values, m.json_values, *m.BLIND)

    def is_read(self, path: Path) -> bool:
        return path.suffix == ".json"


class LabelMeEntry(_FormatEntry):
    """LabelMe JSON, with a PNG in each mask."""

    name, place = "read-labelme", "labelme"
    mutations = (m.json_values, m.json_values, inner_png, *m.BLIND)


class YoloEntry(_FormatEntry):
    """YOLO's lines of numbers, and the names."""

    name, place = "read-yolo", "yolo"
    mutations = (lines_of_numbers, lines_of_numbers, *m.BLIND)


class OwnTracksEntry(_FormatEntry):
    """``tracks.json``."""

    name, place = "read-tracks", "tracks.json"
    mutations = (m.json_values, m.json_values, *m.BLIND)


ANNOTATION_ENTRIES = (CocoEntry, DavisEntry, CvatEntry, LabelStudioEntry, LabelMeEntry, YoloEntry, OwnTracksEntry)
