"""One run of one program into a new target: its cost, whether other processes disturbed it, and
whether the target is correct."""

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
# Other processes with more than this share of all cores have disturbed a run.
QUIET = 0.10
SECONDS_TO_FINISH = 900
SECONDS_BETWEEN_SAMPLES = 0.02


@dataclass(frozen=True)
class Call:
    """Seconds and CPU seconds of the call of a library, without the start of its interpreter."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Run:
    """Seconds, CPU seconds, bytes of memory; and the share of all cores used by other processes."""

    wall: float
    cpu: float
    peak: int
    others: float
    # Of a peer that prints it.
    call: Call | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other processes used more than the limit."""
        return self.others > QUIET


class Void(Exception):
    """The program failed or did not deliver the corpus: its times are not valid."""


@dataclass(frozen=True)
class Load:
    """CPU seconds until a point in time: of the machine, and of the measurement itself."""

    moment: float
    machine: float
    own: float

    @classmethod
    def now(cls, origin: Origin | None = None) -> "Load":
        """Reads both. The measurement consists of this process, the children it waited for, and the
        origin."""
        return cls(
            time.monotonic(),
            cpu_of_machine(),
            sum(os.times()[:4]) + (origin.cpu_seconds() if origin else 0.0),
        )

    def share_of_others(self, later: "Load") -> float:
        """The share of all cores that other processes used until a later point in time."""
        others = (later.machine - self.machine) - (later.own - self.own)
        return max(0.0, others) / CORES / (later.moment - self.moment)


class Sampler(threading.Thread):
    """Samples the memory of a process group without its leader until stopped; `peak` is in
    bytes."""

    def __init__(self, group: int):
        super().__init__(daemon=True)
        self.peak = 0
        self._group = group
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_SAMPLES):
            self.peak = max(self.peak, memory_of_group(self._group, without=self._group))

    def stop(self) -> None:
        """Stops the sampling."""
        self._ended.set()
        self.join()


def measure(
    peer: Peer, job: Job, origin: Origin, log: Path, on_disk: bool, sample_memory: bool
) -> Run:
    """Runs a program once; raises `Void` if the target differs from the corpus. Sampling slows a
    run down, so the times of a sampled run are not used."""
    job.target.mkdir()
    sync = str(job.target) if on_disk and not peer.durable else ""
    command = [sys.executable, "-I", "-S", str(LAUNCHER), sync, *peer.command(job)]
    if on_disk:
        subprocess.run(["sync", "-f", job.target], check=True)  # writes back what earlier runs left
    before = Load.now(origin)
    with log.open("wb") as errors:
        launcher = subprocess.Popen(
            command,
            env=job.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
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
    call = Call(**json.loads(last_words.splitlines()[-1])) if peer.prints_call else None
    return Run(cost["wall"], cost["cpu"], peak, others, call)


def end_group(launcher: subprocess.Popen) -> None:
    """Kills a launcher that was abandoned, with the processes it started."""
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def wait_until_quiet(deadline: float) -> None:
    """Waits for a second in which other processes use few CPU seconds, at most until a monotonic
    time."""
    while time.monotonic() < deadline:
        before = Load.now()
        time.sleep(1)
        if before.share_of_others(Load.now()) <= QUIET:
            return
