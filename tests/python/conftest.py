"""A Redis and a gateway of the tests' own, as processes on free ports."""

import pytest

from servers import DEADLINE_SECONDS, ROOT, Gateway, Redis, binary, eventually, free_port

__all__ = ["DEADLINE_SECONDS", "ROOT", "binary", "eventually", "free_port"]


@pytest.fixture
def redis_url(tmp_path):
    """A redis-server without data."""
    server = Redis(tmp_path)
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture
def gateway(redis_url, tmp_path, request):
    """`barcast serve`, ready; the value is its address. A parameter is a list of more flags."""
    server = Gateway(redis_url, tmp_path, *getattr(request, "param", []))
    try:
        yield server.start().address
    finally:
        server.stop()
