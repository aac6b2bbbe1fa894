"""Places where an output cannot be written, or must not be: whatever stands there, nothing of others is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np

from tests.attacks import mutations as m
from tests.attacks.entry import Entry

_NAMES = ("out", "a b", "ö", "x" * 255, "y" * 300, ".", "..", "c:d", "con", "-v", "out.", "a\nb", "\udcff")


class OutputEntry(Entry):
    """An output file or folder of a command, at a place of any kind."""

    name = "output"
    mutations = m.BLIND

    def prepare(self) -> None:
        """A marker of a folder of ours, to be damaged."""
        from counterview.media.outputs import MARKER, claim_output_folder

        place = self.folder / "own"
        with claim_output_folder(place, "match") as folder, folder.replace([]) as staged:
            (staged / "mask.png").write_bytes(b"mask")
        self.marker, self.marker_name = (place / MARKER).read_bytes(), MARKER

    def damage(self, rng: Random) -> None:
        """Put something at the place, and a file of the user's beside it."""
        self.root = self.folder / "root"
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "deep").mkdir(parents=True)
        self.others = {self.root / "notes.txt": b"mine", self.root / "deep" / "mask.png": b"mine too"}
        for path, content in self.others.items():
            path.write_bytes(content)
        self.name_of_output = rng.choice(_NAMES)
        kind = rng.choice(
            ("nothing", "file", "folder", "own", "damaged", "link", "loop", "pipe", "below a file", "device")
        )
        self.about = f"{self.name_of_output[:20]!r} {kind}"
        self.path = self.root / self.name_of_output
        self.names = ("root", self.folder.name, "notes.txt", "null", "name")
        if kind == "below a file":
            self.path = self.root / "notes.txt" / self.name_of_output
        elif kind == "device":
            self.path = Path(os.devnull)
        elif self.name_of_output not in (".", ".."):
            with contextlib.suppress(OSError, ValueError):
                self._put(kind, rng)

    def _put(self, kind: str, rng: Random) -> None:
        if kind == "file":
            self.path.write_bytes(rng.randbytes(20))
            self.others[self.path] = self.path.read_bytes()
        elif kind == "folder":
            self.path.mkdir()
            (self.path / "theirs.png").write_bytes(b"theirs")
            self.others[self.path / "theirs.png"] = b"theirs"
        elif kind in ("own", "damaged"):
            self.path.mkdir()
            (self.path / "mask.png").write_bytes(b"mask")
            text = self.marker if kind == "own" else self.damaged(self.marker, "marker", rng)
            if rng.random() < 0.3:  # a list that leads out of the folder
                values = json.loads(self.marker)
                values["files"] = ["../notes.txt", "../deep/mask.png", "/etc/hostname", str(self.root / "notes.txt")]
                text = json.dumps(values).encode()
            (self.path / self.marker_name).write_bytes(text)
        elif kind == "link":
            self.path.symlink_to(rng.choice(("notes.txt", "deep", "nowhere")))
        elif kind == "loop":
            self.path.symlink_to(self.name_of_output)
        elif kind == "pipe":
            os.mkfifo(self.path)

    def read(self, rng: Random) -> str:
        """Write there as a command does; files of others keep every byte, and nothing is left half-written."""
        from counterview.media.files import write_json
        from counterview.media.images import write_image
        from counterview.media.outputs import claim_output_file, claim_output_folder

        try:
            if rng.random() < 0.5:
                with claim_output_folder(self.path, "match") as folder, folder.replace([]) as staged:
                    write_image(staged / "overlay.png", np.zeros((4, 4, 3), np.uint8))
            else:
                with claim_output_file(self.path, "a prediction file", is_own=lambda path: False) as path:
                    write_json(path, {})
            return "answer"
        finally:
            for path, content in self.others.items():
                assert path.read_bytes() == content, f"a file of the user's was changed: {path.name}"
            assert not list(self.root.rglob("*.part")), "a temporary file was left"
