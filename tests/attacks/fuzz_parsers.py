"""Coverage-guided fuzzing of the three parsers that read strangers' files, where atheris installs.

``python -m tests.attacks.fuzz_parsers rle|lzstring|json [-runs=100000] [-max_len=400]``: everything behind the name
goes to libFuzzer. Anything but the parser's own typed error ends the run with the input that caused it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["counterview"]):
    from counterview.errors import InputError, MaskError
    from counterview.masks import rle
    from counterview.media.jsonstream import iter_object

SIZE = (37, 41)


def fuzz_rle(data: bytes) -> None:
    """Counts either fill the mask exactly and come back as they were, or are refused."""
    if data[:1] > b"\x7f":  # half of the time, only characters that counts are made of
        data = bytes(48 + byte % 64 for byte in data[1:])
    try:
        mask = rle.decode_counts(data, SIZE)
    except MaskError:
        return
    if mask.to_array().shape != SIZE or rle.decode_counts(rle.encode_counts(mask), SIZE) != mask:
        raise RuntimeError("a mask was decoded wrongly")


def fuzz_lzstring(data: bytes) -> None:
    """LZString text, of any characters."""
    try:
        mask = rle.from_lzstring(data.decode("utf-8", "replace"), SIZE)
    except MaskError:
        return
    if rle.from_lzstring(rle.to_lzstring(mask), SIZE) != mask:
        raise RuntimeError("a mask was decoded wrongly")


def fuzz_json(data: bytes) -> None:
    """Annotation and prediction files, split on the level of takes as the standard library reads them."""
    import json

    path = Path(tempfile.gettempdir()) / "counterview-fuzz.json"
    path.write_bytes(data)
    try:
        parsed = dict(iter_object(path, ()))
    except InputError:
        return
    if json.loads(data) != parsed and parsed == parsed:  # NaN is not equal to itself
        raise RuntimeError("a file was split wrongly")


TARGETS: dict[str, Callable[[bytes], None]] = {"rle": fuzz_rle, "lzstring": fuzz_lzstring, "json": fuzz_json}


def main() -> None:
    """Fuzz one parser."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: python -m tests.attacks.fuzz_parsers {'|'.join(TARGETS)} [libFuzzer options]")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
