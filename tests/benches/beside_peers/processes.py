"""Reads /proc: parents of processes, CPU seconds, and memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))
# Process id of the parent of all kernel threads.
KTHREADD = 2


@dataclass(frozen=True)
class Process:
    """The needed fields of /proc/PID/stat."""

    pid: int
    parent: int
    group: int
    cpu_seconds: float


def parse_stat(line: str) -> Process:
    """Parses /proc/PID/stat. The program name, in parentheses, may contain spaces and
    parentheses."""
    before, _, after = line.rpartition(")")
    fields = after.split()
    cpu = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return Process(int(before.split()[0]), int(fields[1]), int(fields[2]), cpu)


def processes() -> Iterator[Process]:
    """All current processes."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                yield parse_stat(Path("/proc", entry, "stat").read_text())
            except OSError:
                continue  # it has ended meanwhile


def cpu_of_family(pid: int) -> float:
    """CPU seconds so far of a process and its running children."""
    return sum(each.cpu_seconds for each in processes() if pid in (each.pid, each.parent))


def cpu_of_machine() -> float:
    """CPU seconds so far of all processes except kernel threads, which work for all of them."""
    with open("/proc/stat") as stat:
        user, nice, system = map(int, stat.readline().split()[1:4])
    kernel = sum(each.cpu_seconds for each in processes() if each.parent == KTHREADD)
    return (user + nice + system) / TICKS_PER_SECOND - kernel


def memory_of_group(group: int, without: int) -> int:
    """Current memory of a process group in bytes, without one process; shared pages count once."""
    total = 0
    for each in processes():
        if each.group == group and each.pid != without:
            try:
                rollup = Path("/proc", str(each.pid), "smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(
                int(line.split()[1]) * 1024
                for line in rollup.splitlines()
                if line.startswith("Pss:")
            )
    return total
