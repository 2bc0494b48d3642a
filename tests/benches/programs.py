"""The programs that benchmarks run: their build folder, the scripted origin, and a job in one
process."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()


def are_built(folder: Path, *names: str) -> bool:
    """Whether the folder has all these programs; prints the missing ones."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        print(f"{', '.join(missing)} not in {folder}: build first, see --help", file=sys.stderr)
    return not missing


@contextmanager
def origin(folder: Path, tars: Path, *arguments):
    """Serves a folder of tars; returns the process and its URL."""
    command = list(map(str, [folder / "origin", "--dir", tars, *arguments]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def job(coordinator: Path, tars: Path, url: str, target: Path, workers: int) -> list[str]:
    """The command of a job in one process: the list of the tars, tars are not kept, durability for
    process crashes only."""
    command = [
        coordinator,
        "--dev",
        "--workers",
        workers,
        "--fname",
        tars / "data.csv",
        "--url",
        url,
        "--target",
        target,
    ]
    return list(
        map(str, [*command, "--delete-tar", "--durability", "process", "--http", "127.0.0.1:0"])
    )
