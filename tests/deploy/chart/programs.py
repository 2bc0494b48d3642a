"""The programs that the chart starts: their paths and the flags in their `--help`."""

import os
import re
import subprocess
import unittest
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools import TARGET

FLAG = re.compile(r"^ +(?:-\w, )?--(?P<name>[a-z-]+)(?P<value> <[^>]+>)?", re.MULTILINE)
VARIABLE = re.compile(r"\[env:\s+(\w+)=?\]")


@dataclass(frozen=True)
class Help:
    """The flags of a command, and whether each takes a value; and the variables that set flags."""

    flags: dict[str, bool]
    variables: frozenset[str]


def program(name: str) -> Path:
    """Path of a program of the debug build."""
    path = TARGET / "debug" / name
    if not path.is_file():
        raise unittest.SkipTest(f"no {path}; cargo build -p coordinator -p worker -p tests --bins")
    return path


@cache
def help_of(name: str, *command: str) -> Help:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [program(name), *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    flags = {match["name"]: match["value"] is not None for match in FLAG.finditer(done.stdout)}
    return Help(flags, frozenset(VARIABLE.findall(done.stdout)))
