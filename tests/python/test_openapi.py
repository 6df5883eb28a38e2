"""docs/openapi.json against its specification, docs/protocol.md and what gateways and generators answer."""

import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import redis
from openapi_spec_validator import OpenAPIV31SpecValidator
from websockets.sync.client import connect

from documents import OPENAPI, PROTOCOL, check_answer, references, resolve, rows_below
from servers import DEADLINE_SECONDS, ROOT, Gateway, Redis, binary, eventually, free_port

ORIGIN = "https://charts.example"
BAR = {"time": 1697097600000, "open": 1.5, "high": 2, "low": 1, "close": 1.25, "volume": 3}
HISTORY = "/udf/history?symbol=AAPL&resolution=1&"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket"}
HANDSHAKE = UPGRADE | {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}


def schema(name):
    return {"$ref": f"#/components/schemas/{name}"}


def ask(address, method, path, headers=None, of=None, narrower=None):
    """Sends a request and holds the answer against the document; its status and its body."""
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        status = answer.status
        # What comes after a 101 is no body.
        body = b"" if status == 101 else answer.read()
        documented = of or path.split("?")[0]
        found = check_answer(documented, method, status, answer.headers, body, narrower)
        assert found == [], (method, path, body[:300])
        return status, body
    finally:
        connection.close()


def test_the_document_is_openapi():
    OpenAPIV31SpecValidator(OPENAPI).validate()
    for reference in references(OPENAPI):
        resolve(OPENAPI, {"$ref": reference})


def test_the_document_is_of_this_version():
    manifest = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{OPENAPI["info"]["version"]}"' in manifest


def test_the_image_is_built_with_both_documents():
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"!docs/asyncapi.json", "!docs/openapi.json"} <= set(sent), "the build reads them"


def test_routes_and_refusals_are_those_of_the_page():
    routes = {row[0] for row in rows_below("## HTTP")}
    documented = set(OPENAPI["paths"])
    assert routes <= documented, "docs/protocol.md lists routes that the document does not"
    for path in documented - routes:
        assert re.search(rf"`{re.escape(path)}`", PROTOCOL) or path.startswith(("/udf/", "/ui/", "/ops")), path
    refused = {row[0] for row in rows_below("### Refused handshakes")}
    statuses = set(OPENAPI["paths"]["/api/v1/ws"]["get"]["responses"]) - {"101"}
    assert statuses <= refused
    assert refused - statuses <= set(OPENAPI["x-everywhere"])
    assert OPENAPI["paths"]["/ws"]["get"]["responses"] == OPENAPI["paths"]["/api/v1/ws"]["get"]["responses"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("openapi")


@pytest.fixture(scope="module")
def store(folder):
    server = Redis(folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def address(store, folder):
    """A gateway that has bars and lets pages of one origin read."""
    (folder / "symbols.toml").write_text('[symbols.AAPL]\nexchange = "NASDAQ"\ntype = "stock"\n')
    flags = ["--cors-origin", ORIGIN, "--symbols-file", str(folder / "symbols.toml")]
    gateway = Gateway(store.url, folder, *flags)
    try:
        gateway.start()
        publisher = redis.Redis.from_url(store.url)
        for symbol, minute, closed in [("AAPL", 0, True), ("AAPL", 1, False), ("MSFT", 0, False)]:
            bar = BAR | {"time": BAR["time"] + minute * 60_000} | ({"closed": True} if closed else {})
            message = {"symbol": symbol, "resolution": "1", "bar": bar}
            publisher.publish(f"bars:{symbol}:1", json.dumps(message))
        last = "/udf/symbols?symbol=MSFT"
        eventually("the bars are there", lambda: b"ticker" in ask(gateway.address, "GET", last)[1])
        yield gateway.address
    finally:
        gateway.stop()


def test_every_route_answers_as_documented(address):
    for path in [path for path in OPENAPI["paths"] if "{" not in path]:
        is_socket = path.endswith("/ws")
        status, _ = ask(address, "GET", path)
        assert status == (426 if is_socket else 200)
        assert ask(address, "HEAD", path)[0] == (405 if is_socket else status), path
        for method in ("POST", "DELETE"):
            assert ask(address, method, path)[0] == 405, (method, path)
        for origin in (ORIGIN, "https://other.example"):
            ask(address, "GET", path, {"Origin": origin})
            ask(address, "OPTIONS", path, {"Origin": origin, "Access-Control-Request-Method": "GET"})


@pytest.mark.parametrize("name", ["barcast.js", "style.css", "favicon.svg", "index.html"])
def test_parts_of_the_page(address, name):
    assert ask(address, "GET", f"/ui/{name}", of="/ui/{file}")[0] == 200


def test_what_is_not_there(address):
    for path in ("/ui/nothing.js", "/nothing", "/udf", "/api/v1", "/ui/", "/%zz"):
        assert ask(address, "GET", path, of="/ui/{file}")[0] == 404
    assert ask(address, "GET", "/udf/marks", of="/udf/{other}")[0] == 404


def test_the_documents_are_served_as_they_are(address):
    for name in ("asyncapi.json", "openapi.json"):
        _, body = ask(address, "GET", f"/api/v1/{name}")
        assert body == (ROOT / "docs" / name).read_bytes()


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/healthz", "Alive"),
        ("/udf/symbols?symbol=AAPL", "UdfSymbol"),
        ("/udf/symbols?symbol=NASDAQ:AAPL", "UdfSymbol"),
        ("/udf/symbols?symbol=NONE", "UdfError"),
        ("/udf/symbols", "UdfError"),
        ("/udf/search?query=a&type=stock&exchange=NASDAQ&limit=5", None),
        ("/udf/search?limit=x", "UdfError"),
        (HISTORY + "from=1697097600&to=1697097720", "UdfBars"),
        (HISTORY + "to=1697097720&countback=1", "UdfBars"),
        (HISTORY + "from=1797097600&to=1797097720", "UdfNoData"),
        (HISTORY + "from=1&to=2", "UdfNoData"),
        (HISTORY + "from=2&to=1", "UdfError"),
        (HISTORY + "to=x", "UdfError"),
        ("/udf/history?symbol=AAPL&resolution=7&from=1&to=2", "UdfError"),
        ("/udf/history?symbol=AAPL&resolution=D&from=1&to=2", "UdfError"),
    ],
)
def test_every_answer_of_a_route(address, path, kind):
    assert ask(address, "GET", path, narrower=kind and schema(kind))[0] == 200


def test_handshakes(address):
    for path in ("/ws", "/api/v1/ws"):
        assert ask(address, "GET", path, HANDSHAKE)[0] == 101
        assert ask(address, "GET", path, HANDSHAKE | {"Sec-WebSocket-Key": "short"})[0] == 400
        assert ask(address, "GET", path, HANDSHAKE | {"Sec-WebSocket-Version": "8"})[0] == 426
        assert ask(address, "POST", path, HANDSHAKE)[0] == 405


def test_what_hyper_refuses(address):
    assert ask(address, "GET", "/healthz", {"X-Long": "x" * 20_000})[0] == 431
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS) as raw:
        raw.sendall(b"no HTTP\r\n\r\n")
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        assert answer.status == 400
        assert check_answer("/", "GET", 400, answer.headers, answer.read()) == []


def test_a_gateway_without_redis_is_not_ready(folder):
    gateway = Gateway(f"redis://127.0.0.1:{free_port()}", folder)
    try:
        gateway.start(ready=False)
        assert ask(gateway.address, "GET", "/readyz")[0] == 503
        assert ask(gateway.address, "HEAD", "/readyz")[0] == 503
        assert ask(gateway.address, "GET", "/healthz")[0] == 200
    finally:
        gateway.stop()


@pytest.mark.parametrize("flag, status", [("--max-clients-per-address", 429), ("--max-clients", 503)])
def test_a_full_gateway_refuses_with_a_time(store, folder, flag, status):
    gateway = Gateway(store.url, folder, flag, "1")
    with ExitStack() as stack:
        stack.callback(gateway.stop)
        gateway.start()
        stack.enter_context(connect(f"ws://{gateway.address}/ws"))
        assert ask(gateway.address, "GET", "/ws", HANDSHAKE)[0] == status


def test_a_generators_health(store):
    address = f"127.0.0.1:{free_port()}"
    command = [binary(), "generate", "--redis-url", store.url, "--health-listen", address]
    generator = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens():
        assert generator.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) == 0

    try:
        eventually("the generator listens", listens)
        assert ask(address, "GET", "/healthz", narrower=schema("ProducerHealth"))[0] == 200
        assert ask(address, "GET", "/readyz", narrower=schema("ProducerReady"))[0] in (200, 503)
        assert ask(address, "GET", "/metrics")[0] == 200
        assert ask(address, "HEAD", "/healthz")[0] == 200
        assert ask(address, "POST", "/healthz")[0] == 405
        assert ask(address, "GET", "/", of="/ui/{file}")[0] == 404
    finally:
        generator.kill()
        generator.wait()


def test_what_schemathesis_makes_up_is_answered_as_documented(address, tmp_path):
    """Requests made of the document, good and bad ones; the same in every run."""
    command = [pathlib.Path(sys.executable).with_name("schemathesis"), "run", ROOT / "docs/openapi.json"]
    command += ["--url", f"http://{address}", "--no-color", "--generation-deterministic", "--max-examples", "10"]
    command += ["--phases", "examples,coverage,fuzzing"]
    # UDF answers what is wrong with status 200; what UDF has is also "other" to a path's template; a
    # WebSocket's handshake has headers that its client keeps for itself.
    command += ["--exclude-checks", "negative_data_rejection"]
    for path in ("/udf/{other}", "/ws", "/api/v1/ws"):
        command += ["--exclude-path", path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=3 * DEADLINE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[0-9]{3} generated", done.stdout), done.stdout
