"""Runs the programs of docs/clients.md against a real Redis and a real gateway."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/clients.md").read_text()
BARCAST = os.environ.get("BARCAST_BIN", str(ROOT / "target/debug/barcast"))
# After this something that should happen has not. No test takes as long when all is well.
DEADLINE = 30
TOPICS = ["bars:AAPL:1", "bars:GOOGL:1", "bars:MSFT:1"]


def snippet(name):
    found = re.search(rf"<!-- snippet: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/clients.md has no snippet {name}"
    return found[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def process(command, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def is_ready(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def eventually(what, done):
    end = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """The variables that the page's programs read; gateway and Redis stand behind them."""
    assert Path(BARCAST).exists(), f"{BARCAST} is missing: run cargo build, or set BARCAST_BIN"
    redis_port, port = free_port(), free_port()
    folder = tmp_path_factory.mktemp("redis")
    redis_server = ["redis-server", "--port", str(redis_port), "--save", "", "--appendonly", "no"]
    env = os.environ | {
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}",
        "BARCAST_URL": f"ws://127.0.0.1:{port}/api/v1/ws",
        "BARCAST_LISTEN": f"127.0.0.1:{port}",
    }
    with (
        process(redis_server, cwd=folder, stdout=subprocess.DEVNULL),
        process([BARCAST, "serve"], env=env, stderr=subprocess.DEVNULL),
    ):
        eventually("the gateway is ready", lambda: is_ready(f"http://127.0.0.1:{port}/readyz"))
        yield env


def updates_of(env, command, count):
    """What a client of three topics gets in the first `count` updates after `command` ran."""

    async def run():
        async with connect(env["BARCAST_URL"]) as client:
            # An empty snapshot first, so that bars of earlier tests do not come as updates.
            request = {"type": "bars.subscribe", "payload": {"topics": TOPICS, "snapshot": 0}}
            await client.send(json.dumps(request))
            for _ in range(1 + len(TOPICS)):
                await client.recv()
            subprocess.run(command, env=env, check=True, timeout=DEADLINE)
            return [json.loads(await client.recv()) for _ in range(count)]

    return asyncio.run(asyncio.wait_for(run(), 2 * DEADLINE))


def lines_until(child, part):
    """What a program prints up to the line that holds `part`."""
    lines = []
    late = threading.Timer(DEADLINE, child.kill)
    late.start()
    try:
        for line in child.stdout:
            lines.append(line)
            if part in line:
                return lines
    finally:
        late.cancel()
    raise AssertionError(f"ended before it printed {part!r}: {lines}")


def test_publish_with_redis_cli(env):
    [update] = updates_of(env, ["bash", "-euc", snippet("publish.sh")], 1)
    assert update["topic"] == "bars:AAPL:1"
    assert update["payload"] == {
        "time": 1697097600000, "open": 150.0, "high": 151.0, "low": 149.5, "close": 150.5,
        "volume": 1000000,
    }


def test_publish_with_python(env):
    updates = updates_of(env, [sys.executable, "-c", snippet("publish.py")], 3)
    assert [update["seq"] for update in updates] == [1, 2, 3]
    assert [update["payload"]["close"] for update in updates] == [150.5, 151.0, 150.75]
    assert [update["payload"].get("closed") for update in updates] == [None, None, True]


def test_publish_a_batch(env):
    updates = updates_of(env, [sys.executable, "-c", snippet("batch.py")], 3)
    assert [update["topic"] for update in updates] == TOPICS


def test_subscribe_with_python(env):
    subscribe = [sys.executable, "-c", snippet("subscribe.py")]
    publish = [sys.executable, "-c", snippet("publish.py")]
    subprocess.run(publish, env=env, check=True, timeout=DEADLINE)
    with process(subscribe, env=env, stdout=subprocess.PIPE, text=True) as child:
        lines_until(child, "history")
        subprocess.run(publish, env=env, check=True, timeout=DEADLINE)
        closes = [re.search(r"'close': ([\d.]+)", lines_until(child, "live")[-1])[1] for _ in range(3)]
        assert closes == ["150.5", "151.0", "150.75"]


def test_subscribe_in_a_browser(env):
    node = shutil.which("node")
    assert node, "node is missing; it stands in for the browser"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    # Node has the browser's WebSocket, behind a flag before version 22; a page has a location.
    flags = ["--experimental-websocket"] if int(version[1:].split(".")[0]) < 22 else []
    host = json.dumps(env["BARCAST_LISTEN"])
    page = f"globalThis.location = {{ host: {host} }};\n" + snippet("subscribe.js")
    command = [node, "--no-warnings", *flags, "--input-type=module", "-e", page]
    publish = [sys.executable, "-c", snippet("publish.py")]
    subprocess.run(publish, env=env, check=True, timeout=DEADLINE)
    with process(command, env=env, stdout=subprocess.PIPE, text=True) as child:
        lines_until(child, "history bars:AAPL:1")
        subprocess.run(publish, env=env, check=True, timeout=DEADLINE)
        lines_until(child, "live bars:AAPL:1")
