"""Connect what happens on the page with functions, in the same way everywhere."""

from __future__ import annotations

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


def listen(event: Callable[..., Any], function: Callable[..., Any], inputs: Any = None, outputs: Any = None) -> Any:
    """Call a function whenever an event happens: each time, without a spinner, and not as a public endpoint.

    Args:
        event: of a component, for example ``button.click``.
        function: gets the values of ``inputs``, then ``request`` and ``event`` if it has such arguments.
        inputs: components.
        outputs: components that get what it returns or yields.
    """
    return event(
        typed(function), inputs, outputs, show_progress="hidden", trigger_mode="multiple", concurrency_limit=None,
        api_visibility="undocumented",
    )  # fmt: skip


async def progress(context: PageContext, session: PageSession, job: Job[Any]) -> AsyncIterator[str]:
    """Lines about a job for the page, until it is over; its error is not raised here.

    Args:
        context: whose job it is.
        session: likewise; it stays in use meanwhile.
        job: the job.

    Yields:
        HTML: the place in the queue, or what is done.
    """
    async for state in context.jobs.watch(job):
        session.use()
        if not state.is_over:
            yield progress_line(state, context.jobs.place(state))
