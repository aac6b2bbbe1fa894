"""Events take effect in the order of their numbers. Oracle: the numbers."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from counterview.app.events import in_turn
from counterview.app.turns import Turns, event_number


class Context:
    """Of one page, as functions of the page need it."""

    def __init__(self, patience_s=5.0):
        self.turns = Turns(patience_s)

    def turn(self, request, *, waits=True):
        return self.turns.turn(request.number, waits=waits)


def request(number):
    return SimpleNamespace(number=number)


def in_a_thread(coroutine):
    """Run a coroutine to its end; a browser of another test may keep a loop of its own in this thread."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()


def handled(context, numbers, *, waits=True, work_s=0.0):
    """The order in which events that arrive as ``numbers`` are handled."""
    order = []

    async def handler(request):
        await asyncio.sleep(work_s * (5 - request.number))  # the earlier one, the longer
        order.append(request.number)

    wrapped = in_turn(context, handler, waits=waits)

    async def all_of_them():
        await asyncio.gather(*(wrapped(request(number)) for number in numbers))

    in_a_thread(all_of_them())
    return order


@pytest.mark.parametrize("arrived", [(1, 2, 3, 4), (4, 3, 2, 1), (2, 1, 4, 3)])
def test_events_are_handled_in_the_order_in_which_they_were_made(arrived):
    assert handled(Context(), arrived, work_s=0.02) == [1, 2, 3, 4]


def test_without_turns_they_would_not_be():
    assert handled(Context(), (4, 3, 2, 1), waits=False, work_s=0.02) == [4, 3, 2, 1]


def test_an_event_that_never_comes_is_not_waited_for_long():
    start = time.monotonic()
    assert handled(Context(0.2), (1, 3, 4)) == [1, 3, 4]
    assert 0.15 < time.monotonic() - start < 3


def test_an_event_that_comes_too_late_is_handled_all_the_same():
    context = Context(0.05)
    assert handled(context, (1, 3)) == [1, 3]
    assert handled(context, (2,)) == [2]
    assert handled(context, (4,)) == [4]


def test_what_is_worked_on_is_waited_for_longer_than_what_never_comes():
    assert handled(Context(0.05), (4, 1), work_s=0.1) == [1, 4]


def test_a_generator_lets_others_go_on_with_its_first_value():
    context, order = Context(), []

    async def progress(request):
        order.append("changed")
        yield 1
        await asyncio.sleep(0.3)
        order.append("done")
        yield 2

    async def click(request):
        order.append("click")

    async def both():
        async def read():
            return [value async for value in in_turn(context, progress)(request(1))]

        values, _ = await asyncio.gather(read(), in_turn(context, click)(request(2)))
        assert values == [1, 2]

    in_a_thread(both())
    assert order == ["changed", "click", "done"]


def test_a_failed_event_is_not_waited_for():
    context = Context()

    async def fail(request):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        in_a_thread(in_turn(context, fail)(request(1)))
    assert handled(context, (2,)) == [2]


def test_numbers_of_headers():
    assert [event_number(text) for text in ("7", "", "x", "-3", "²", "9" * 20, None)] == [7, *[None] * 6]
