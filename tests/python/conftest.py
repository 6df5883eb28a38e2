"""A Redis and a gateway of the tests' own, as processes on free ports."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# After this something that should happen has not.
DEADLINE_SECONDS = 30


def eventually(what, done):
    """Waits until `done()` is true and gives that value back."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        value = done()
        if value:
            return value
        assert time.monotonic() < end, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.01)


def binary():
    """The newest barcast that was built, unless BARCAST_BIN names one."""
    if named := os.environ.get("BARCAST_BIN"):
        return pathlib.Path(named)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile / "barcast" for profile in ("debug", "release")]
    built = [path for path in built if path.exists()]
    if not built:
        pytest.fail("no barcast was built: run `cargo build` first")
    return max(built, key=lambda path: path.stat().st_mtime)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def redis_url(tmp_path):
    """A redis-server without data."""
    assert shutil.which("redis-server"), "redis-server must be installed for these tests"
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(
        ["redis-server", *options, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
    )

    def listens():
        assert server.poll() is None, "redis-server ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually("redis-server starts", listens)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def gateway(redis_url, tmp_path, request):
    """`barcast serve`, ready; the value is its address. A parameter is a list of more flags."""
    log = tmp_path / "barcast.log"
    command = [binary(), "serve", "--listen", "127.0.0.1:0", "--redis-url", redis_url]
    command += getattr(request, "param", [])
    with log.open("w") as lines:
        server = subprocess.Popen(command, stderr=lines)

    def address():
        assert server.poll() is None, log.read_text()
        found = re.search(r"gateway listens address=(\S+)", log.read_text())
        return found and found[1]

    def ready():
        try:
            return urllib.request.urlopen(f"http://{found}/readyz").status == 200
        except urllib.error.HTTPError:
            return False

    try:
        found = eventually("barcast listens", address)
        eventually("barcast is ready", ready)
        yield found
    finally:
        server.terminate()
        assert server.wait(DEADLINE_SECONDS) == 0
