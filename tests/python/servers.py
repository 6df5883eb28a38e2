"""Redis and gateways as processes of the tests' own, on free ports."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

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


def target():
    """Where cargo builds, and where scripts/test installs."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def binary():
    """The newest barcast that was built, unless BARCAST_BIN names one."""
    if named := os.environ.get("BARCAST_BIN"):
        return pathlib.Path(named)
    built = [target() / profile / "barcast" for profile in ("debug", "release")]
    built = [path for path in built if path.exists()]
    if not built:
        pytest.fail("no barcast was built: run `cargo build` first")
    return max(built, key=lambda path: path.stat().st_mtime)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Redis:
    """A redis-server without data."""

    def __init__(self, folder):
        assert shutil.which("redis-server"), "redis-server must be installed for these tests"
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            ["redis-server", *options, "--dir", str(folder)], stdout=subprocess.DEVNULL
        )
        eventually("redis-server starts", self.listens)

    def listens(self):
        assert self.process.poll() is None, "redis-server ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Gateway:
    """`barcast serve`; it keeps its address when it is started again."""

    def __init__(self, redis_url, folder, *flags):
        self.log = folder / f"barcast-{len(list(folder.glob('barcast-*')))}.log"
        self.flags = ["--redis-url", redis_url, *flags]
        self.address = "127.0.0.1:0"
        self.process = None

    def start(self, ready=True):
        with self.log.open("w") as lines:
            command = [binary(), "serve", "--listen", self.address, *self.flags]
            self.process = subprocess.Popen(command, stderr=lines)
        self.address = eventually("barcast listens", self.listens)
        if ready:
            eventually("barcast is ready", self.is_ready)
        return self

    def listens(self):
        assert self.process.poll() is None, self.log.read_text()
        found = re.search(r"gateway listens address=(\S+)", self.log.read_text())
        return found and found[1]

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=1) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends it as an operator does, and sees that it ends well."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(DEADLINE_SECONDS) == 0


@contextmanager
def process(command, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
