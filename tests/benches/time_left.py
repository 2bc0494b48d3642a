"""Measures how well the estimated time left in the progress line agrees with the actual time of the
job.

    cargo build --workspace --bins
    python3 tests/benches/time_left.py --bin target/debug      # one job of about 2.5 minutes

One job in one process with an origin whose total rate is limited. The lengths of the tars differ,
some classes are missing, and some rows of the list are invalid. After a quarter of the job the
program is killed (SIGKILL) and started again; after a half the origin is stopped (SIGSTOP) for some
time. The program runs on a pseudo-terminal, and its progress line is read ten times per second.

With few classes (`--classes 90 --megabytes 3`) the unknown lengths differ more from the mean of the
known ones.

A sample is correct if it is within 25 % of the time that the job then took; "--:--" is not correct.
The first tenth of the job is ignored.

Exit code: 0, 1 if fewer than 80 % of the samples were correct, 2 if it could not run.
"""

import argparse
import fcntl
import io
import math
import os
import pty
import random
import re
import select
import signal
import struct
import sys
import tarfile
import tempfile
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from programs import BUILD, are_built, job, origin  # noqa: E402

LEFT = re.compile(rb"((?:\d+:)?\d\d:\d\d|--:--) left")
TOLERANCE, SHARE, IGNORED = 0.25, 0.80, 0.10
INTERVAL = 0.1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=270)
    parser.add_argument("--megabytes", type=float, default=1.0, help="mean length of a tar")
    parser.add_argument(
        "--rate", type=int, default=2_000_000, help="bytes a second of all connections together"
    )
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument(
        "--stall",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="how long the origin stands still",
    )
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument(
        "--bin", type=Path, default=BUILD / "release", help="folder with coordinator and origin"
    )
    parser.add_argument(
        "--coordinator", type=Path, help="another coordinator than the one in --bin"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="folder for the tars and the target"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every second: time, shown, true"
    )
    return parser.parse_args()


def make_list(folder: Path, options: argparse.Namespace) -> int:
    """Creates tars of different lengths and a list that also has missing classes and invalid rows;
    returns the total bytes."""
    folder.mkdir()
    dice = random.Random(options.seed)
    rows, total = [], 0
    for number in range(options.classes):
        wnid = f"n{number:08}"
        rows.append(wnid)
        if number % 10 == 7:
            continue
        length = int(options.megabytes * 1e6 * dice.lognormvariate(-0.18, 0.6))
        with tarfile.open(folder / f"{wnid}.tar", "w") as tar:
            for image in range(math.ceil(length / 200_000)):
                entry = tarfile.TarInfo(f"{wnid}_{image}.JPEG")
                entry.size = min(200_000, length - image * 200_000)
                tar.addfile(entry, io.BytesIO(dice.randbytes(entry.size)))
        total += (folder / f"{wnid}.tar").stat().st_size
    rows += ["cat", "dog", ""] * (options.classes // 30)
    (folder / "data.csv").write_text(
        "wnid\n" + "".join(f"{row},x\n" for row in rows).replace(",x\n", "\n")
    )
    return total


class Job:
    """The program on a pseudo-terminal."""

    def __init__(self, command: list):
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(command[0], command)
        self.pid = pid
        self.shown, self.rest, self.text = None, b"", b""
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))

    def read(self, seconds: float) -> bool:
        """Reads the output for some time; returns whether the program still runs."""
        until = time.monotonic() + seconds
        while (wait := until - time.monotonic()) > 0:
            if select.select([self.terminal], [], [], wait)[0]:
                try:
                    piece = os.read(self.terminal, 65536)
                except OSError:
                    return False
                if not piece:
                    return False
                self.text = (self.text + piece)[-20_000:]
                self.rest = (self.rest + piece)[-4_000:]
                if found := LEFT.findall(self.rest):
                    self.shown = found[-1].decode()
        return True

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def seconds(shown: str | None) -> float | None:
    if shown is None or "-" in shown:
        return None
    value = 0
    for part in shown.split(":"):
        value = value * 60 + int(part)
    return value


def run(options: argparse.Namespace, folder: Path) -> tuple[list, float]:
    """Samples (time, displayed value), and the time of the whole job."""
    tars = folder / "tars"
    expected = make_list(tars, options) / options.rate
    with origin(options.bin, tars, "--total-rate", options.rate) as (process, url):
        coordinator = options.coordinator or options.bin / "coordinator"
        command = job(coordinator, tars, url, folder / "target", options.workers)
        samples, begin = [], time.monotonic()
        running, killed, stopped, went_on = Job(command), False, None, False
        while running.read(INTERVAL):
            now = time.monotonic() - begin
            samples.append((now, running.shown))
            if not killed and now > expected / 4:
                os.kill(running.pid, signal.SIGKILL)
                running.end()
                running, killed = Job(command), True
            if stopped is None and now > expected / 2:
                process.send_signal(signal.SIGSTOP)
                stopped = now
            if stopped is not None and not went_on and now > stopped + options.stall:
                process.send_signal(signal.SIGCONT)
                went_on = True
        took = time.monotonic() - begin
        code = running.end()
        if code != 1:
            output = running.text.decode(errors="replace")
            raise SystemExit(f"exit code {code}, and 1 was expected\n{output[-3000:]}")
        return samples, took


def main() -> int:
    options = arguments()
    if not are_built(options.bin, "coordinator", "origin"):
        return 2
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="time-left-") as folder:
        samples, took = run(options, Path(folder))
    counted = [
        (now, seconds(shown)) for now, shown in samples if now > IGNORED * took and took - now >= 1
    ]
    right = sum(
        left is not None and abs(left - (took - now)) <= TOLERANCE * (took - now)
        for now, left in counted
    )
    estimated = sum(left is not None for _, left in counted)
    if options.verbose:
        last = -1
        for now, left in counted:
            if int(now) != last:
                last = int(now)
                estimate = "--:--" if left is None else f"{left:5.0f}"
                print(f"{now:7.1f} s: shown {estimate}, true {took - now:6.1f}")
    share = right / len(counted)
    print(
        f"job of {took:.1f} s: {share:.1%} of the time within {TOLERANCE:.0%} "
        f"({right / max(estimated, 1):.1%} of the time in which\nan estimate was shown); "
        f"{len(counted)} samples, {len(counted) - estimated} of them without an estimate"
    )
    return 0 if share >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
