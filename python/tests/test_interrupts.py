"""Ctrl-C and cancellation at random instants. `INTERRUPTS=100` sets their number (default 10), `SEED`
repeats a run."""

import asyncio
import math
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from harness import DEADLINE, assert_complete_or_absent, files, start
from imagenet_downloader import download_batch_async
from origin import Origin

INTERRUPTS = int(os.environ.get("INTERRUPTS", "10"))
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
#: Time from the request to the exception, in seconds, in 99 of 100 interruptions.
SOON = 0.3
#: The instants are spread over so many seconds of a batch, which lasts longer.
SPAN = 1.0
WORKERS = 4
#: Bytes a second of each body, which the origin sends in twenty pieces.
RATE = 400_000
#: Bytes that one interruption may cost: the origin counts pieces that it has written to a connection
#: before it learns that this is closed.
LOST = WORKERS * 2 * RATE // 20

#: Writes the time at which the call has ended, and whether by the signal.
BLOCKING = f"""
    by_signal = False
    try:
        print("begins", flush=True)
        download(num_workers={WORKERS})
        ended_at = time.monotonic()
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        if "ended_at" not in globals():
            ended_at = time.monotonic()
            by_signal = True
    print(ended_at, by_signal)
"""


class Targets:
    """Targets, one after the other: when all classes of one are there, the next is begun."""

    def __init__(self, origin: Origin, folder: Path) -> None:
        # Tars of different lengths, so that the instants are spread over all steps of a class.
        for number in range(1, 13):
            origin.add(f"n{number:08}", size=20_000 * (1 + number % 7))
        origin.rate = RATE
        self._origin = origin
        self._folder = folder
        self._length = sum(len(one.tar) for one in origin.classes.values())
        self._number = 0
        self._interrupts = 0
        #: Bytes that the origin sent again, and the largest number that is allowed.
        self.lost = 0
        self.allowed = 0

    @property
    def target(self) -> Path:
        return self._folder / f"target_{self._number}"

    def check(self, by_interrupt: bool) -> None:
        """After each call: its folders are complete or absent. After the last one of a target:
        nothing is left of the earlier calls, and the origin sent little twice."""
        there = assert_complete_or_absent(self.target, self._origin)
        self._interrupts += by_interrupt
        if by_interrupt:
            return
        assert there == len(self._origin.classes)
        assert not self.target.with_name(f".{self.target.name}.partial").exists()
        self.lost += self._origin.bytes_sent - self._length
        self.allowed += self._interrupts * LOST
        self._origin.bytes_sent = 0
        self._interrupts = 0
        self._number += 1

    def run(self, one: Callable[[Path, float], float | None]) -> None:
        """Interrupts as often as asked for, then lets the last call run to its end. `one` calls with
        a target, interrupts after a delay, and returns the seconds until the exception; `None` if
        the call had ended before."""
        instants = random.Random(SEED)
        taken: list[float] = []
        while len(taken) < INTERRUPTS:
            seconds = one(self.target, instants.uniform(0, SPAN))
            self.check(seconds is not None)
            if seconds is not None:
                taken.append(seconds)
        while self._interrupts:
            self.check(one(self.target, DEADLINE) is not None)
        taken.sort()
        p99 = taken[math.ceil(0.99 * len(taken)) - 1]
        figures = (
            f"seed {SEED}, {len(taken)} interruptions: median {statistics.median(taken):.3f} s, "
            f"p90 {taken[math.ceil(0.9 * len(taken)) - 1]:.3f} s, p99 {p99:.3f} s, "
            f"longest {taken[-1]:.3f} s; {self.lost} bytes sent twice of at most {self.allowed}"
        )
        print(figures)
        assert p99 < SOON, figures
        assert self.lost <= self.allowed, figures


def test_ctrl_c_at_random_instants(origin: Origin, tmp_path: Path) -> None:
    def one(target: Path, delay: float) -> float | None:
        process = start(BLOCKING, origin.url, target)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        # The instant is what is tested. The last call is interrupted after its end.
        end = time.monotonic() + delay
        while time.monotonic() < end and not (delay == DEADLINE and is_whole(target, origin)):
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
        sent_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        ended_at, by_signal = output.split()
        return float(ended_at) - sent_at if by_signal == "True" else None

    Targets(origin, tmp_path).run(one)


def is_whole(target: Path, origin: Origin) -> bool:
    """Whether a batch that runs has published all classes and has removed its staging folder."""
    staging = target.with_name(f".{target.name}.partial")
    return target.exists() and len(files(target)) == len(origin.classes) and not staging.exists()


def test_cancellation_at_random_instants(origin: Origin, tmp_path: Path) -> None:
    async def call(target: Path, delay: float) -> float | None:
        options = {"num_workers": WORKERS, "delete_tar": True, "url": origin.url}
        batch = download_batch_async(list(origin.classes), target, progress=False, **options)
        task = asyncio.create_task(batch)
        done, _ = await asyncio.wait([task], timeout=delay)
        if done:
            assert task.result().failed == 0
            return None
        cancelled_at = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        return time.monotonic() - cancelled_at if task.cancelled() else None

    Targets(origin, tmp_path).run(lambda target, delay: asyncio.run(call(target, delay)))
