"""Connect what happens on the page with functions, in the same way everywhere."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from counterview.app.messages import progress_line

if TYPE_CHECKING:
    from counterview.app.context import PageContext
    from counterview.app.jobs import Job
    from counterview.app.sessions import PageSession


def typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell Gradio which arguments are the request and the event: it finds them by their types.

    Gradio is not imported with this package, so annotations cannot name its types.

    Args:
        function: of which ``request`` gets the request, and ``event`` the event's data.
    """
    import gradio as gr

    known = {"request": gr.Request, "event": gr.EventData}
    named = {name: known[name] for name in inspect.signature(function).parameters if name in known}
    getattr(function, "__func__", function).__annotations__ = named
    return function


def listen(
    context: PageContext,
    event: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Any = None,
    outputs: Any = None,
    *,
    newest: bool = False,
    waits: bool = True,
) -> Any:
    """Call a function whenever an event happens: each time, in the order of events, and not as a public endpoint.

    Args:
        context: what the tabs share.
        event: of a component, for example ``button.click``.
        function: gets the values of ``inputs``, then ``request`` and ``event`` if it has such an argument.
        inputs: components.
        outputs: components that get what it returns or yields.
        newest: whether, while one event is handled, only the newest of the others counts, as for a value that changes.
        waits: whether it waits for what the visitor did before; what stops something does not.
    """
    return event(
        typed(in_turn(context, function, waits=waits)), inputs, outputs, show_progress="hidden",
        trigger_mode="always_last" if newest else "multiple", concurrency_limit=None, api_visibility="undocumented",
    )  # fmt: skip


def in_turn(context: PageContext, function: Callable[..., Any], *, waits: bool = True) -> Callable[..., Any]:
    """A function that is called once what the same visitor did before has taken effect.

    A generator's turn ends with its first value: by then it changed what it changes, and goes on to show progress.

    Args:
        context: whose sessions keep the order.
        function: with an argument ``request``; a plain function is called in a thread.
        waits: whether it waits; later events wait for it in any case.
    """
    signature = inspect.signature(function)
    place = list(signature.parameters).index("request")

    async def call(*given: Any) -> Any:
        async with context.turn(given[place], waits=waits):
            if inspect.iscoroutinefunction(function):
                return await function(*given)
            return await asyncio.to_thread(function, *given)

    async def iterate(*given: Any) -> AsyncIterator[Any]:
        async with context.turn(given[place], waits=waits) as turn:
            async for update in function(*given):
                turn.end()
                yield update

    wrapped: Any = iterate if inspect.isasyncgenfunction(function) else call
    wrapped.__name__ = function.__name__
    wrapped.__signature__ = signature
    return wrapped


async def progress(context: PageContext, session: PageSession, job: Job[Any]) -> AsyncIterator[str]:
    """Lines about a job for the page, until it is over; its error is not raised here.

    Args:
        context: whose job it is.
        session: likewise; it stays in use meanwhile.
        job: the job.

    Yields:
        HTML: the place in the queue, or what is done; nothing once a later job took its place.
    """
    async for state in context.jobs.watch(job):
        session.use()
        if not state.is_over and not state.is_replaced:
            yield progress_line(state, context.jobs.place(state))
