"""The folder of a training run: whose it is, who writes there, and where to resume."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from counterview.errors import OutputError
from counterview.media.outputs import claim_output_folder
from counterview.training import checkpoint as ckpt

logger = logging.getLogger(__name__)

FOLDERS = ("checkpoints", "model", "sheets", "tensorboard")
FILES = ("train.csv", "validation.csv", "best.json", "result.json", "trackers.json")


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a folder without a marker holds a run, as earlier versions left it."""
    root = Path(path)
    return (
        bool(ckpt.list_checkpoints(root / "checkpoints"))
        or ((root / "model").is_dir() and (root / "result.json").is_file())
        or ((root / "train.csv").is_file() and (root / "validation.csv").is_file())
    )


class RunFolder:
    """The folder of a run, held from :meth:`open` to the end of the block, in the main process.

    Args:
        path: the folder.
        resume: continue the run in it.
        overwrite: remove the run in it, or start beside other files.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path, self.resume, self.overwrite = path, resume, overwrite
        self._stack = ExitStack()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self) -> int:
        """Lock the folder, remove what killed runs left half-written, and find the checkpoint to resume from.

        Returns:
            Its step; -1 for a run that starts at its beginning.

        Raises:
            OutputError: other files, a run that is neither resumed nor overwritten, another run that writes there, or
                a folder that cannot be written.
        """
        claim = claim_output_folder(self.path, "train", is_own=is_run, overwrite=self.overwrite)
        folder = self._stack.enter_context(claim)
        checkpoints = self.path / "checkpoints"
        if not self.resume and ckpt.list_checkpoints(checkpoints):
            if not self.overwrite:
                raise OutputError(
                    "holds a run already", path=self.path,
                    fix="Use --resume to continue it, another --out, or --overwrite to remove it.",
                )  # fmt: skip
            self._remove()
        folder.mark()
        newest = None
        if self.resume:
            newest, passed_over = ckpt.latest_checkpoint(checkpoints)
            for error in passed_over:
                ckpt.set_aside(Path(str(error.path)))
            if newest is None:
                logger.warning("%s: nothing to resume from; the run starts at its beginning", self.path)
        ckpt.clean_up(checkpoints)
        ckpt.clean_up(self.path)
        return -1 if newest is None else ckpt.step_of(newest)

    def _remove(self) -> None:
        """Remove the run, and nothing else."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for batch in self.path.glob("nan_step_*"):
            shutil.rmtree(batch, ignore_errors=True)
