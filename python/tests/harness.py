"""Waits with deadlines, Python programs in processes of their own, and what is in a target."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from origin import Origin

T = TypeVar("T")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
#: Generous, for a busy machine with two cores.
DEADLINE = 60.0

#: What each script begins with; its arguments are the URL and the target.
PREAMBLE = """
import sys, threading, time
from imagenet_downloader import *
url, target = sys.argv[1:3]
wnids = [f"n{number:08}" for number in range(1, 13)]
def download(**options):
    options = {"num_workers": 4, "delete_tar": True, "url": url, "progress": False} | options
    return download_batch(wnids, target, **options)
def threads():
    import os
    return len(os.listdir("/proc/self/task"))
def threads_at_the_end():
    end = time.monotonic() + 30
    while threads() > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return threads()
"""


def wait_until(what: str, look: Callable[[], T | None]) -> T:
    """Looks until there is something, and returns it."""
    end = time.monotonic() + DEADLINE
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.01)


def start(script: str, *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """Starts a script with `PREAMBLE`."""
    program = PREAMBLE + textwrap.dedent(script)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    usual = {**pipes, "start_new_session": True}
    return subprocess.Popen(command, **{**usual, **options})  # type: ignore[call-overload]


def run(script: str, *arguments: str | Path, **options: object) -> tuple[str, str]:
    """Runs a script with `PREAMBLE`, which must succeed; returns its output and its errors."""
    process = start(script, *arguments, **options)
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        # The children that it has forked have its pipes, too.
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"hangs: {process.communicate()}") from None
    assert process.returncode == 0, f"{process.returncode}\n{output}\n{errors}"
    return output, errors


def files(target: Path) -> dict[str, dict[str, bytes]]:
    """The class folders of a target, each with its images."""
    return {
        folder.name: {
            image.name: image.read_bytes()
            for image in folder.iterdir()
            if not image.name.startswith(".")
        }
        for folder in target.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }


def assert_complete_or_absent(target: Path, origin: Origin) -> int:
    """Checks that each class folder is the origin's class; returns their number."""
    there = files(target) if target.exists() else {}
    for wnid, found in there.items():
        assert found == origin.classes[wnid].images, wnid
    return len(there)


def checkpoints(target: Path) -> list[Path]:
    """The files of the classes under way, beside the target."""
    staging = target.parent / f".{target.name}.partial"
    return [Path(folder) / name for folder, _, names in os.walk(staging) for name in names]
