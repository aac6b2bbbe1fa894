"""What a visitor does takes effect in the order in which it was done, whatever overtakes what on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HEADER = "x-counterview-event"
"""Request header in which ``page.js`` numbers the events of a page, from 1."""

PATIENCE_S = 2.0
"""How long an event waits for an earlier one that did not arrive: a request may have been cut off."""

POLL_S = 0.01


class Turns:
    """The order of the events of one page. Events are handled in one event loop; no locks are needed there.

    Args:
        patience_s: how long an event waits for an earlier one that did not arrive.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._over = 0  # this one and all before it
        self._over_early: set[int] = set()
        self._under_way: set[int] = set()

    @asynccontextmanager
    async def turn(self, number: int | None, *, waits: bool = True) -> AsyncIterator[Turn]:
        """Wait until all earlier events took effect; later ones wait for this one until its turn is ended.

        Args:
            number: of the event; one without a number neither waits nor is waited for.
            waits: whether it waits; one that stops something does not.

        Yields:
            the turn, which ends with this context at the latest.
        """
        turn = Turn(self, number)
        if number is None:
            yield turn
            return
        self._under_way.add(number)
        try:
            if waits:
                await self._wait(number)
            yield turn
        finally:
            turn.end()

    async def _wait(self, number: int) -> None:
        until = time.monotonic() + self._patience_s
        while number > self._over + 1:
            if any(earlier < number for earlier in self._under_way):
                until = time.monotonic() + self._patience_s
            elif time.monotonic() >= until:
                self._pass_to(number - 1)
                return
            await asyncio.sleep(POLL_S)

    def _end(self, number: int) -> None:
        self._under_way.discard(number)
        self._over_early.add(number)
        self._pass_to(self._over)

    def _pass_to(self, number: int) -> None:
        self._over = max(self._over, number)
        while self._over + 1 in self._over_early:
            self._over += 1
        self._over_early = {other for other in self._over_early if other > self._over}


class Turn:
    """The turn of one event.

    Args:
        turns: of its page.
        number: of the event; ``None`` for one without.
    """

    def __init__(self, turns: Turns, number: int | None) -> None:
        self._turns, self._number = turns, number

    def end(self) -> None:
        """Let later events go on; a second time this does nothing."""
        if self._number is not None:
            self._turns._end(self._number)
            self._number = None


def event_number(header: str | None) -> int | None:
    """The number of an event as its request says it; ``None`` for a request without one.

    Args:
        header: value of :data:`HEADER`.

    >>> event_number("12"), event_number("-1"), event_number(None)
    (12, None, None)
    """
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 12:
        return None
    return int(header)
