"""A fast decoder of LZString's URI-component coding: the 1.8 million masks of Ego-Exo4D are stored in it.

The ``lzstring`` package is the encoder, and the oracle of this decoder in the tests; it decodes ten times as slowly,
bit by bit.
"""

from __future__ import annotations

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
# The 65th character is padding; the original decoder uses the low 6 bits of its index, which are 0.
_BITS = str.maketrans({c: format(i & 63, "06b") for i, c in enumerate(_ALPHABET)})
_CHARACTERS = frozenset(_ALPHABET)
_END = 2


def decompress_uri(text: str, max_length: int = 1 << 24) -> str:
    """Decode text from LZString's ``compressToEncodedURIComponent``.

    Args:
        text: letters, digits, ``+``, ``-`` and ``$``; a space is read as ``+``.
        max_length: limit of the decoded length, since a few bytes can expand to a very long text.

    Raises:
        ValueError: another character, a text that is truncated or damaged, or a decoded text over the limit.
    """
    text = text.replace(" ", "+")
    if not _CHARACTERS.issuperset(text):
        raise ValueError("a character that LZString does not use")
    # Codes have their lowest bit first, characters their highest: in the reversed stream, read from its end, every
    # code is a plain slice.
    stream = text.translate(_BITS)[::-1]
    at, width = len(stream), 3
    entries: list[str] = ["", "", ""]  # the three control codes
    room = 4  # number of codes before the width grows
    parts: list[str] = []
    length = 0

    def literal(bits: int) -> str:
        nonlocal at
        at -= bits
        if at < 0:
            raise ValueError("the text ends too early")
        return chr(int(stream[at : at + bits], 2))

    if at < 2:
        raise ValueError("the text is empty")
    at -= 2
    code = int(stream[at : at + 2], 2)
    if code == _END:
        return ""
    if code == 3:
        raise ValueError("the text begins with no character")
    previous = literal(8 if code == 0 else 16)
    entries.append(previous)
    parts.append(previous)
    while True:
        at -= width
        if at < 0:
            raise ValueError("the text ends too early")
        code = int(stream[at : at + width], 2)
        if code == _END:
            if at == 0:  # the writer pads with at least one bit
                raise ValueError("the text ends too early")
            return "".join(parts)
        if code < _END:
            entries.append(literal(8 if code == 0 else 16))
            code = len(entries) - 1
            room -= 1
            if room == 0:
                room = 1 << width
                width += 1
        if code < len(entries):
            entry = entries[code]
        elif code == len(entries):
            entry = previous + previous[0]
        else:
            raise ValueError("a code that was not defined")
        parts.append(entry)
        length += len(entry)
        if length > max_length:
            raise ValueError("the text is too long")
        entries.append(previous + entry[0])
        room -= 1
        previous = entry
        if room == 0:
            room = 1 << width
            width += 1
