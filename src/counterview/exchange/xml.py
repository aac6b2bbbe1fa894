"""Read XML files of others: elements as they come, and nothing that XML can do beside them.

A document type, and with it every entity of its own and every reference to another file, is refused; files, elements
and their depth are limited.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from xml.parsers import expat

from counterview.errors import AnnotationError, InputError, shown
from counterview.guard import read_file, reason

MAX_DEPTH = 32
MAX_ELEMENTS = 5_000_000
MAX_TEXT = 4096
"""Characters of the text of an element that are kept."""

Start = Callable[[tuple[str, ...], dict[str, str]], None]
End = Callable[[tuple[str, ...], str], None]


def parse_xml(
    path: str | os.PathLike[str],
    start: Start,
    end: End,
    comment: Callable[[str], None] = lambda _: None,
    *,
    max_bytes: int,
) -> None:
    """Call functions for the elements of an XML file in their order.

    Args:
        path: the file.
        start: takes the names of an element and of those around it, outermost first, and its attributes.
        end: takes the same names and the element's text, spaces around it removed.
        comment: takes the text of a comment.
        max_bytes: larger files are refused.

    Raises:
        AnnotationError: not well-formed, a document type, or too much of anything; it names the line. What the
            functions raise gets the line too.
    """
    data = read_file(path, AnnotationError, max_bytes=max_bytes)
    parser = expat.ParserCreate()
    names: list[str] = []
    texts: list[list[str]] = []
    count = 0

    def on_start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(names) >= MAX_DEPTH or count > MAX_ELEMENTS:
            raise AnnotationError("holds too many elements, or too deep ones", found=shown(name, 40))
        names.append(name)
        texts.append([])
        start(tuple(names), attributes)

    def on_end(_: str) -> None:
        end(tuple(names), "".join(texts.pop()).strip())
        names.pop()

    def on_text(text: str) -> None:
        if texts and sum(map(len, texts[-1][:64])) < MAX_TEXT and len(texts[-1]) < 64:
            texts[-1].append(text[:MAX_TEXT])

    def refuse(*_: object) -> None:
        raise AnnotationError("holds a document type or an entity, which annotations have no need of")

    parser.StartElementHandler, parser.EndElementHandler = on_start, on_end
    parser.CharacterDataHandler, parser.CommentHandler = on_text, comment
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = refuse  # type: ignore[assignment]
    try:
        parser.Parse(data, True)
    except InputError as error:
        raise AnnotationError(
            f"line {parser.CurrentLineNumber}: {error.problem}", path=path, found=error.found,
            expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    except (expat.ExpatError, ValueError, LookupError) as failure:  # the last two: an encoding that there is not
        raise AnnotationError("is not XML", path=path, found=reason(failure)) from None
