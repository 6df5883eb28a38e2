"""Publish with redis-py, receive with websockets: ten lines of Python on either side."""

import json

import pytest
import redis
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from servers import DEADLINE_SECONDS

BAR = {
    "time": 1697097600000,
    "open": 150.0,
    "high": 151.0,
    "low": 149.5,
    "close": 150.5,
    "volume": 1000000,
}
MESSAGE = {"symbol": "AAPL", "resolution": "1", "bar": BAR}


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def subscribe(client, **payload):
    client.send(json.dumps({"type": "bars.subscribe", "payload": payload}))
    answer = json.loads(client.recv(DEADLINE_SECONDS))
    assert answer["payload"]["status"] == "ok", answer


@pytest.mark.parametrize("dump", [json.dumps, compact], ids=["spaced", "compact"])
def test_the_plans_own_message_comes_through_byte_for_byte(gateway, redis_url, dump):
    with connect(f"ws://{gateway}/api/v1/ws") as client:
        subscribe(client, symbol="AAPL", params={"resolution": "1"})
        redis.Redis.from_url(redis_url).publish("bars:AAPL:1", dump(MESSAGE))
        update = client.recv(DEADLINE_SECONDS)
    expected = '{"type":"bars.update","topic":"bars:AAPL:1","payload":%s}' % compact(BAR)
    assert update == expected


@pytest.mark.parametrize("gateway", [["--compression"]], indirect=True)
def test_compressed_bars_are_the_same(gateway, redis_url):
    publisher = redis.Redis.from_url(redis_url)
    with (
        connect(f"ws://{gateway}/ws") as client,
        connect(f"ws://{gateway}/ws", compression=None) as plain,
    ):
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        assert plain.protocol.extensions == []
        for each in (client, plain):
            subscribe(each, symbol="AAPL")
        for minute in range(50):
            bar = dict(BAR, time=BAR["time"] + minute * 60_000)
            publisher.publish("bars:AAPL:1", json.dumps(dict(MESSAGE, bar=bar)))
            update = plain.recv(DEADLINE_SECONDS)
            assert client.recv(DEADLINE_SECONDS) == update
            assert json.loads(update)["payload"] == bar
        # Requests of this client are compressed, too.
        client.send(json.dumps({"type": "ping", "id": "x" * 60}))
        assert client.recv(DEADLINE_SECONDS) == '{"type":"pong","id":"%s"}' % ("x" * 60)


def test_a_batch_is_a_list_of_messages(gateway, redis_url):
    messages = [dict(MESSAGE, symbol=symbol, seq=1) for symbol in ("AAPL", "MSFT", "GOOGL")]
    with connect(f"ws://{gateway}/ws") as client:
        subscribe(client, topics=["bars:AAPL:1", "bars:GOOGL:*"])
        redis.Redis.from_url(redis_url).publish("bars:@batch", json.dumps(messages))
        updates = [json.loads(client.recv(DEADLINE_SECONDS)) for _ in range(2)]
    assert [update["topic"] for update in updates] == ["bars:AAPL:1", "bars:GOOGL:1"]
    assert all(update["payload"] == BAR and update["seq"] == 1 for update in updates)


def test_numbers_keep_their_values(gateway, redis_url):
    bar = dict(BAR, open=0.1, high=0.1 + 0.2, low=-1e-9, close=1e-7, volume=2**63)
    with connect(f"ws://{gateway}/ws") as client:
        subscribe(client, symbol="AAPL")
        redis.Redis.from_url(redis_url).publish("bars:AAPL:1", json.dumps(dict(MESSAGE, bar=bar)))
        update = json.loads(client.recv(DEADLINE_SECONDS))
    assert update["payload"] == bar


def test_snapshot_ping_and_close(gateway, redis_url):
    publisher = redis.Redis.from_url(redis_url)
    with connect(f"ws://{gateway}/ws") as client:
        subscribe(client, symbol="AAPL")
        bars = [dict(BAR, time=BAR["time"] + minute * 60_000) for minute in range(3)]
        for bar in bars:
            publisher.publish("bars:AAPL:1", json.dumps(dict(MESSAGE, bar=bar)))
            assert json.loads(client.recv(DEADLINE_SECONDS))["payload"] == bar
        subscribe(client, symbol="AAPL", snapshot=2)
        snapshot = json.loads(client.recv(DEADLINE_SECONDS))
        assert snapshot["payload"] == {"bars": bars[1:]}
        client.send('{"type":"ping","id":"x"}')
        assert client.recv(DEADLINE_SECONDS) == '{"type":"pong","id":"x"}'
        assert client.ping().wait(DEADLINE_SECONDS)
        client.close(1000, "done")
        assert client.protocol.close_rcvd.code == 1000


def test_a_breach_is_closed_with_its_code(gateway):
    with connect(f"ws://{gateway}/ws") as client:
        client.send(b"binary")
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(DEADLINE_SECONDS)
    assert closed.value.rcvd.code == 1003
