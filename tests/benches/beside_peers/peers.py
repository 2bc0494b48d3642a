"""The compared programs: this one and common alternatives.

Each writes every class to TARGET/<wnid>/ and, if tars are kept, also TARGET/<wnid>.tar. tar runs
with the options of an ordinary user: as root it would also change owners, which this program never
does.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpus import Corpus
from processes import CORES

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """The input of a program."""

    corpus: Corpus
    url: str
    cacert: Path | None
    target: Path
    parallel: int
    keep_tar: bool

    def environment(self) -> dict[str, str]:
        """The environment of the scripts. This process's own variables, such as proxies, are not
        passed on."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.corpus.names.parent),
            "LC_ALL": "C",
            "URL": self.url,
            "NAMES": str(self.corpus.names),
            "TARGET": str(self.target),
            "PARALLEL": str(self.parallel),
            "CORES": str(CORES),
            "CACERT": str(self.cacert or ""),
            "KEEP_TAR": "yes" if self.keep_tar else "",
        }


@dataclass(frozen=True)
class Peer:
    """A program: its short name, its title in the table, its command, and the programs it needs."""

    name: str
    title: str
    command: Callable[[Job], list[str]]
    needs: tuple[str, ...] = ()
    # One process, whose high-water mark is the peak memory; otherwise all processes are sampled.
    alone: bool = False
    # Whether its output is durable at its end; otherwise the measured time includes a sync.
    durable: bool = False
    # Package that its interpreter, the first of `needs`, must have; empty: none.
    imports: str = ""
    # Whether its last line has the cost of the call alone, without the start of the interpreter.
    prints_call: bool = False


# Shared part of the scripts. Unpacking is bound by the CPU, so more processes than cores would only
# add cost.
PRELUDE = """
set -euo pipefail
unpack() {
  mkdir "$TARGET/$1"
  tar -xf "$TARGET/$1.tar" --no-same-owner --no-same-permissions -C "$TARGET/$1"
  [ -n "$KEEP_TAR" ] || rm "$TARGET/$1.tar"
}
each() { xargs -a "$NAMES" -P "$1" -I% bash -euo pipefail -c "$2 %"; }
export -f unpack
"""

CURL_TO_TAR = """
fetch() { exec curl -fsS ${CACERT:+--cacert "$CACERT"} "$URL/$1.tar"; }
extract() { exec tar -x --no-same-owner --no-same-permissions -C "$TARGET/$1" -f -; }
piped() {
  mkdir "$TARGET/$1"
  if [ -n "$KEEP_TAR" ]; then
    fetch "$1" | tee "$TARGET/$1.tar" | extract "$1"
  else
    fetch "$1" | extract "$1"
  fi
}
export -f fetch extract piped
each "$PARALLEL" piped
"""

CURL_PARALLEL = """
sed "s|.*|url = \\"$URL/&.tar\\"\\noutput = \\"$TARGET/&.tar\\"|" "$NAMES" |
  curl -fsS ${CACERT:+--cacert "$CACERT"} --parallel --parallel-max "$PARALLEL" --config -
each "$CORES" unpack
"""

ARIA2 = """
sed "s|.*|$URL/&.tar|" "$NAMES" |
  aria2c --quiet --no-conf --input-file=- --dir="$TARGET" --max-concurrent-downloads="$PARALLEL" \\
    --file-allocation=none --split=CONNECTIONS --max-connection-per-server=CONNECTIONS \\
    --min-split-size=4M ${CACERT:+--ca-certificate="$CACERT"}
each "$CORES" unpack
"""

WGET = """
fetched() {
  wget -q --no-config ${CACERT:+--ca-certificate="$CACERT"} -O "$TARGET/$1.tar" "$URL/$1.tar"
  unpack "$1"
}
export -f fetched
each "$PARALLEL" fetched
"""


def script(text: str) -> Callable[[Job], list[str]]:
    """A command that runs a script in bash."""
    return lambda _: ["bash", "-c", PRELUDE + text]


def this_program(folder: Path) -> Peer:
    """The coordinator from a build folder, with default options."""

    def command(job: Job) -> list[str]:
        return [
            str(folder / "coordinator"),
            "--dev",
            "--fname",
            str(job.corpus.csv),
            "--url",
            job.url,
            "--target",
            str(job.target),
            "--workers",
            str(job.parallel),
            "--http",
            "127.0.0.1:0",
            *(() if job.keep_tar else ("--delete-tar",)),
            *(("--cacert", str(job.cacert)) if job.cacert else ()),
        ]

    return Peer(
        "ours", "this program", command, (str(folder / "coordinator"),), alone=True, durable=True
    )


def python_tool(interpreter: Path) -> Peer:
    """The plain Python tool; the interpreter has the package requests."""
    return Peer(
        "python",
        "requests, tarfile",
        lambda _: [str(interpreter), str(HERE / "plain_python.py")],
        (str(interpreter),),
        alone=True,
        imports="requests",
    )


FROM_PYTHON = "from-python"


def from_python(interpreter: Path) -> Peer:
    """`download_batch` of the Python package, with default options."""
    return Peer(
        FROM_PYTHON,
        "this program, from Python",
        lambda _: [str(interpreter), str(HERE / "from_python.py")],
        (str(interpreter),),
        alone=True,
        durable=True,
        imports="imagenet_downloader",
        prints_call=True,
    )


REFERENCE = Peer("curl-tar", "curl \\| tar", script(CURL_TO_TAR), ("curl", "tar"))

OTHERS = (
    REFERENCE,
    Peer("curl-parallel", "curl --parallel, tar", script(CURL_PARALLEL), ("curl", "tar")),
    Peer("aria2", "aria2c, tar", script(ARIA2.replace("CONNECTIONS", "1")), ("aria2c", "tar")),
    Peer(
        "aria2-4",
        "aria2c, 4 connections a file, tar",
        script(ARIA2.replace("CONNECTIONS", "4")),
        ("aria2c", "tar"),
    ),
    Peer("wget", "wget, tar", script(WGET), ("wget", "tar")),
)


def what_is_missing(peer: Peer) -> str | None:
    """The reason why a peer is not available, in a few words, or None."""
    for program in peer.needs:
        if not shutil.which(program):
            return f"{program} is not there"
    if peer.imports:
        command = [peer.needs[0], "-c", f"import {peer.imports}"]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return f"{peer.needs[0]} has no {peer.imports}"
    return None


def choose(candidates: list[Peer], names: list[str] | None) -> list[Peer]:
    """The requested and available candidates; prints the reason for each other one."""
    chosen = []
    for peer in candidates:
        if names and peer.name not in names and peer.name not in ("ours", REFERENCE.name):
            continue
        if why := what_is_missing(peer):
            print(f"skipped {peer.name}: {why}", file=sys.stderr)
        else:
            chosen.append(peer)
    return chosen
