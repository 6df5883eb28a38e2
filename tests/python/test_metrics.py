"""/metrics as Prometheus' own parsers read it: both texts, of a gateway and of a generator."""

import re
import subprocess
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from servers import DEADLINE_SECONDS, binary, eventually

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# What Prometheus 2 and 3 send.
SCRAPERS = [
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
]
ACCEPTS = [(None, PLAIN), ("*/*", PLAIN), ("text/plain;version=0.0.4;q=1,*/*;q=0.1", PLAIN)]
ACCEPTS += [(accept, OPEN) for accept in ["application/openmetrics-text", *SCRAPERS]]


@pytest.fixture
def generator(redis_url, tmp_path):
    log = tmp_path / "generator.log"
    command = [binary(), "generate", "--redis-url", redis_url, "--health-listen", "127.0.0.1:0"]
    with log.open("w") as lines:
        child = subprocess.Popen(command, stderr=lines)
    try:
        yield eventually("it listens", lambda: re.search(r"health and metrics address=(\S+)", log.read_text()))[1]
    finally:
        child.kill()
        child.wait()


def scrape(address, accept):
    request = urllib.request.Request(f"http://{address}/metrics")
    if accept:
        request.add_header("Accept", accept)
    with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@pytest.mark.parametrize(("accept", "kind"), ACCEPTS)
def test_both_texts_are_read_by_the_parsers_of_prometheus(gateway, generator, accept, kind):
    for address in (gateway, generator):
        found, text = scrape(address, accept)
        assert found == kind
        parse = parse_openmetrics if kind == OPEN else parse_prometheus
        families = {family.name: family for family in parse(text)}
        assert len(families) >= 10
        counter = families["barcast_received_bars" if address == gateway else "barcast_published_bars"]
        assert counter.type == "counter"
        assert [sample.name for sample in counter.samples] == [f"{counter.name}_total"]
        assert counter.documentation
        assert not [name for name, family in families.items() if family.type in ("unknown", "untyped")]
        if address == gateway:
            assert families["barcast_lag_seconds"].type == "histogram"
