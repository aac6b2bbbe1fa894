"""Checks of a file of ``torch.save`` before ``torch.load(weights_only=True)`` reads it.

That reader runs no code of the file, but it may be asked for any amount of memory (``bytearray(10**12)``), and for time
without end (the hash of a tuple that holds itself sixty times over). A state dict needs neither.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from counterview.errors import CheckpointError
from counterview.guard import library_errors, regular_file
from counterview.media.npy import open_archive

_UNREADABLE = "cannot be read as plain tensors"
_FIX = "Save the state dict alone (torch.save(model.state_dict(), ...)), or as safetensors."
_MAX_OPERATIONS = 5_000_000
_MAX_VALUES = 10_000_000
"""Values that one value of the file may hold, if those that are repeated are counted each time."""

_NAMES = re.compile(
    r"collections (OrderedDict|defaultdict|Counter)|torch (\w+Storage|Size|device|b?float\d+|complex\d+|u?int\d+|bool)"
    r"|torch\.storage (Untyped|Typed|_Typed|_Legacy)Storage|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
)
"""What a state dict is made of."""


def check_torch_file(path: Path) -> None:
    """Refuse a file that is more than a state dict, or that grows while it is read.

    Raises:
        CheckpointError: missing, damaged, compressed, or holding what no state dict holds.
    """
    regular_file(path, CheckpointError)
    with library_errors(CheckpointError, _UNREADABLE, path=path, fix=_FIX):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as handle:
                for _ in range(4):  # the format of torch before 1.6: number, version, system, content; then the values
                    _check_pickle(handle, path)
            return
        with open_archive(path, CheckpointError, _UNREADABLE) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(_UNREADABLE, path=path, found="compressed values", fix=_FIX)
            pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
            for member in pickles:
                with archive.open(member) as stream:
                    _check_pickle(stream, path)


def _check_pickle(stream: IO[bytes], path: Path) -> None:
    """Follow a pickle without building anything: only how many values each value holds."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}

    def pop(count: int) -> int:
        taken = stack[len(stack) - count :]
        if len(taken) < count:
            raise ValueError("a value is missing")
        del stack[len(stack) - count :]
        return sum(taken)

    def pop_to_mark() -> int:
        return pop(len(stack) - marks.pop())

    for number, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        name = operation.name
        if name in ("PROTO", "STOP", "FRAME"):
            continue
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE", "LIST", "DICT"):
            stack.append(1 + pop_to_mark())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(1 + pop(int(name[-1])))
        elif name in ("APPENDS", "SETITEMS"):
            inner = pop_to_mark()
            stack.append(pop(1) + inner)
        elif name in ("APPEND", "REDUCE", "BUILD", "NEWOBJ"):
            stack.append(pop(2))
        elif name == "SETITEM":
            stack.append(pop(3))
        elif name == "BINPERSID":
            stack.append(1 + pop(1))
        elif name == "POP":
            pop(1)
        elif name == "GLOBAL":
            if not _NAMES.fullmatch(str(argument)):
                raise CheckpointError(_UNREADABLE, path=path, found=str(argument).replace(" ", "."), fix=_FIX)
            stack.append(1)
        elif not operation.stack_before and len(operation.stack_after) == 1:
            stack.append(1)
        else:
            raise CheckpointError(_UNREADABLE, path=path, found=f"a pickle with {name}", fix=_FIX)
        if number > _MAX_OPERATIONS or (stack and stack[-1] > _MAX_VALUES):
            raise CheckpointError(_UNREADABLE, path=path, found="values without end", fix=_FIX)
