"""The rounds of one setting: every program takes its turn, in another order each time, from the same origin."""

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from corpus import Corpus
from measure import Run, Void, measure, wait_until_quiet
from origin import Origin
from peers import Job, Peer

# A run that others keep disturbing is taken as it is after so many.
TRIES = 4
# What a file system rounds a file's size up to.
BLOCK = 4096


@dataclass(frozen=True)
class Setting:
    """What is measured: a shape, how it comes, and what becomes of it."""

    shape: str
    https: bool = False
    keep_tar: bool = False
    on_disk: bool = False
    parallel: int = 10

    @property
    def title(self) -> str:
        """In a few words."""
        return ", ".join((self.shape, "HTTPS" if self.https else "HTTP", "tars kept" if self.keep_tar else "tars deleted",
                          "disk" if self.on_disk else "memory", f"{self.parallel} at a time"))


@dataclass
class Series:
    """The runs of one program, one a round, or why there is nothing to say; what was thrown away because of others."""

    peer: Peer
    runs: list[Run] = field(default_factory=list)
    void: str | None = None
    thrown_away: int = 0
    # Bytes, of a run that is not timed.
    peak: int = 0


class NoRoom(Exception):
    """The file system of the targets has no place for the next one."""


class Rounds:
    """Measures the programs in one setting. `patience` is how many seconds may go into waiting for quiet cores, in all."""

    def __init__(self, setting: Setting, corpus: Corpus, peers: list[Peer], folder: Path, patience: float):
        self.setting = setting
        self.corpus = corpus
        self.series = [Series(peer) for peer in peers]
        self._folder = folder
        self._patience = patience
        self._turns = 0

    def measure(self, count: int, origin: Origin) -> list[Series]:
        """A round that warms up and looks at memory, then as many as are asked for."""
        for series in self.series:
            if run := self._run(series, origin, sample_memory=True):
                series.peak = run.peak
        for number in range(count):
            for series in in_turn(self.series, number):
                if run := self._run_in_quiet(series, origin):
                    series.runs.append(run)
                    series.peak = max(series.peak, run.peak)
                    print(f"round {number + 1}: {series.peer.name:13} {run.wall:7.2f} s {run.cpu:7.2f} s CPU, "
                          f"others {run.others:.0%}", file=sys.stderr)
        return self.series

    def _run_in_quiet(self, series: Series, origin: Origin) -> Run | None:
        """Repeats a run that others disturbed. Only their share decides that, never the result."""
        for attempt in range(1, TRIES + 1):
            begin = time.monotonic()
            wait_until_quiet(begin + self._patience)
            waited = time.monotonic() - begin
            run = self._run(series, origin)
            if run and run.disturbed:
                waited = time.monotonic() - begin
            self._patience = max(0.0, self._patience - waited)
            if run is None or not run.disturbed or self._patience == 0 or attempt == TRIES:
                return run
            series.thrown_away += 1

    def _run(self, series: Series, origin: Origin, sample_memory: bool = False) -> Run | None:
        """One run, unless the program has failed before; what it left is removed outside its time."""
        if series.void:
            return None
        self._turns += 1
        target = self._folder / f"{self._turns}-{series.peer.name}"
        room = 2 * self.corpus.tar_bytes + BLOCK * self.corpus.files  # the tars and what is in them
        if shutil.disk_usage(self._folder).free < room:
            raise NoRoom(f"{self._folder} has less than {room / 1e9:.1f} GB left")
        job = Job(self.corpus, origin.url, origin.cacert, target, self.setting.parallel, self.setting.keep_tar)
        try:
            return measure(series.peer, job, origin, self._folder / "output", self.setting.on_disk, sample_memory)
        except Void as error:
            series.void = str(error)
            print(f"void: {series.peer.name}: {error}", file=sys.stderr)
            return None
        finally:
            # On a disk they stay until the end: ext4 steps over inodes that were freed minutes ago, so whoever comes after
            # a removal is several times slower.
            if not self.setting.on_disk:
                shutil.rmtree(target, ignore_errors=True)


def in_turn(series: list[Series], number: int) -> list[Series]:
    """The order of a round: each begins once, and who comes after whom changes direction."""
    start = number % len(series)
    order = series[start:] + series[:start]
    return order if number % 2 == 0 else order[:1] + order[:0:-1]
