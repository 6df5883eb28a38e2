"""docs/asyncapi.json against its specification, the source, docs/protocol.md and what a gateway sends."""

import json
import re

import pytest
import redis
from jsonschema import Draft7Validator
from websockets.sync.client import connect

from documents import ASYNCAPI, PROTOCOL, PUBLISHED, REQUESTS, SENT, faults, names_of, references, resolve, rows_below
from servers import DEADLINE_SECONDS, ROOT, Gateway, Redis, target

# Installed by scripts/test.
SPECIFICATION = target() / "asyncapi/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"
MINUTE_MS = 60_000
FIRST_MS = 1697097600000


def test_the_document_is_asyncapi():
    assert SPECIFICATION.exists(), "npm's @asyncapi/specs is missing; scripts/test installs it"
    specification = json.loads(SPECIFICATION.read_text())
    errors = Draft7Validator(specification).iter_errors(ASYNCAPI)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []
    for reference in references(ASYNCAPI):
        resolve(ASYNCAPI, {"$ref": reference})
    Draft7Validator.check_schema(ASYNCAPI["components"]["schemas"])


def test_the_document_is_of_this_version():
    manifest = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{ASYNCAPI["info"]["version"]}"' in manifest


def test_every_example_is_one_of_its_message_and_of_no_other():
    for name, message in ASYNCAPI["components"]["messages"].items():
        for example in message.get("examples", []):
            assert faults(ASYNCAPI, message["payload"], example["payload"]) == [], name
            if name in SENT:
                assert names_of(SENT, example["payload"]) == [name]


def test_every_example_of_the_page_is_in_the_document():
    """What docs/protocol.md shows in its blocks validates, and is of every type that there is."""
    seen = set()
    for block in re.findall(r"```(?:json)?\n(.*?)```", PROTOCOL, re.DOTALL):
        for line in block.splitlines():
            if not line.startswith("{"):
                continue
            value = json.loads(line.replace("[…oldest first…]", "[]"))
            if "type" in value:
                names = names_of(REQUESTS | SENT, value)
                assert len(names) == 1, line
                seen.add(value["type"])
            else:
                assert faults(ASYNCAPI, PUBLISHED["payload"], value) == [], line
    assert seen == {message["name"] for message in (REQUESTS | SENT).values()}


def strings_in_source(pattern):
    """In what speaks the protocol: the rooms beside it have files and lines of their own."""
    found = set()
    for path in sorted([*ROOT.glob("src/gateway/**/*.rs"), *ROOT.glob("src/bar/*.rs")]):
        source = path.read_text().split("#[cfg(test)]")[0].replace('\\"', '"')
        code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("//"))
        found |= set(re.findall(pattern, code))
    return found


def test_types_codes_and_reasons_are_those_of_the_source():
    types = strings_in_source(r'"(bars\.[a-z.]+|ping|pong)"') | strings_in_source(r'"type":"([a-z.]+)"')
    assert {message["name"] for message in (REQUESTS | SENT).values()} == types
    schemas = ASYNCAPI["components"]["schemas"]
    codes = set(schemas["Error"]["properties"]["payload"]["properties"]["code"]["enum"])
    assert codes == strings_in_source(r'\bcode: "([a-z_]+)"')
    reasons = set(schemas["Gap"]["properties"]["payload"]["properties"]["reason"]["enum"])
    assert reasons == strings_in_source(r'"(upstream|slow_client|gateway)"')
    gaps = PROTOCOL.split("\n### Gaps\n", 1)[1].split("\n##", 1)[0]
    assert reasons == set(re.findall(r"^- `(\w+)`:", gaps, re.MULTILINE))


def test_close_codes_are_those_of_the_page():
    closes = ASYNCAPI["channels"]["client"]["x-close-codes"]
    assert set(closes) == {row[0] for row in rows_below("### Close codes")}


def test_fields_of_a_published_message_are_those_of_the_page():
    """Each is optional, and beside those of every message there are no more."""
    optional = {row[0] for row in rows_below("## Redis")}
    schema = resolve(ASYNCAPI, PUBLISHED["payload"])
    beside = set(schema["properties"]) - set(schema["required"])
    assert beside | {"bar.closed"} == optional


# Each request, and whether the gateway is to take it.
FORMS = [
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "params": {"resolution": "1"}}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "resolution": "1D"}, "id": "day"}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL"}}),
    (True, {"type": "bars.subscribe", "symbol": "AAPL", "resolution": "5", "id": 1.5}),
    (True, {"type": "bars.subscribe", "symbol": "*", "resolution": "*"}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "unknown": [1]}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "snapshot": 2}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "NONE", "snapshot": 2}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "since": FIRST_MS + MINUTE_MS}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "since": -1}}),
    (True, {"type": "bars.subscribe", "payload": {"topics": ["bars:AAPL:1", "bars:MSFT:*"], "max_rate": 2}}),
    (True, {"type": "bars.subscribe", "id": 7, "payload": {"topics": ["bars:*:D"], "snapshot": 0}}),
    (True, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "snapshot": None, "since": None}}),
    (True, {"type": "ping"}),
    (True, {"type": "ping", "id": "x" * 62}),
    (True, {"type": "bars.unsubscribe", "payload": {"symbol": "AAPL"}, "id": 0}),
    (True, {"type": "bars.unsubscribe", "topics": ["bars:MSFT:*", "bars:AAPL:1W"]}),
    (False, {"type": "bars.unsubscribe"}),
    (False, {"type": "bars.subscribe"}),
    (False, {"type": "bars.subscribe", "payload": {}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "A B"}, "id": 3}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "A" * 33}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "resolution": "7"}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "params": {"resolution": "x"}}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": 5}}),
    (False, {"type": "bars.subscribe", "payload": {"topics": []}}),
    (False, {"type": "bars.subscribe", "payload": {"topics": ["AAPL"]}}),
    (False, {"type": "bars.subscribe", "payload": {"topics": "bars:AAPL:1"}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "topics": ["bars:AAPL:1"]}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "snapshot": -1}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "snapshot": 1, "since": 1}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "since": "now"}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "max_rate": 0}}),
    (False, {"type": "bars.subscribe", "payload": {"symbol": "AAPL", "max_rate": 1001}}),
    (False, {"type": "ping", "id": {"a": 1}}),
    (False, {"type": "ping", "id": "x" * 63}),
    (False, {"type": "dance", "id": 4}),
    (False, {"payload": {"symbol": "AAPL"}}),
    (False, ["bars.subscribe"]),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A gateway whose limits are near, and who publishes to it."""
    folder = tmp_path_factory.mktemp("asyncapi")
    store = Redis(folder)
    gateway = Gateway(store.url, folder, "--max-topics-per-client", "60")
    try:
        gateway.start()
        publisher = redis.Redis.from_url(store.url)
        yield gateway, publisher
    finally:
        gateway.stop()
        store.stop()


def bar(minute, **fields):
    state = {"time": FIRST_MS + minute * MINUTE_MS, "open": 1.5, "high": 2, "low": 1, "close": 1.25, "volume": 3}
    return state | fields


def publish(publisher, symbol, state, **beside):
    """Publishes what the document allows to the one gateway there is."""
    message = {"symbol": symbol, "resolution": "1", "bar": state, **beside}
    assert faults(ASYNCAPI, PUBLISHED["payload"], message) == []
    assert publisher.publish(f"bars:{symbol}:1", json.dumps(message)) == 1


class Client:
    """Keeps all that it gets."""

    def __init__(self, socket):
        self.socket = socket
        self.texts = []

    def ask(self, text, until):
        """Sends, and reads up to a message of one of these types."""
        self.socket.send(text)
        return self.read(until)

    def read(self, until):
        while True:
            text = self.socket.recv(DEADLINE_SECONDS)
            self.texts.append(text)
            message = json.loads(text)
            if message["type"] in until:
                return message


def converse(client, probe, publisher):
    """A conversation of every form."""
    probe.ask('{"type":"bars.subscribe","payload":{"symbol":"*"}}', ["bars.subscribe.response"])
    for minute in range(3):
        publish(publisher, "AAPL", bar(minute), seq=minute + 1, epoch=2**64 - 1, ts=1697097600000000, rev=0)
    publish(publisher, "MSFT", bar(0, closed=True))
    while probe.read(["bars.update"])["topic"] != "bars:MSFT:1":
        pass
    answers = ["bars.subscribe.response", "bars.unsubscribe.response", "pong", "error"]
    for is_good, request in FORMS:
        answer = client.ask(json.dumps(request), answers)
        assert (answer["type"] != "error") == is_good, (request, answer)
    for text in ["", "nonsense", "[" * 2000, '{"type":"ping","id":', '{"type":"\\ud800"}']:
        assert client.ask(text, answers)["type"] == "error", text
    many = {"type": "bars.subscribe", "payload": {"topics": [f"bars:S{n}:1" for n in range(61)]}}
    assert client.ask(json.dumps(many), answers)["payload"]["code"] == "limit"
    client.ask('{"type":"bars.subscribe","payload":{"topics":["bars:*:1"],"snapshot":0}}', answers)
    publish(publisher, "AAPL", bar(5, closed=True), seq=9, epoch=2**64 - 1)
    assert client.read(["bars.gap"])["payload"]["reason"] == "upstream"
    publish(publisher, "MSFT", bar(1, open=None, high=None, low=None, close=None, volume=0, closed=True))
    publish(publisher, "MSFT", bar(2, volume=2**63, low=-1e-9), unknown="field")
    while client.read(["bars.update"])["payload"]["time"] != bar(2)["time"]:
        pass


def test_all_that_a_gateway_sends_is_in_the_document(server):
    gateway, publisher = server
    url = f"ws://{gateway.address}/api/v1/ws"
    with connect(url) as one, connect(url) as other:
        client, probe = Client(one), Client(other)
        converse(client, probe, publisher)
    seen = set()
    for text in client.texts + probe.texts:
        message = json.loads(text)
        names = names_of(SENT, message)
        of_its_type = [each for each in SENT.values() if each["name"] == message["type"]]
        why = [faults(ASYNCAPI, each["payload"], message) for each in of_its_type]
        assert len(names) == 1, (text[:400], names, why)
        seen.update(names)
    assert seen == set(SENT), "every message of the document came"


@pytest.mark.parametrize("is_good, request_", FORMS)
def test_the_document_takes_what_the_gateway_takes(is_good, request_):
    """That the gateway does, `converse` sees to."""
    assert bool(names_of(REQUESTS, request_)) == is_good
