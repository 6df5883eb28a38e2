"""The gateway's own codec and reading behind `examples/echo.rs`, judged by another implementation."""

import random
import re
import subprocess

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from servers import DEADLINE_SECONDS, binary, eventually

MIB = 1 << 20


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """`examples/echo`, listening; the value is its address."""
    program = binary().parent / "examples" / "echo"
    if not program.exists():
        pytest.fail("no echo was built: run `cargo build --example echo` first")
    log = tmp_path_factory.mktemp("echo") / "log"
    with log.open("w") as lines:
        server = subprocess.Popen([program, "--listen", "127.0.0.1:0"], stdout=lines)

    def address():
        assert server.poll() is None, "echo ended"
        found = re.search(r"echo listens address=(\S+)\n", log.read_text())
        return found and found[1]

    try:
        yield eventually("echo listens", address)
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def client(echo):
    with connect(f"ws://{echo}/ws", compression=None, max_size=None) as client:
        yield client


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, MIB, 16 * MIB])
def test_text_and_binary_come_back_whole(client, size):
    for message in ["x" * size, "é" * (size // 2), bytes(range(256)) * (size // 256)]:
        client.send(message)
        assert client.recv(DEADLINE_SECONDS) == message


@pytest.mark.parametrize("size", [0, 1, 126, 65536, MIB])
def test_compressed_messages_are_inflated(echo, size):
    with connect(f"ws://{echo}/ws", max_size=None) as client:
        assert client.protocol.extensions
        for message in ["é" * size, bytes(range(256)) * (size // 256), random.randbytes(size)]:
            client.send(message)
            assert client.recv(DEADLINE_SECONDS) == message
        parts = ["x" * size, "", "y" * size]
        client.send(parts)
        assert client.recv(DEADLINE_SECONDS) == "".join(parts)


def test_fragments_come_back_as_one_message(client):
    parts = ["κόσμε", "", "x" * 70_000, "€"]
    client.send(parts)
    assert client.recv(DEADLINE_SECONDS) == "".join(parts)
    parts = [bytes([n]) * n for n in range(200)]
    client.send(parts)
    assert client.recv(DEADLINE_SECONDS) == b"".join(parts)


def test_many_messages_keep_their_order(client):
    for n in range(2_000):
        client.send(str(n))
    assert [client.recv(DEADLINE_SECONDS) for _ in range(2_000)] == [str(n) for n in range(2_000)]


def test_pings_are_answered_with_their_payload(client):
    # The client tells pongs apart by their payload.
    pongs = [client.ping(payload) for payload in [b"", b"x", b"y" * 125]]
    assert all(pong.wait(DEADLINE_SECONDS) for pong in pongs)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
def test_a_close_is_answered_with_its_code(client, code):
    client.close(code, "done")
    assert client.protocol.close_rcvd.code == code


def test_text_that_is_not_utf8_is_closed_with_1007(client):
    client.send(b"\xff", text=True)
    with pytest.raises(ConnectionClosed):
        client.recv(DEADLINE_SECONDS)
    assert client.protocol.close_rcvd.code == 1007
