"""`barcast tail` on a terminal: the table is drawn, fits, and the terminal is given back."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest
import redis

from conftest import DEADLINE_SECONDS, binary, free_port

START = 1_697_097_600_000
MINUTE = 60_000
ROWS, COLUMNS = 8, 72
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
NORMAL_SCREEN, OTHER_SCREEN = "\x1b[?1049l", "\x1b[?1049h"
COLOUR = re.compile(r"\x1b\[\d+m")


class Terminal:
    """A program on a terminal of its own, and what it has drawn."""

    def __init__(self, command, variables):
        self.drawn = ""
        self.process, self.screen = pty.fork()
        if self.process == 0:
            os.execve(command[0], command, variables)
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self.screen, termios.TIOCSWINSZ, size)

    def read(self):
        """Whether there may be more."""
        ready, _, _ = select.select([self.screen], [], [], 0.05)
        if not ready:
            return True
        try:
            piece = os.read(self.screen, 65536)
        except OSError:  # Linux tells the end of a terminal so.
            return False
        self.drawn += piece.decode()
        return bool(piece)

    def frame(self):
        """The lines of the last whole frame, without colours."""
        frames = [part for part in self.drawn.split("\x1b[H") if part.endswith("\x1b[J")]
        if not frames:
            return []
        text = COLOUR.sub("", frames[-1]).replace("\x1b[K", "").replace("\x1b[J", "")
        # The terminal puts a return of its own before each new line.
        return re.split("\r+\n", text)

    def until(self, what, done):
        end = time.monotonic() + DEADLINE_SECONDS
        while not done():
            assert time.monotonic() < end, f"{what}: {self.drawn[-2000:]!r}"
            assert self.read(), f"ended before {what}: {self.drawn[-2000:]!r}"

    def row(self, topic):
        return next((line for line in self.frame() if line.startswith(topic)), "")

    def interrupt(self):
        """Ctrl-C; the exit code."""
        os.write(self.screen, b"\x03")
        end = time.monotonic() + DEADLINE_SECONDS
        while self.read():
            assert time.monotonic() < end, "it does not end"
        os.close(self.screen)
        _, status = os.waitpid(self.process, 0)
        return os.waitstatus_to_exitcode(status)


def publish(server, symbol, minute, close, **more):
    bar = {"time": START + minute * MINUTE, "open": close, "high": close, "low": close,
           "close": close, "volume": 1234567}
    message = {"symbol": symbol, "resolution": "1", "bar": bar | more}
    server.publish(f"bars:{symbol}:1", json.dumps(message))


def tail(gateway, **variables):
    command = [str(binary()), "tail", "*:1", "--url", f"ws://{gateway}"]
    return Terminal(command, {"TERM": "xterm-256color", **variables})


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_the_table_is_drawn_in_place_and_the_terminal_given_back(redis_url, gateway, variables):
    server = redis.Redis.from_url(redis_url)
    for minute in range(20):
        publish(server, "AAPL", minute, 100 + minute, closed=True)
    terminal = tail(gateway, **variables)
    terminal.until("history is there", lambda: "119" in terminal.row("bars:AAPL:1"))
    assert re.search("▁.*█", terminal.row("bars:AAPL:1")), "its spark line"

    publish(server, "AAPL", 20, 238)
    terminal.until("a live bar", lambda: "+100.00%" in terminal.row("bars:AAPL:1"))
    row = terminal.row("bars:AAPL:1")
    assert "1.23M" in row and "forming" in row, row

    # More topics than the terminal has lines.
    for n in range(ROWS):
        publish(server, f"X{n}", 0, 1)
    terminal.until("all topics", lambda: f"{ROWS + 1} topics" in "".join(terminal.frame()))
    terminal.until("the rest is counted", lambda: "more" in terminal.frame()[-1])
    frame = terminal.frame()
    assert len(frame) == ROWS
    assert all(len(line) <= COLUMNS for line in frame), frame

    assert terminal.interrupt() == 0
    drawn = terminal.drawn
    assert drawn.startswith(OTHER_SCREEN + HIDE_CURSOR)
    # The cursor is there again, and what follows is on the screen of before.
    assert drawn.rfind(SHOW_CURSOR) > drawn.rfind(HIDE_CURSOR)
    _, after = drawn.split(NORMAL_SCREEN)
    assert "bars:AAPL:1" in after, "the last table stays"
    assert bool(COLOUR.search(drawn)) == (not variables)


def test_a_gateway_that_goes_is_told_in_the_first_line():
    """Without Redis: `barcast dev`, killed."""
    port = free_port()
    command = [binary(), "dev", "--listen", f"127.0.0.1:{port}", "--interval", "0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        terminal = tail(f"127.0.0.1:{port}")
        terminal.until("connected", lambda: "● connected" in "".join(terminal.frame()[:1]))
        terminal.until("rows", lambda: terminal.row("bars:AAPL:1"))
    finally:
        server.kill()
        server.wait()
    terminal.until("told", lambda: "○ not connected, again in" in terminal.frame()[0])
    assert terminal.row("bars:AAPL:1"), "what is known stays"
    assert terminal.interrupt() == 0
    assert terminal.drawn.count(SHOW_CURSOR) == 1
