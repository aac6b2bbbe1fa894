"""Damage to small valid files: blind, and with their structure in mind, to reach what lies behind checksums."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    40_000_000,
)


def flip(data: bytes, rng: Random) -> bytes:
    """Change a few bytes or bits."""
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out))
        out[at] = out[at] ^ (1 << rng.randrange(8)) if rng.random() < 0.5 else rng.randrange(256)
    return bytes(out)


def truncate(data: bytes, rng: Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data) + 1)]


def numbers(data: bytes, rng: Random) -> bytes:
    """Overwrite one to three places with numbers that lengths and counts are confused by."""
    out = bytearray(data.ljust(8, b"\0"))
    for _ in range(rng.choice((1, 1, 2, 3))):
        form = rng.choice(("<H", ">H", "<I", ">I", "<I", ">I", "<Q", ">Q", "B"))
        size = struct.calcsize(form)
        value = rng.choice(NUMBERS) % (1 << (8 * size))
        struct.pack_into(form, out, rng.randrange(len(out) - size + 1), value)
    return bytes(out)


def blocks(data: bytes, rng: Random) -> bytes:
    """Remove, repeat or move a block."""
    if len(data) < 4:
        return data + b"\0"
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 256)))
    part, kind = data[start:end], rng.randrange(3)
    if kind == 0:
        return data[:start] + data[end:]
    at = rng.randrange(len(data))
    return data[:at] + part * rng.choice((1, 1, 2, 50)) + data[at:]


BLIND: tuple[Mutation, ...] = (flip, flip, truncate, numbers, numbers, blocks)


# ------------------------------------------------------------------------------------------------------- images


def png_chunks(data: bytes, rng: Random) -> bytes:
    """Damage inside the chunks of a PNG, with right checksums."""
    if not data.startswith(b"\x89PNG"):
        return flip(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return flip(data, rng)
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    if kind == b"IDAT" and rng.random() < 0.5:
        try:
            content = zlib.compress(rng.choice(BLIND)(zlib.decompress(content), rng))
        except zlib.error:
            content = flip(content, rng)
    else:
        content = rng.choice(BLIND)(content, rng)
    chunks[index] = (kind if rng.random() < 0.9 else flip(kind, rng)[:4], content)
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


def tags(rng: Random, *, big: bool | None = None) -> bytes:
    """A block of TIFF tags, as EXIF is: some of them right, the others of any type, count and offset."""
    order = rng.choice("<>") if big is None else ">" if big else "<"
    entries, tail = [], b""
    known = (0x0112, 0x0112, 0x8769, 0x8825, 0xA005, 0x010E, 0x011A, 0x0128, 0x9286, 0x927C, 0x0213, 0x02BC, 0x8773)
    count = rng.randrange(1, 12)
    for _ in range(count):
        tag = rng.choice(known) if rng.random() < 0.8 else rng.randrange(65536)
        kind = rng.choice((1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 16, 0, 99))
        values = rng.choice((0, 1, 1, 1, 2, 4, 8, 65535, 2**31, 2**32 - 1))
        value = rng.choice((0, 1, 3, 6, 8, 9, 8 + 12 * count, 30, 2**31, 2**32 - 1, rng.randrange(4096)))
        entries.append(struct.pack(order + "HHII", tag, kind, values, value))
        tail += rng.randbytes(rng.choice((0, 4, 8, 30)))
    start = rng.choice((8, 8, 8, 8, 0, 7, 2**31, 2**32 - 1))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    listed = count if rng.random() < 0.8 else rng.choice((0, 65535, count + 1))
    after = struct.pack(order + "I", rng.choice((0, 0, 0, 8, 2**32 - 1)))
    return head + struct.pack(order + "H", listed) + b"".join(entries) + after + tail


def exif(data: bytes, rng: Random) -> bytes:
    """Put a block of tags into an image where its EXIF is, or damage the block that is there."""
    block = tags(rng)
    if data.startswith(b"\xff\xd8"):
        if rng.random() < 0.4:
            at = data.find(b"Exif\0\0")
            end = at + 200 if at >= 0 else len(data)
            return (
                data[:at] + rng.choice((flip, numbers))(data[at:end], rng)[: end - at] + data[end:] if at > 0 else data
            )
        body = b"Exif\0\0" + block
        segment = b"\xff\xe1" + struct.pack(">H", min(65535, len(body) + 2)) + body
        return data[:2] + segment * rng.choice((1, 1, 2)) + data[2:]
    if data.startswith(b"\x89PNG"):
        chunk = b"eXIf" + block
        return data[:33] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    if data.startswith(b"RIFF"):
        at = data.find(b"EXIF")
        return (
            data[: at + 8] + block[: len(data) - at - 8].ljust(len(data) - at - 8, b"\0") if at > 0 else flip(data, rng)
        )
    return tiff_tags(data, rng)


def tiff_tags(data: bytes, rng: Random) -> bytes:
    """Change fields of entries in the first list of tags of a TIFF file."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return flip(data, rng)
    (start,) = struct.unpack_from(order + "I", data, 4)
    if start + 2 > len(data):
        return flip(data, rng)
    (count,) = struct.unpack_from(order + "H", data, start)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = start + 2 + 12 * rng.randrange(max(1, count))
        if at + 12 > len(out):
            continue
        place = rng.randrange(4)
        if place == 0:
            struct.pack_into(
                order + "H",
                out,
                at,
                rng.choice((256, 257, 258, 259, 262, 277, 278, 279, 273, 322, 323, 339, 34665, rng.randrange(65536))),
            )
        elif place == 1:
            struct.pack_into(order + "H", out, at + 2, rng.choice((1, 2, 3, 4, 5, 7, 12, 13, 99)))
        elif place == 2:
            struct.pack_into(order + "I", out, at + 4, rng.choice(NUMBERS) % 2**32)
        else:
            struct.pack_into(order + "I", out, at + 8, rng.choice((*NUMBERS, rng.randrange(len(out)))) % 2**32)
    return bytes(out)


# ------------------------------------------------------------------------------------------------------- videos

BOXES = tuple(
    b"stsz stts stsc stco co64 ctts stss elst tkhd mdhd mvhd hdlr stsd avcC trun tfhd tfdt trex moov trak mdia".split()
)


def boxes(data: bytes, rng: Random) -> bytes:
    """Overwrite fields of the boxes of an MP4 file."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = [m.start() for m in re.finditer(re.escape(rng.choice(BOXES)), data)]
        if places:
            at = rng.choice(places) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28, 80, 84))
            if 0 <= at <= len(out) - 4:
                struct.pack_into(">I", out, at, rng.choice(NUMBERS) % 2**32)
    return bytes(out)


# ------------------------------------------------------------------------------------------------------- texts

WORDS = (
    "9" * 5000, "-1", "1e999", "0x" + "f" * 4000, "1_0:59:59", "!!bool maybe", "!!float x", "!!int ''", "!!timestamp x",
    "!!timestamp 9999-99-99", "!!binary ===", "!!set {a, b}", "!!omap [1]", "!!pairs [[1]]", "!!null x", "&a [*a]",
    "*none", "<<: *a", "? [1, 2]", "? {a: b}\n: 1", "{<<: [1]}", "!!python/object/apply:os.system [ls]", "[" * 3000,
    "{a: " * 500, "'", '"\\x', "|\n", "%YAML 9.9\n---", "---\n---", "\t", "\x00", "\ud800", "NaN", ".inf", "~",
    "2001-01-01",
    "1 2 3", "- - - -", "@", "`", "!<tag:x> y", "key: value: other", "\u2028", "0b1" + "0" * 9000, "!!str [1]",
    "!!seq {}",
)  # fmt: skip


def yaml_words(data: bytes, rng: Random) -> bytes:
    """Put words that YAML gives a meaning into a text, in the place of values or anywhere."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 3))):
        word = rng.choice(WORDS)
        values = [m.span(1) for m in re.finditer(r"[:\-] ([^\s,{}\[\]]+)", text)]
        start, end = rng.choice(values) if values and rng.random() < 0.7 else (rng.randrange(len(text) + 1),) * 2
        text = text[:start] + word + text[end:]
    if rng.random() < 0.1:
        text = (
            "a0: &a0 [x, x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 25))
            + text
        )
    return text.encode("utf-8", "surrogatepass")


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 255, 65536, 10**6, 2**31, 2**63, 10**400, 1e308, -0.0, 0.5, "", "x", "a/b",
    "../..",
    "/etc", "\0", "\ud800", "x" * 5000, "0", "30", "1e3", [], {}, [[]], [1], [None], [1, 2], [2, 1, 3], {"a": 1},
    {"": {}},
    {"size": [4, 4], "counts": "0"}, {"size": [10**9, 10**9], "counts": [10**18]}, [10**6] * 4, float("nan"),
    float("inf"),
    "owner/name", "http://127.0.0.1:9/x", "folder:/etc", "fastsam:http://127.0.0.1:9/x.pt",
)  # fmt: skip


def json_values(data: bytes, rng: Random) -> bytes:
    """Replace, remove or rename values of a JSON text."""
    try:
        content = json.loads(data)
    except ValueError:
        return flip(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = change_value(content, rng)
    return json.dumps(content).encode()


def change_value(content: Any, rng: Random) -> Any:
    """A value of JSON with something in it changed."""
    parent, key, node = None, None, content
    for _ in range(rng.randrange(1, 10)):
        if isinstance(node, dict) and node:
            parent, key = node, rng.choice(list(node))
        elif isinstance(node, list) and node:
            parent, key = node, rng.randrange(len(node))
        else:
            break
        node = parent[key]
    if parent is None:
        return copy.deepcopy(rng.choice(VALUES))
    kind = rng.randrange(6)
    if kind == 0 and isinstance(parent, dict):
        parent[rng.choice(("x", "", "../x", "\0", "size", "masks", "9" * 30, "-1"))] = parent.pop(key)
    elif kind == 1:
        del parent[key]
    elif kind == 2 and isinstance(node, int) and not isinstance(node, bool):
        parent[key] = rng.choice((node + 1, -node, node * 1000, 0.5, 10**30))
    elif kind == 3 and isinstance(node, str) and node:
        parent[key] = flip(node.encode("utf-8", "surrogatepass"), rng).decode("latin-1")
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return content


# ------------------------------------------------------------------------------------------------------- archives


def zip_members(data: bytes, rng: Random) -> bytes:
    """Damage a member of a zip archive, with right checksums; the way it is packed stays, or not."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return flip(data, rng)
    if not members:
        return flip(data, rng)
    out = io.BytesIO()
    chosen = rng.randrange(len(members))
    with zipfile.ZipFile(out, "w") as archive:
        for number, (info, content) in enumerate(members):
            packing = info.compress_type
            if number == chosen:
                content = rng.choice((npy_header, *BLIND))(content, rng)
                if rng.random() < 0.1:
                    packing = rng.choice(
                        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
                    )
            archive.writestr(zipfile.ZipInfo(info.filename), content, packing)
    return out.getvalue()


def zip_fields(data: bytes, rng: Random) -> bytes:
    """Overwrite fields of the records of a zip archive: versions, flags, packing, sizes, names."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = [m.start() for m in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06|\x06\x06|\x06\x07)", data)]
        if places:
            at = rng.choice(places) + rng.choice((4, 6, 8, 10, 14, 18, 20, 22, 24, 26, 28, 30, 32, 42, 46))
            if at + 4 <= len(out):
                form = rng.choice("HI")
                value = rng.choice((*NUMBERS, 1, 9, 12, 14, 93, 97, 0x800, 0x801)) % (2**16 if form == "H" else 2**32)
                struct.pack_into("<" + form, out, at, value)
    return bytes(out)


DESCRIPTIONS = (
    "|b1", "|u1", "<i8", "<f4", "|O", "<U3", "<c16", "<M8[s]", "|V9", "|S999999999", "[('a', '<i4')]", "", "q", None, 3,
    ("<i4", (2,)), ["<i4"], "<f2", ">u4", "<i999", "|b1|b1",
)  # fmt: skip
SHAPES = (
    (), (0,), (3,), (2, 24, 32), (24, 32), (2, 4), (2.0, 4.0), (True, 24, 32), (-1, 24, 32), (10**12, 24, 32), (2**63,
    1, 1),
    (None,), "12", 5, [2, 4], (1,) * 40, ((2, 4),), {"a": 1},
)  # fmt: skip


def npy_header(data: bytes, rng: Random) -> bytes:
    """Another header for an array: dtype, order, shape, version, or its text damaged."""
    if not data.startswith(b"\x93NUMPY") or len(data) < 12:
        return flip(data, rng)
    (length,) = struct.unpack_from("<H", data, 8)
    text, values = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        text = re.sub(r"'descr': [^,]+", lambda _: f"'descr': {rng.choice(DESCRIPTIONS)!r}", text)
    elif kind == 1:
        text = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {rng.choice(SHAPES)!r}", text)
    elif kind == 2:
        text = rng.choice((flip, blocks, truncate))(text.encode("latin-1"), rng).decode("latin-1")
    else:
        text = rng.choice(
            ("{", "(" * 200, "1 or 2", "{'descr': 1or 2}", "__import__('os')", "{'descr': '\\d'}", "9" * 6000)
        )
    version = rng.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\0\0", b"\xff\xff"))
    body = text.encode("latin-1") + b"\n"
    size = len(body) if rng.random() < 0.9 else rng.choice(NUMBERS)
    form = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, size % (2**16 if form == "<H" else 2**32)) + body + values


def safetensors_header(data: bytes, rng: Random) -> bytes:
    """Another header for a file of weights, with its right length or not."""
    if len(data) < 9:
        return flip(data, rng)
    (length,) = struct.unpack_from("<Q", data, 0)
    header, values = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        header = json_values(header, rng)
    elif kind == 1:
        header = rng.choice(BLIND)(header, rng)
    elif kind == 2 and len(values) >= 4:
        bad = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff"))  # NaN and infinities
        at = 4 * rng.randrange(len(values) // 4)
        values = values[:at] + bad + values[at + 4 :]
    else:
        values = rng.choice(BLIND)(values, rng)
    size = len(header) if rng.random() < 0.9 else rng.choice((*NUMBERS, 2**63, 2**64 - 1))
    return struct.pack("<Q", size) + header + values
