"""Runs the proxies of deploy/ before two real gateways: a client moves when its gateway drains."""

import asyncio
import csv
import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
from conftest import DEADLINE_SECONDS, ROOT, binary, eventually, free_port
from servers import Gateway
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DEPLOY = ROOT / "deploy"
# 400 days of one symbol; at this speed they take some three seconds.
BARS = ROOT / "tests/data/GOOG_D.csv"
SPEED = "20000000x"
ORIGIN = "https://charts.example.com"


def program(name):
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@contextmanager
def process(command, log, **options):
    with log.open("w") as lines:
        child = subprocess.Popen(command, stdout=lines, stderr=lines, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def get(address, path):
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError:
        return None, ""


def clients(gateway):
    return int(re.search(r"^barcast_clients (\d+)$", get(gateway, "/metrics")[1], re.MULTILINE)[1])


@contextmanager
def haproxy(folder, gateways, edit=lambda text: text):
    """HAProxy with the configuration of deploy/; the value is where clients come in."""
    config = folder / "haproxy.cfg"
    config.write_text(edit((DEPLOY / "haproxy/haproxy.cfg").read_text()))
    bind, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    env = {"BIND": bind, "METRICS_BIND": metrics, "CLIENTS_PER_ADDRESS": "3"}
    env |= {"GATEWAY_1": gateways[0], "GATEWAY_2": gateways[1]}
    log = folder / "haproxy.log"
    command = [program("haproxy"), "-db", "-f", config]
    with process(command, log, env=os.environ | env) as child:
        yield from wait_for(child, log, bind)
        # What Prometheus reads of it.
        assert "haproxy_server_status" in get(metrics, "/metrics")[1]


@contextmanager
def nginx(folder, gateways, edit=lambda text: text):
    """nginx with the configuration of deploy/; the value is where clients come in."""
    bind = f"127.0.0.1:{free_port()}"
    site = edit((DEPLOY / "nginx/barcast.conf").read_text())
    for old, new in {
        "gateway-1:8000": gateways[0],
        "gateway-2:8000": gateways[1],
        "listen 8000;": f"listen {bind};",
        "barcast_clients 100;": "barcast_clients 3;",
    }.items():
        assert old in site, old
        site = site.replace(old, new)
    (folder / "barcast.conf").write_text(site)
    temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;"
        f"events {{}} http {{ access_log off; {paths} include {folder}/barcast.conf; }}"
    )
    log = folder / "nginx.log"
    command = [program("nginx"), "-p", folder, "-c", folder / "nginx.conf"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    with process(command, log, start_new_session=True) as child:
        try:
            yield from wait_for(child, log, bind)
        finally:
            # Its worker is a process of its own.
            os.killpg(child.pid, signal.SIGKILL)


def wait_for(child, log, address):
    def answers():
        assert child.poll() is None, log.read_text()
        return get(address, "/readyz")[0] == 200

    eventually("the proxy lets requests through", answers)
    yield address


@pytest.fixture
def gateways(redis_url, tmp_path):
    """Two of them, by address."""
    with ExitStack() as stack:
        found = {}
        for name in ("one", "two"):
            address = f"127.0.0.1:{free_port()}"
            command = [binary(), "serve", "--listen", address, "--redis-url", redis_url]
            command += ["--drain-grace", "2", "--trusted-proxies", "127.0.0.1"]
            found[address] = stack.enter_context(process(command, tmp_path / f"{name}.log"))
            eventually("a gateway is ready", lambda at=address: get(at, "/readyz")[0] == 200)
        yield found


async def follow(url, topic, bars, refused, last):
    """Notes the time of every closed bar that comes, over as many connections as are needed; gives the close codes."""
    codes = []
    while True:
        try:
            async with connect(url) as client:
                since = {"since": bars[-1] + 1} if bars else {"snapshot": 0}
                request = {"type": "bars.subscribe", "payload": {"topics": [topic], **since}}
                await client.send(json.dumps(request))
                async for text in client:
                    message = json.loads(text)
                    assert message["type"] != "bars.gap", message
                    bars += closed_bars(message)
                    if bars[-1:] == [last]:
                        return codes
                codes.append(client.close_code)
        except InvalidStatus as answer:
            refused.append(answer.response.status_code)
            await asyncio.sleep(0.05)
        except ConnectionClosed:
            codes.append(client.close_code)


def closed_bars(message):
    if message["type"] == "bars.snapshot":
        return [bar["time"] for bar in message["payload"]["bars"] if bar.get("closed")]
    if message["type"] == "bars.update" and message["payload"].get("closed"):
        return [message["payload"]["time"]]
    return []


def days():
    with BARS.open() as lines:
        rows = list(csv.reader(lines))[1:]
    at = [datetime.datetime.fromisoformat(row[0]).replace(tzinfo=datetime.UTC) for row in rows]
    return [int(day.timestamp() * 1000) for day in at]


@contextmanager
def deaf_client(address):
    """A client that never answers a close frame: its gateway drains as long as it may."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS) as stream:
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
        upgrade = f"Host: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}"
        stream.sendall(f"GET /ws HTTP/1.1\r\n{upgrade}\r\n\r\n".encode())
        assert stream.recv(1024).startswith(b"HTTP/1.1 101 ")
        yield


async def until(what, done):
    """Like `eventually`, while clients of the same test go on."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await asyncio.to_thread(done):
            await asyncio.sleep(0.01)


def in_time(scenario):
    async def run():
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            return await scenario

    return asyncio.run(run())


@pytest.mark.parametrize("proxy", [haproxy, nginx])
def test_a_client_moves_when_its_gateway_drains(proxy, gateways, redis_url, tmp_path):
    expected, bars, refused = days(), [], []
    replay = [binary(), "replay", BARS, "--speed", SPEED, "--redis-url", redis_url]

    def subscribed():
        return any("\nbarcast_placeholders 1\n" in get(gateway, "/metrics")[1] for gateway in gateways)

    async def scenario(url):
        # The other gateway has a client, so a proxy that heeds connections sends the next one back to
        # the one that drains, and must notice by the answer.
        async with connect(url):
            [other] = [gateway for gateway in gateways if clients(gateway)]
            client = asyncio.create_task(follow(url, "bars:GOOG:D", bars, refused, expected[-1]))
            await until("the client is subscribed", subscribed)
            [drained] = gateways.keys() - {other}
            assert clients(drained) == 1, "connections are spread"
            with process(replay, tmp_path / "replay.log"), deaf_client(drained):
                await until("bars flow", lambda: len(bars) > len(expected) // 4)
                gateways[drained].terminate()
                await until("the client has moved", lambda: clients(other) == 2)
                assert gateways[drained].poll() is None, "it still drains"
                return await client

    with proxy(tmp_path, list(gateways)) as address:
        codes = in_time(scenario(f"ws://{address}/api/v1/ws"))
    assert codes == [1001], "the one close that the client saw"
    assert refused == [], "the proxy hands a client that comes back to the other gateway"
    assert bars == expected, "no hole, no double"


@pytest.mark.parametrize("proxy", [haproxy, nginx])
def test_what_the_proxy_keeps_out(proxy, gateways, tmp_path):
    async def opens(url, origin=None):
        async with connect(url, origin=origin):
            return "let in"

    async def scenario(url):
        async with connect(url), connect(url), connect(url):
            with pytest.raises(InvalidStatus) as refused:
                await opens(url)
            assert refused.value.response.status_code == 429, "a fourth of this address"
        await until("they have left", lambda: sum(map(clients, gateways)) == 0)
        assert await opens(url, origin=ORIGIN) == "let in"
        assert await opens(url) == "let in", "a program names no origin"
        with pytest.raises(InvalidStatus) as refused:
            await opens(url, origin="https://elsewhere.example.com")
        assert refused.value.response.status_code == 403

    with proxy(tmp_path, list(gateways), own_origin_only) as address:
        in_time(scenario(f"ws://{address}/ws"))
        for path in ("/metrics", "/ops", "/bars/metrics", "/bars/ops", "/bars/ui/ops/main.js"):
            assert get(address, path)[0] == 404, "metrics are not for strangers"
        assert get(address, "/")[0] == 200, "the chart page"


def own_origin_only(text):
    """Does what the comments in the configurations say."""
    changed = text.replace("#origin ", "").replace("default 1;", "default 0;")
    assert changed != text
    return changed


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def test_no_proxy_ends_a_client_that_answers_pings():
    help = subprocess.run([binary(), "serve", "--help"], capture_output=True, text=True, check=True)
    ping = re.search(r"BARCAST_PING_INTERVAL=\]\s+\[default: (\d+)\]", help.stdout)
    configured = [
        ("haproxy/haproxy.cfg", r"^ +timeout tunnel (\S+)$"),
        ("nginx/barcast.conf", r"^ +proxy_read_timeout (\S+);$"),
        ("nginx/barcast.conf", r"^ +proxy_send_timeout (\S+);$"),
    ]
    for path, setting in configured:
        [value] = re.findall(setting, (DEPLOY / path).read_text(), re.MULTILINE)
        assert seconds(value) > 2 * int(ping[1]), f"{path}: {setting}"


# ---- whose requests a proxy hands on, and below which path ------------------------------------

FRONT = """
global
    log stdout format raw local0 info
defaults
    mode http
    timeout connect 3s
    timeout client 30s
    timeout server 30s
    timeout tunnel 2m
frontend front
    bind {bind}
    {forward}
    default_backend gateway
backend gateway
    {check}
    server one {gateway} {server}
"""


@contextmanager
def front_haproxy(folder, gateway, forward="option forwardfor", server="", check=""):
    """A HAProxy with nothing but what is asked for."""
    bind = f"127.0.0.1:{free_port()}"
    config = folder / "front.cfg"
    config.write_text(FRONT.format(bind=bind, gateway=gateway, forward=forward, server=server, check=check))
    log = folder / "front.log"
    with process([program("haproxy"), "-db", "-f", config], log) as child:
        yield from wait_for(child, log, bind)


@contextmanager
def front_nginx(folder, gateway, location="/", to="", lines=""):
    """An nginx that hands what is at `location` to a gateway, its prefix cut off with `to="/"`."""
    bind = f"127.0.0.1:{free_port()}"
    temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in temporary)
    (folder / "front.conf").write_text(
        f"daemon off; pid {folder}/front.pid; error_log stderr; worker_processes 1; events {{}}"
        f"http {{ access_log off; {paths} server {{ listen {bind}; {lines}"
        f" location = /readyz {{ proxy_pass http://{gateway}; }}"
        f" location {location} {{ proxy_pass http://{gateway}{to}; proxy_http_version 1.1;"
        " proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;"
        ' proxy_set_header Connection "upgrade"; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;'
        "}}}"
    )
    log = folder / "front.log"
    with process([program("nginx"), "-p", folder, "-c", folder / "front.conf"], log, start_new_session=True) as child:
        try:
            yield from wait_for(child, log, bind)
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def one_gateway(redis_url, folder, *flags):
    gateway = Gateway(redis_url, folder, *flags)
    try:
        yield gateway.start().address
    finally:
        gateway.stop()


TRUST = ["--trusted-proxies", "127.0.0.1", "--max-clients-per-address", "1"]
FROM = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


async def by_own_address(url):
    """Each address has one client, whatever it says of itself, and no second one."""
    # The library knows no proxy that is transparent; the address that it binds is the client's.
    pretends = {"X-Forwarded-For": "192.0.2.77", "Forwarded": "for=192.0.2.78"}
    async with AsyncExitStack() as stack:
        for address in FROM:
            source = (address, 0)
            await stack.enter_async_context(connect(url, local_addr=source, additional_headers=pretends))
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, local_addr=source)
            assert refused.value.response.status_code == 429, address


@pytest.mark.parametrize("server", ["", "send-proxy", "send-proxy-v2", "check inter 200ms send-proxy-v2"])
def test_clients_behind_haproxy_are_counted_by_their_own_addresses(redis_url, tmp_path, server):
    flags = [*TRUST, "--proxy-protocol"] if server else TRUST
    forward = "http-request set-header X-Kind proxied" if server else "option forwardfor"
    with ExitStack() as stack:
        # With PROXY headers asked for, the probe of this test must come from elsewhere.
        gateway = Gateway(redis_url, tmp_path, *flags)
        stack.callback(gateway.kill)
        gateway.start(ready=not server)
        front = front_haproxy(tmp_path, gateway.address, forward, server, "option httpchk" if "check" in server else "")
        address = stack.enter_context(front)
        in_time(by_own_address(f"ws://{address}/ws"))
        if server:
            assert get(gateway.address, "/readyz")[0] is None, "a trusted address sends a PROXY header"


def test_clients_behind_nginx_are_counted_by_their_own_addresses(redis_url, tmp_path):
    with one_gateway(redis_url, tmp_path, *TRUST) as gateway, front_nginx(tmp_path, gateway) as address:
        in_time(by_own_address(f"ws://{address}/ws"))


def test_two_proxies_one_behind_the_other(redis_url, tmp_path):
    """nginx says whose it is, HAProxy before the gateway that it is nginx'."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir(), outer.mkdir()
    with (
        one_gateway(redis_url, tmp_path, *TRUST) as gateway,
        front_haproxy(inner, gateway, forward="option forwardfor") as haproxy_address,
        front_nginx(outer, haproxy_address) as address,
    ):
        in_time(by_own_address(f"ws://{address}/ws"))


def test_a_proxy_that_sends_a_header_to_a_port_that_reads_none_is_told(redis_url, tmp_path):
    with one_gateway(redis_url, tmp_path) as gateway:
        bind = f"127.0.0.1:{free_port()}"
        config = tmp_path / "front.cfg"
        config.write_text(FRONT.format(bind=bind, gateway=gateway, forward="", server="send-proxy", check=""))
        with process([program("haproxy"), "-db", "-f", config], tmp_path / "front.log"):
            status, why = eventually("the gateway's own words come back", lambda: (found := get(bind, "/healthz"))[0] and found)
            assert status == 400 and "--proxy-protocol" in why


@pytest.mark.parametrize(
    ("flags", "to"), [([], "/"), (["--base-path", "/bars"], "")], ids=["cut off", "handed on"]
)
def test_pages_below_a_path(redis_url, tmp_path, flags, to):
    """Everything that the pages name is there, and the WebSocket, wherever the prefix is cut off."""
    moved = "location = /bars { return 301 /bars/; }"

    async def greets(url):
        async with connect(url) as client:
            await client.send('{"type":"ping"}')
            return json.loads(await client.recv())["type"]

    with (
        one_gateway(redis_url, tmp_path, *flags) as gateway,
        front_nginx(tmp_path, gateway, "/bars/", to, moved if to else f"location = /bars {{ proxy_pass http://{gateway}; }}") as address,
    ):
        at = f"http://{address}/bars/"
        for page in ("", "ops"):
            status, text = get(address, f"/bars/{page}")
            assert status == 200
            named = set(re.findall(r'(?:src|href)="([^"#]+)"', text))
            own = {urllib.parse.urljoin(at + page, name) for name in named if "//" not in name}
            assert len(own) > 5, own
            for url in own:
                assert url.startswith(at), url
                assert get(address, url.removeprefix(f"http://{address}"))[0] == 200, url
        for path in ("api/v1/topics", "udf/config", "healthz", "readyz", "metrics", "api/v1/openapi.json"):
            assert get(address, f"/bars/{path}")[0] == 200, path
        assert get(address, "/bars")[0] == 200, "by way of /bars/"
        for path in ("ws", "api/v1/ws"):
            assert in_time(greets(f"ws://{address}/bars/{path}")) == "pong"
        if flags:
            assert get(gateway, "/healthz")[0] == 200, "probes are at the root, too"
            assert get(gateway, "/ws")[0] == 404


def test_requests_over_a_proxys_kept_connections_never_fail(redis_url, tmp_path):
    """nginx keeps connections to the gateway; whenever a request comes, it gets an answer.

    A request that crosses the end of an idle connection finds a clean end, and nginx asks once more: it does so only
    where nothing of an answer came.
    """
    flags = ["--http-idle-timeout", "2"]
    with one_gateway(redis_url, tmp_path, *flags) as gateway:
        bind = f"127.0.0.1:{free_port()}"
        temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        paths = "".join(f"{name}_temp_path {tmp_path}/{name};" for name in temporary)
        (tmp_path / "kept.conf").write_text(
            f"daemon off; pid {tmp_path}/kept.pid; error_log stderr; worker_processes 1; events {{}}"
            f"http {{ access_log off; {paths} upstream gateway {{ server {gateway}; keepalive 8; }}"
            f" server {{ listen {bind}; location / {{ proxy_pass http://gateway; proxy_http_version 1.1;"
            ' proxy_set_header Connection ""; }}}'
        )
        log = tmp_path / "kept.log"
        command = [program("nginx"), "-p", tmp_path, "-c", tmp_path / "kept.conf"]
        with process(command, log, start_new_session=True) as child:
            try:
                eventually("nginx answers", lambda: get(bind, "/healthz")[0] == 200)
                statuses = []
                # Around the end of an idle connection's life.
                for pause in [0.0, 0.5, 1.5, *(1.9 + n * 0.02 for n in range(10)), 0.0]:
                    time.sleep(pause)
                    statuses.append(get(bind, "/healthz")[0])
                assert statuses == [200] * len(statuses), log.read_text()
            finally:
                os.killpg(child.pid, signal.SIGKILL)
