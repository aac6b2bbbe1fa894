"""LZString's decompressFromEncodedURIComponent by the standard library alone, to read takes back without our code."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"


def decompress(text: str) -> str:
    """Undo the compression: 6 bits a character, least significant bit of each number first, growing dictionary."""
    bits = (int(b) for c in text for b in format(ALPHABET.index(c), "06b"))

    def take(count: int) -> int:
        return sum(next(bits) << i for i in range(count))

    table: dict[int, str] = {}
    size, width, left = 4, 3, 4
    first = take(2)
    if first == 2:
        return ""
    word = chr(take(8 if first == 0 else 16))
    table[3] = word
    out = [word]
    while True:
        code = take(width)
        if code == 2:
            return "".join(out)
        if code in (0, 1):
            table[size] = chr(take(8 if code == 0 else 16))
            code, size, left = size, size + 1, left - 1
        if left == 0:
            left, width = 1 << width, width + 1
        entry = table[code] if code in table else word + word[0]
        out.append(entry)
        table[size] = word + entry[0]
        size, left, word = size + 1, left - 1, entry
        if left == 0:
            left, width = 1 << width, width + 1
