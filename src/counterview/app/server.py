"""The server of the page: what it answers, to whom, and nothing else."""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qs, urlsplit

from counterview.app.context import COOKIE, PageContext
from counterview.app.gradio_states import GradioStates
from counterview.app.limits import Kind
from counterview.app.messages import one_line
from counterview.app.theme import asset, make_theme, style_sheet
from counterview.errors import CounterviewError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI, Request, Response

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")

ANSWERED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|/(assets|static|svelte)/.*"
    r"|/(page/page\.(js|css)|upload/[\w-]+|files/[\w-]+/[^/]+)"
    r"|/gradio_api/(queue/(join|data)|heartbeat/[\w-]+|cancel|reset|startup-events|app_id)/?"
)
"""The addresses that are answered. Gradio has more, which read and write files or fetch addresses; no part of the page
needs them."""

_KEY = re.compile(r"/gradio_api/heartbeat/([\w-]+)/?")

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""The browser fetches nothing from elsewhere. Gradio's templates need scripts that are made of text."""

SPACES = "https://huggingface.co https://*.hf.space"
"""Where a Hugging Face Space is shown in a frame."""


def make_app(context: PageContext, *, auth: tuple[str, str] | None = None, loopback: bool = True) -> Any:
    """The ASGI application of the page.

    Args:
        context: what its tabs share.
        auth: user and password that every request needs.
        loopback: answer only to names of this machine, as a page of another site that resolves its own name to this
            machine would not be; for a server that listens to this machine alone.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(context.sessions.root / "gradio")
    try:
        import gradio as gr
        from fastapi import FastAPI
    except ImportError:
        raise MissingExtraError("app", "the page in the browser") from None
    from counterview.app.build import build_page

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            context.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_routes(app, context)
    page = build_page(context)
    gr.mount_gradio_app(
        app, page, path="/", footer_links=[], run_history=False, allowed_paths=[], show_error=False,
        max_file_size=1, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=make_theme(),
        head='<link rel="stylesheet" href="page/page.css"><script src="page/page.js"></script>',
    )  # fmt: skip
    context.sessions.states = GradioStates(page)
    return Guard(app, context, auth, loopback=loopback)


def _add_routes(app: FastAPI, context: PageContext) -> None:
    """What the page needs beside Gradio: its script, uploads and downloads.

    Args:
        app: gets the routes; Gradio is mounted behind them.
        context: whose sessions hold the files.
    """
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import FileResponse, JSONResponse, Response

    async def script(request: Request) -> Response:
        content = asset("page.js") + asset("videos.js")
        return Response(content, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    async def style(request: Request) -> Response:  # not Gradio's css, which takes selectors apart at commas
        return Response(style_sheet(), media_type="text/css", headers={"Cache-Control": "no-cache"})

    async def upload(request: Request) -> Response:
        session = None
        try:
            session = context.sessions.by_token(request.path_params["token"], request.cookies.get(COOKIE))
            asked = request.query_params.get("kind")
            kind: Kind = next((known for known in get_args(Kind) if known == asked), "image")
            stated = request.headers.get("content-length", "")
            name, size = request.query_params.get("name", ""), int(stated) if stated.isdigit() else None
            with session.receive(name, kind, size) as incoming:
                async for piece in request.stream():
                    incoming.write(piece)
            return JSONResponse({"id": incoming.key})
        except CounterviewError as error:
            return JSONResponse({"error": one_line(error, session)}, status_code=400, headers={"Connection": "close"})

    async def download(request: Request) -> Response:
        session, name = None, request.path_params["name"]
        try:
            session = context.sessions.by_token(request.path_params["token"], request.cookies.get(COOKIE))
            path = await run_in_threadpool(session.fetch, name)
        except CounterviewError as error:
            return JSONResponse({"error": one_line(error, session)}, status_code=404)
        inline = request.query_params.get("show") == "1"  # a video that plays on the page
        return FileResponse(
            path, filename=name, content_disposition_type="inline" if inline else "attachment",
            headers={"Cache-Control": "private, no-store"},
        )  # fmt: skip

    app.add_route("/page/page.js", script)
    app.add_route("/page/page.css", style)
    app.add_route("/upload/{token}", upload, methods=["POST"])
    app.add_route("/files/{token}/{name}", download)


class Guard:
    """Stands before every request: password, cookie, the addresses that are answered, and headers of answers.

    Args:
        app: the ASGI application behind it.
        context: whose sessions requests belong to.
        auth: user and password that every request needs.
        loopback: answer only to names of this machine.
    """

    def __init__(self, app: Any, context: PageContext, auth: tuple[str, str] | None, *, loopback: bool) -> None:
        self.app, self.context, self.auth, self.loopback = app, context, auth, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on (ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        owner = _cookie(headers.get("cookie", ""))
        refused = self._refuse(scope, headers, owner)
        if refused is not None:
            status, text = refused
            extra = [(b"www-authenticate", b'Basic realm="Counterview", charset="UTF-8"')] if status == 401 else []
            await _answer(send, status, text, extra)
            return
        added = [
            (b"content-security-policy", _policy().encode()), (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"), (b"x-robots-tag", b"noindex"),
        ]  # fmt: skip
        if owner is None and scope["path"] == "/":
            added.append((b"set-cookie", _new_cookie(headers).encode()))

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope, headers: dict[str, str], owner: str | None) -> tuple[int, str] | None:
        """Why a request is not answered: a status and a text; ``None`` if it is."""
        if not ANSWERED.fullmatch(scope["path"]):
            return 404, "there is no such page"
        host = headers.get("host", "")
        if self.loopback and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return 403, "this page is served to this machine alone"
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != host:
            return 403, "a request of another site"
        if self.auth is not None and not _is_allowed(headers.get("authorization", ""), self.auth):
            return 401, "user and password, please"
        heartbeat = _KEY.fullmatch(scope["path"])
        keys = [heartbeat[1]] if heartbeat else []
        keys += parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [])
        if any(not self.context.sessions.allows(key, owner) for key in keys):
            return 403, "the session is another visitor's"
        return None


def _cookie(header: str) -> str | None:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and 20 <= len(found.value) <= 100 else None


def _new_cookie(headers: dict[str, str]) -> str:
    value = f"{COOKIE}={secrets.token_urlsafe(24)}; Path=/; HttpOnly"
    # Behind a proxy with TLS the page may be in a frame of another site, as on Hugging Face.
    is_secure = headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"
    return value + ("; SameSite=None; Secure; Partitioned" if is_secure else "; SameSite=Strict")


def _policy() -> str:
    return POLICY + (f" {SPACES}" if os.environ.get("SPACE_ID") else "")


def _is_allowed(header: str, auth: tuple[str, str]) -> bool:
    kind, _, text = header.partition(" ")
    try:
        given = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, f"{auth[0]}:{auth[1]}".encode())


async def _answer(send: Send, status: int, text: str, extra: list[tuple[bytes, bytes]]) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def run(app: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, or until the process is told to end (``SIGTERM``, as a container is): then it returns.

    Args:
        app: of :func:`make_app`.
        host: address to listen to.
        port: 0 takes a free one.
        ready: called with the page's address once it listens.

    Raises:
        OutputError: the address or port cannot be had.
        KeyboardInterrupt: Ctrl-C.
    """
    import signal
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OutputError(
            f"cannot listen to {host}:{port}", found=error.strerror, fix="Give another --port.", errno=error.errno
        ) from None
    shown_host = f"[{host}]" if ":" in host else host
    address = f"http://{shown_host}:{listener.getsockname()[1]}/"
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, timeout_keep_alive=75, lifespan="on"
    )
    received: list[int] = []

    class CleanServer(uvicorn.Server):
        """uvicorn's own raises a signal again when it ends, which would keep files from being removed."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Note signals, and end the server."""

            def note(number: int, frame: FrameType | None) -> None:
                received.append(number)
                # Pages that are open keep a connection: that it is cut now is not worth a traceback.
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
                self.handle_exit(number, frame)

            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Say where the page is once it is there."""
            await super().startup(sockets=sockets)
            ready(address)

    listener.listen(128)
    try:
        CleanServer(config).run(sockets=[listener])
    finally:
        listener.close()
    if signal.SIGINT in received:
        raise KeyboardInterrupt
