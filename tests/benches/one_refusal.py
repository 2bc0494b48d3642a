"""Measures the cost of one 503 with `Retry-After: 2`, for each class of a job in turn, compared
with the job without it.

    cargo build --release -p coordinator -p worker -p tests --bins
    python3 tests/benches/one_refusal.py                # 25 jobs of 15 s, four at a time: 2 minutes
    python3 tests/benches/one_refusal.py --classes 1 3 10

The origin limits each connection to 900 KB/s; the job has 25 classes and eight slots in one
process. The jobs use little CPU time, so several run concurrently (`--at-once`), each with a
separate origin.

Exit code: 0, 1 if a job took more than 1.25 times the time without a 503 and 3 s or left a class
incomplete, 2 if it could not run.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from concurrency import make_tars  # noqa: E402
from programs import BUILD, are_built, job, origin  # noqa: E402

CLASSES = 25
SLOTS = 8
RATE = 900_000
MEGABYTES = 4.4
REFUSAL = "status 503 2"
# Allowed time of a job, relative to the job without a 503.
FACTOR, SECONDS = 1.25, 3.0
DEADLINE = 300


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        type=int,
        default=range(1, CLASSES + 1),
        metavar="N",
        help="refused, one a job",
    )
    parser.add_argument("--at-once", type=int, default=4, metavar="JOBS")
    parser.add_argument(
        "--healthy",
        type=int,
        default=4,
        metavar="JOBS",
        help="jobs without a refusal; their median counts",
    )
    parser.add_argument(
        "--bin", type=Path, default=BUILD / "release", help="folder with coordinator and origin"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="folder for the tars and the targets"
    )
    return parser.parse_args()


def run(options: argparse.Namespace, tars: Path, script: str) -> float:
    """Seconds of one job; every class must be complete."""
    work = Path(tempfile.mkdtemp(dir=tars.parent))
    (work / "script").write_text(script)
    with origin(options.bin, tars, "--rate", RATE, "--script", work / "script") as (_, url):
        command = job(options.bin / "coordinator", tars, url, work / "target", SLOTS)
        begin = time.monotonic()
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        seconds = time.monotonic() - begin
    found = len(list((work / "target").glob("n*/.manifest*")))
    shutil.rmtree(work)
    if ended.returncode or found != CLASSES:
        raise SystemExit(
            f"exit code {ended.returncode}, {found} of {CLASSES} classes\n{ended.stderr[-3000:]}"
        )
    return seconds


def main() -> int:
    options = arguments()
    if not are_built(options.bin, "coordinator", "origin"):
        return 2
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="refusal-") as folder:
        tars = Path(folder) / "tars"
        wnids = make_tars(tars, CLASSES, MEGABYTES)
        with ThreadPoolExecutor(options.at_once) as pool:
            healthy = [pool.submit(run, options, tars, "") for _ in range(options.healthy)]
            refused = [
                (each, pool.submit(run, options, tars, f"{wnids[each - 1]} {REFUSAL}\n"))
                for each in options.classes
            ]
            base = statistics.median(measured.result() for measured in healthy)
            limit = base * FACTOR + SECONDS
            print(f"without a refusal {base:.1f} s; a job may take {limit:.1f} s")
            missed = 0
            for each, measured in refused:
                seconds = measured.result()
                missed += seconds > limit
                print(
                    f"class {each:2}: {seconds:5.1f} s, {seconds / base:.2f} of it",
                    "" if seconds <= limit else "MISSED",
                )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
