"""How counted instructions are compared with the stored ones, apart from the counting."""

import pathlib
import runpy

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = {"rustc": "rustc 1.95.0", "processor": "x86_64 with AVX2", "libc": "glibc 2.36"}


@pytest.fixture(scope="module")
def compare():
    return runpy.run_path(str(ROOT / "scripts" / "instructions"))["compare"]


def stored(**figures):
    return {**HERE, "instructions": figures}


@pytest.mark.parametrize(
    ("here", "passes", "fails"),
    [
        ({}, 104, 106),
        ({"libc": "glibc 2.41"}, 109, 111),
        ({"rustc": "rustc 1.99.0"}, 139, 141),
        ({"rustc": "rustc 1.99.0", "libc": "glibc 2.41"}, 139, 141),
    ],
)
def test_more_fails_and_says_so(compare, capsys, here, passes, fails):
    now = {"same": (100, "bar"), "near": (passes, "bar"), "far": (fails, "bar")}
    failed = compare(now, stored(same=100, near=100, far=100), {**HERE, **here}, whole=True)
    out, err = capsys.readouterr()
    assert failed == ["far"]
    assert "MORE" in next(line for line in out.splitlines() if line.startswith("far"))
    assert err.count("WARNING") == len(here)


def test_clearly_fewer_is_told_and_passes(compare, capsys):
    now = {"fast": (90, "bar"), "same": (97, "bar")}
    assert compare(now, stored(fast=100, same=100), HERE, whole=True) == []
    told = [line for line in capsys.readouterr().out.splitlines() if "--store" in line]
    assert [line.split()[0] for line in told] == ["fast"]


def test_every_piece_must_be_stored_and_counted(compare):
    now = {"new": (100, "bar")}
    assert compare(now, stored(gone=100), HERE, whole=True) == ["new", "gone"]
    assert compare(now, {}, HERE, whole=True) == ["new"]
    # Asked for single pieces, the others are not missed.
    assert compare(now, stored(new=100, gone=100), HERE, whole=False) == []
