"""The rounds of one setting: all programs run in each round, in another order each time, with the
same origin."""

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from corpus import Corpus
from measure import Run, Void, measure, wait_until_quiet
from origin import Origin
from peers import Job, Peer

# Maximum number of attempts of a disturbed run; the last one counts.
TRIES = 4
# Block size to which a file system rounds the size of a file.
BLOCK = 4096


@dataclass(frozen=True)
class Setting:
    """A setting: the shape of the corpus, the protocol, and whether tars are kept."""

    shape: str
    https: bool = False
    keep_tar: bool = False
    on_disk: bool = False
    parallel: int = 10

    @property
    def title(self) -> str:
        """A short description."""
        return ", ".join(
            (
                self.shape,
                "HTTPS" if self.https else "HTTP",
                "tars kept" if self.keep_tar else "tars deleted",
                "disk" if self.on_disk else "memory",
                f"{self.parallel} at a time",
            )
        )


@dataclass
class Series:
    """The runs of one program, one per round, or the reason why there are none; and the number of
    discarded runs."""

    peer: Peer
    runs: list[Run] = field(default_factory=list)
    void: str | None = None
    thrown_away: int = 0
    # Bytes; from a run that is not timed.
    peak: int = 0


class NoRoom(Exception):
    """The file system of the targets has no space for the next target."""


class Rounds:
    """Measures the programs in one setting. `patience` is the total number of seconds for waiting
    for quiet cores."""

    def __init__(
        self, setting: Setting, corpus: Corpus, peers: list[Peer], folder: Path, patience: float
    ):
        self.setting = setting
        self.corpus = corpus
        self.series = [Series(peer) for peer in peers]
        self._folder = folder
        self._patience = patience
        self._turns = 0

    def measure(self, count: int, origin: Origin) -> list[Series]:
        """One round for warm-up and memory, then the requested number of rounds."""
        for series in self.series:
            if run := self._run(series, origin, sample_memory=True):
                series.peak = run.peak
        for number in range(count):
            for series in in_turn(self.series, number):
                if run := self._run_in_quiet(series, origin):
                    series.runs.append(run)
                    series.peak = max(series.peak, run.peak)
                    print(
                        f"round {number + 1}: {series.peer.name:13} {run.wall:7.2f} s "
                        f"{run.cpu:7.2f} s CPU, others {run.others:.0%}",
                        file=sys.stderr,
                    )
        return self.series

    def _run_in_quiet(self, series: Series, origin: Origin) -> Run | None:
        """Repeats a run that other processes disturbed. The decision depends only on their CPU
        share, never on the result."""
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
        """One run, unless the program failed before. Its target is removed outside of the measured
        time."""
        if series.void:
            return None
        self._turns += 1
        target = self._folder / f"{self._turns}-{series.peer.name}"
        room = 2 * self.corpus.tar_bytes + BLOCK * self.corpus.files  # the tars and their content
        if shutil.disk_usage(self._folder).free < room:
            raise NoRoom(f"{self._folder} has less than {room / 1e9:.1f} GB left")
        job = Job(
            self.corpus,
            origin.url,
            origin.cacert,
            target,
            self.setting.parallel,
            self.setting.keep_tar,
        )
        try:
            return measure(
                series.peer,
                job,
                origin,
                self._folder / "output",
                self.setting.on_disk,
                sample_memory,
            )
        except Void as error:
            series.void = str(error)
            print(f"void: {series.peer.name}: {error}", file=sys.stderr)
            return None
        finally:
            # On a disk the targets stay until the end: ext4 skips inodes that were freed minutes
            # ago, so a run after a removal is several times slower.
            if not self.setting.on_disk:
                shutil.rmtree(target, ignore_errors=True)


def in_turn(series: list[Series], number: int) -> list[Series]:
    """The order of a round: each program is first once, and the direction of the order
    alternates."""
    start = number % len(series)
    order = series[start:] + series[:start]
    return order if number % 2 == 0 else order[:1] + order[:0:-1]
