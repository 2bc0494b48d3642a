"""One run of one program into a fresh target: what it cost, whether others disturbed it, whether the target is right."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from origin import Origin
from peers import Job, Peer
from processes import CORES, cpu_of_family, cpu_of_machine, memory_of_group

LAUNCHER = Path(__file__).resolve().parent / "launch.py"
# Above this share of all cores the other processes have disturbed a run.
QUIET = 0.10
SECONDS_TO_FINISH = 900
SECONDS_BETWEEN_SAMPLES = 0.02


@dataclass(frozen=True)
class Run:
    """Seconds, CPU seconds, bytes of memory; the share of all cores that other processes had."""

    wall: float
    cpu: float
    peak: int
    others: float

    @property
    def disturbed(self) -> bool:
        """Whether other processes had more than is bearable."""
        return self.others > QUIET


class Void(Exception):
    """The program failed or did not deliver the corpus: its times mean nothing."""


@dataclass(frozen=True)
class Load:
    """CPU seconds until a moment: of the machine, and of what belongs to the measuring."""

    moment: float
    machine: float
    own: float

    @classmethod
    def now(cls, origin: Origin | None = None) -> "Load":
        """Own are this process, all that it has waited for, and the origin."""
        return cls(time.monotonic(), cpu_of_machine(), sum(os.times()[:4]) + (origin.cpu_seconds() if origin else 0.0))

    def share_of_others(self, later: "Load") -> float:
        """The share of all cores that everybody else had until a later moment."""
        others = (later.machine - self.machine) - (later.own - self.own)
        return max(0.0, others) / CORES / (later.moment - self.moment)


class Sampler(threading.Thread):
    """Watches the memory of a process group, its leader excepted, until it is stopped; `peak` is in bytes."""

    def __init__(self, group: int):
        super().__init__(daemon=True)
        self.peak = 0
        self._group = group
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SAMPLES):
            self.peak = max(self.peak, memory_of_group(self._group, without=self._group))

    def stop(self) -> None:
        """Ends the watching."""
        self._ended.set()
        self.join()


def measure(peer: Peer, job: Job, origin: Origin, log: Path, on_disk: bool, sample_memory: bool) -> Run:
    """Runs a program once; `Void` if what it leaves is not the corpus. Sampling disturbs: its times are not for a table."""
    job.target.mkdir()
    sync = str(job.target) if on_disk and not peer.durable else ""
    command = [sys.executable, "-I", "-S", str(LAUNCHER), sync, *peer.command(job)]
    if on_disk:
        subprocess.run(["sync", "-f", job.target], check=True)  # what earlier runs left to be written
    before = Load.now(origin)
    with log.open("wb") as errors:
        launcher = subprocess.Popen(command, env=job.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=errors, start_new_session=True)
        sampler = Sampler(launcher.pid)
        if sample_memory:
            sampler.start()
        try:
            printed, _ = launcher.communicate(timeout=SECONDS_TO_FINISH)
        except subprocess.TimeoutExpired:
            raise Void(f"still running after {SECONDS_TO_FINISH} s") from None
        finally:
            end_group(launcher)
            if sample_memory:
                sampler.stop()
    last_words = log.read_text(errors="replace").strip()[-1000:]
    if launcher.returncode != 0:
        raise Void(f"did not start: {last_words}")
    cost = json.loads(printed)
    others = before.share_of_others(Load.now(origin))
    if cost["code"] != 0:
        raise Void(f"exit code {cost['code']}: {last_words}")
    if fault := job.corpus.fault_in(job.target, job.keep_tar):
        raise Void(fault)
    peak = cost["largest"] if peer.alone else sampler.peak
    return Run(cost["wall"], cost["cpu"], peak, others)


def end_group(launcher: subprocess.Popen) -> None:
    """Ends what a launcher that was given up has started, and the launcher."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def wait_until_quiet(deadline: float) -> None:
    """Waits for a second in which other processes leave the cores alone, at most until a monotonic time."""
    while time.monotonic() < deadline:
        before = Load.now()
        time.sleep(1)
        if before.share_of_others(Load.now()) <= QUIET:
            return
