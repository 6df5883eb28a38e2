"""What `barcast record` writes into files, as pyarrow and DuckDB read it, with the snippets of docs/recorded.md."""

import contextlib
import datetime
import json
import re
import shutil
import subprocess

import duckdb
import pyarrow.parquet
import pytest
import redis

from servers import DEADLINE_SECONDS, ROOT, binary, eventually

PAGE = (ROOT / "docs/recorded.md").read_text()
FIRST_VERSION = ROOT / "tests/data/recorded/version-1.parquet"
# The first minute of the day after that of the file of the first version.
START_MS = 1697155200000
MINUTE_MS = 60_000
LARGEST = 2**64 - 1


def snippet(name):
    found = re.search(rf"<!-- snippet: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/recorded.md has no snippet {name}"
    return found[1]


@pytest.fixture
def folder(redis_url, tmp_path):
    """A day of the first version, and one that was recorded now: three bars, the first with rev."""
    old = tmp_path / "bars/date=2023-10-12"
    old.mkdir(parents=True)
    shutil.copy(FIRST_VERSION, old / "bars.parquet")
    log = tmp_path / "record.log"
    command = [binary(), "record", "--redis-url", redis_url, "--parquet", tmp_path / "bars", "--parquet-interval", "0.1"]
    with log.open("w") as lines:
        recorder = subprocess.Popen(command, stderr=lines)
    try:
        eventually("the recorder listens", lambda: "bus connected" in log.read_text())
        bus = redis.Redis.from_url(redis_url)
        for at in range(3):
            prices = {"open": 1.5, "high": 7.5 + at, "low": 1, "close": 2.5, "volume": 10 * at}
            bar = {"time": START_MS + at * MINUTE_MS, **prices, "closed": True}
            message = {"symbol": "A", "resolution": "1", "seq": at + 1, "epoch": LARGEST, "bar": bar}
            bus.publish("bars:A:1", json.dumps(message | ({} if at else {"rev": 4})))
        new = tmp_path / "bars/date=2023-10-13/bars.parquet"
        eventually("three bars", lambda: new.exists() and pyarrow.parquet.read_metadata(new).num_rows == 3)
        recorder.terminate()
        assert recorder.wait(DEADLINE_SECONDS) == 0
    finally:
        recorder.kill()
        recorder.wait()
    with contextlib.chdir(tmp_path):
        yield tmp_path


def test_pyarrow_reads_columns_version_and_statistics(folder):
    file = pyarrow.parquet.ParquetFile(folder / "bars/date=2023-10-13/bars.parquet")
    assert file.metadata.metadata[b"barcast.schema"] == b"2"
    group = file.metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    found = {column.path_in_schema: column.statistics for column in columns}
    assert all(statistics.has_min_max for statistics in found.values())
    ends = {name: (statistics.min, statistics.max) for name, statistics in found.items()}
    assert ends["high"] == (7.5, 9.5)
    assert ends["volume"] == (0, 20)
    assert ends["epoch"] == (LARGEST, LARGEST)
    assert found["rev"].null_count == 2
    start = datetime.datetime.fromtimestamp(START_MS / 1000, datetime.timezone.utc)
    assert ends["time"][0] == start


def test_the_snippets_read_files_of_both_versions(folder):
    day = datetime.date(2023, 10, 12)
    expected = [(day, "A", 2, 0, 2.5), (day + datetime.timedelta(1), "A", 3, 3, 9.5)]
    assert duckdb.sql(snippet("duckdb")).fetchall() == expected
    names = {}
    exec(snippet("pyarrow"), names)
    rows = names["table"].to_pydict()
    assert rows["date"] == ["2023-10-12"] * 2 + ["2023-10-13"] * 3
    assert rows["rev"] == [None, None, 4, None, None]


def test_what_the_recipe_joins_is_the_same_and_is_replayed(folder, redis_url):
    duckdb.sql(snippet("join"))
    columns = "time, symbol, resolution, open, high, low, close, volume, rev, recorded_at, epoch, seq"
    read = "SELECT {} FROM read_parquet('{}', hive_partitioning = true, union_by_name = true) ORDER BY 1, 2, 3"
    days, years = (duckdb.sql(read.format(columns, files)).fetchall() for files in ("bars/*/*.parquet", "years/*/*.parquet"))
    assert len(days) == 5
    assert years == days
    command = [binary(), "replay", "years", "--redis-url", redis_url, "--speed", "max", "--store", "none"]
    replayed = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert "published=5 bad_rows=0" in replayed.stderr, replayed.stderr
