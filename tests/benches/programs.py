"""The programs that benchmarks run: where they are built, the scripted origin, and a job in one process."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()


def are_built(folder: Path, *names: str) -> bool:
    """Whether all these programs are in the folder; says which are not."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        print(f"{', '.join(missing)} not in {folder}: build first, see --help", file=sys.stderr)
    return not missing


@contextmanager
def origin(folder: Path, tars: Path, *arguments):
    """Serves a folder of tars; gives the process and its URL."""
    command = list(map(str, [folder / "origin", "--dir", tars, *arguments]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def job(coordinator: Path, tars: Path, url: str, target: Path, workers: int) -> list[str]:
    """The command of a job in one process: the list of the tars, no kept tars, nothing synced for a crash of the machine."""
    command = [coordinator, "--dev", "--workers", workers, "--fname", tars / "data.csv", "--url", url, "--target", target]
    return list(map(str, [*command, "--delete-tar", "--durability", "process", "--http", "127.0.0.1:0"]))
