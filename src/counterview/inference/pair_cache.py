"""What is computed once for a pair of encoded images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from counterview.inference.encoded import ImageEncoding

V = TypeVar("V")


class PairCache(Generic[V]):
    """A value for each ordered pair of encoded images, kept while both images are in use."""

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[ImageEncoding, WeakKeyDictionary[ImageEncoding, V]] = WeakKeyDictionary()

    def get(self, query: ImageEncoding, target: ImageEncoding) -> V | None:
        """The value of a pair, if there is one."""
        of_query = self._values.get(query)
        return None if of_query is None else of_query.get(target)

    def __len__(self) -> int:
        return sum(len(of_query) for of_query in self._values.values())

    def put(self, query: ImageEncoding, target: ImageEncoding, value: V) -> V:
        """Keep the value of a pair, which must hold neither image: it would never be forgotten."""
        return self._values.setdefault(query, WeakKeyDictionary()).setdefault(target, value)
