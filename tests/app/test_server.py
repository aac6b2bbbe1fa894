"""What the server of the page answers, to whom, and what it refuses."""

import base64
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from counterview.app.server import ANSWERED
from counterview.cli.main import main
from counterview.cli.serve import read_auth
from counterview.errors import InputError
from tests.app.conftest import serving


@pytest.fixture
def client(served):
    with httpx.Client(base_url=served.address) as made:
        yield made


def test_the_page_sets_a_cookie_and_lets_the_browser_fetch_nothing_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in client.get("/").headers, "a browser keeps its secret"


def test_behind_a_proxy_with_tls_the_cookie_works_in_a_frame(client):
    cookie = client.get("/", headers={"x-forwarded-proto": "https"}).headers["set-cookie"]
    assert "SameSite=None; Secure; Partitioned" in cookie


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/upload",
        "/gradio_api/proxy=http://example.com/", "/gradio_api/info", "/gradio_api/openapi.json",
        "/gradio_api/run/begin",
        "/gradio_api/call/begin",
        "/monitoring", "/monitoring/summary", "/gradio_api/vibe-code",
        "/docs", "/openapi.json",
        "/gradio_api/stream/x/y/z/playlist.m3u8", "/custom_component/a/b/c/d", "/gradio_api/upload_progress",
        "/gradio_api/component_server", "/gradio_api/deep_link", "/login",
        "/files/x/../../etc/passwd", "/page/../server.py",
    ],
)  # fmt: skip
def test_addresses_that_the_page_does_not_need_are_not_there(client, path):
    for method in ("GET", "POST"):
        assert client.request(method, path).status_code in (404, 405), path


def test_encoded_ways_outside_lead_nowhere(served):
    """As they are sent, without the tidying of a client."""
    host, port = served.address[7:-1].split(":")
    for path in (
        "/files/x/..%2f..%2fetc%2fpasswd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static/../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/svelte/../../../../etc/passwd",
        "/gradio_api/file%3d/etc/passwd",
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        assert b"root:" not in answer, path
        assert answer.split(b" ", 2)[1] in (b"400", b"403", b"404", b"405"), path


def test_other_names_of_this_machine_and_other_sites_are_refused(client, served):
    assert client.get("/", headers={"host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"host": "localhost:1"}).status_code == 200
    other = client.post("/gradio_api/queue/join", headers={"origin": "http://attacker.example"}, json={})
    assert other.status_code == 403


def test_nobody_listens_to_another_visitors_page(served):
    owner = "o" * 32
    served.context.sessions.of("listenedto", owner, begin=True)
    for path in ("/gradio_api/queue/data?session_hash=listenedto", "/gradio_api/heartbeat/listenedto"):
        for cookies in ({}, {"counterview": "p" * 32}):
            answer = httpx.get(served.address.rstrip("/") + path, cookies=cookies)
            assert answer.status_code == 403
    assert served.context.sessions.of("listenedto", owner)
    served.context.sessions.end("listenedto", owner)


def test_uploads_need_a_session_and_are_refused_while_they_come(served):
    owner = "o" * 32
    session = served.context.sessions.of("uploader", owner, begin=True)
    address, mine = f"{served.address}upload/{session.token}", {"counterview": owner}
    answer = httpx.post(f"{address}?name=a.png", content=b"x" * 10, cookies=mine)
    assert list(answer.json()) == ["id"]
    assert httpx.post(f"{address}?name=a.png", content=b"x").status_code == 400
    assert httpx.post(f"{served.address}upload/guess?name=a.png", content=b"x", cookies=mine).status_code == 400

    def endless():
        for _ in range(100):
            yield b"x" * 100_000

    answer = httpx.post(f"{address}?name=b.png", content=endless(), cookies=mine)
    assert answer.status_code == 400
    assert "too large" in answer.json()["error"]
    assert len(session.uploads) == 1
    assert session.held_bytes() == 10
    served.context.sessions.end("uploader", owner)
    assert not session.folder.exists()


def test_a_password_is_asked_for_everything(predictor):
    with serving(predictor, auth=("ann", "secret word")) as page:
        for path in ("", "page/page.js", "config", "gradio_api/app_id", "assets/x", "files/a/b"):
            answer = httpx.get(page.address + path)
            assert answer.status_code == 401
            assert "Basic" in answer.headers["www-authenticate"]
        for user, word in (("ann", "secret"), ("bob", "secret word"), ("", "")):
            assert httpx.get(page.address, auth=(user, word)).status_code == 401
        for header in ("Basic", "Basic ???", "Bearer x", "Basic " + base64.b64encode(b"ann").decode()):
            assert httpx.get(page.address, headers={"authorization": header}).status_code == 401
        assert httpx.get(page.address, auth=("ann", "secret word")).status_code == 200
        root = page.context.sessions.root
    assert not root.exists(), "a server that ended leaves nothing"


def test_the_password_file(tmp_path):
    file = tmp_path / "password"
    file.write_text("a long password\r\nsecond line\n")
    assert read_auth(f"ann:{file}") == ("ann", "a long password")
    file.write_text("short\n")
    for text in (f"ann:{file}", "ann", ":x", "ann:", f"ann:{tmp_path / 'none'}"):
        with pytest.raises(InputError):
            read_auth(text)


@pytest.mark.parametrize(
    "options",
    [
        ["--auth", "ann"],
        ["--max-image-mb", "0"],
        ["--device", "abacus"],
        ["--model", "no-such-model"],
        ["--refine", "yes"],
    ],
)
def test_bad_options_are_said_in_one_line(options, capsys):
    assert main(["serve", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("counterview: ")
    assert error.count("\n") == 1


def test_a_port_that_is_taken_is_said(capsys, monkeypatch, predictor):
    from counterview.inference import loading

    asked = {}
    monkeypatch.setattr(loading, "load", lambda *args, **options: asked.update(options) or predictor)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--refine", "auto", "--port", str(taken.getsockname()[1])]) == 2
    assert asked["refine"] == "auto"
    assert "cannot listen to 127.0.0.1:" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_files_go_when_the_process_is_told_to_end(number, code):
    """As ``docker stop`` and Ctrl-C do; an open page, which keeps a request, is cut without a traceback."""
    program = textwrap.dedent("""
        import asyncio
        import sys
        from counterview.app.limits import PageLimits
        from counterview.app.server import run
        from counterview.app.sessions import Sessions

        async def app(scope, receive, send):
            if scope["type"] == "http":
                print("open", flush=True)
                await asyncio.sleep(100)
            while scope["type"] == "lifespan":
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return

        sessions = Sessions(PageLimits())
        try:
            run(app, "127.0.0.1", 0, lambda address: print(sessions.root, address, sep="\\n", flush=True))
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            sessions.close()
    """)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True) as process:
        root = Path(process.stdout.readline().strip())
        assert root.is_dir()
        address = urlsplit(process.stdout.readline().strip())
        with socket.create_connection((address.hostname, address.port), timeout=60) as page:
            page.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert process.stdout.readline() == "open\n"
            process.send_signal(number)
            try:
                assert process.wait(60) == code
                assert process.stderr.read() == ""
            finally:
                process.kill()
    assert not root.exists()


def test_what_is_answered_is_a_short_list():
    for path in ("/", "/config", "/assets/a/b.js", "/page/page.css", "/files/t/a.png", "/gradio_api/heartbeat/ab1"):
        assert ANSWERED.fullmatch(path)
    for path in ("/gradio_api/file=x", "//", "/files/t/a/b", "/gradio_api/heartbeat/a/b"):
        assert not ANSWERED.fullmatch(path)
