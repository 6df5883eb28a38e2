"""The producer and the client of docs/getting-started.md, with a real Redis and a real gateway between them."""

import os
import re
import subprocess
import sys

from conftest import ROOT, eventually

PAGE = (ROOT / "docs/getting-started.md").read_text()


def snippet(name):
    found = re.search(rf"<!-- snippet: {re.escape(name)} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/getting-started.md has no snippet {name}"
    return found[1]


def test_a_bar_comes_from_the_producer_to_the_client(redis_url, gateway, tmp_path):
    env = os.environ | {"REDIS_URL": redis_url, "BARCAST_URL": f"ws://{gateway}/api/v1/ws"}
    seen = tmp_path / "seen"
    with seen.open("w") as lines:
        programs = [
            subprocess.Popen([sys.executable, "-c", snippet("watch.py")], env=env, stdout=lines),
            subprocess.Popen([sys.executable, "-c", snippet("feed.py")], env=env),
        ]
        try:
            eventually("three bars come", lambda: seen.read_text().count("\n") >= 3)
            assert [program.poll() for program in programs] == [None, None]
        finally:
            for program in programs:
                program.kill()
                program.wait()
    for line in seen.read_text().splitlines():
        assert re.fullmatch(r"\d+0000 \d+(\.\d+)?", line), line
