"""The results of the rounds, as figures and as a table."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from corpus import Corpus
from measure import QUIET, Call, Run
from peers import FROM_PYTHON, REFERENCE
from rounds import Series, Setting

MEGABYTE = 1e6
GIGABYTE = 1e9


@dataclass(frozen=True)
class Figures:
    """The figures of one program: seconds, CPU seconds per GB of images, bytes; ratios to the
    reference, or None."""

    name: str
    wall: float
    fastest: float
    slowest: float
    cpu_per_gb: float
    peak: int
    others: float
    wall_ratio: float | None
    cpu_ratio: float | None

    @property
    def busy(self) -> bool:
        """Whether one of these runs was disturbed."""
        return self.others > QUIET


def median_ratio(
    runs: list[Run | Call], reference: list[Run], of: Callable[[Run | Call], float]
) -> float:
    """The median of the ratios of each round, which is not affected by a slow or disturbed
    round."""
    return statistics.median(
        of(run) / of(other) for run, other in zip(runs, reference, strict=True)
    )


def wall_of(run: Run | Call) -> float:
    """Seconds."""
    return run.wall


def cpu_of(run: Run | Call) -> float:
    """CPU seconds."""
    return run.cpu


def by_name(all_series: list[Series], name: str) -> Series | None:
    """The series of the program, if it has figures."""
    return next((each for each in all_series if each.peer.name == name and not each.void), None)


def figures(series: Series, all_series: list[Series], payload: int) -> Figures:
    """The figures of a program that is not void. `payload` is in bytes."""
    walls = [run.wall for run in series.runs]
    reference = by_name(all_series, REFERENCE.name)
    return Figures(
        name=series.peer.name,
        wall=statistics.median(walls),
        fastest=min(walls),
        slowest=max(walls),
        cpu_per_gb=statistics.median(run.cpu for run in series.runs) / (payload / GIGABYTE),
        peak=series.peak,
        others=max(run.others for run in series.runs),
        wall_ratio=median_ratio(series.runs, reference.runs, wall_of) if reference else None,
        cpu_ratio=median_ratio(series.runs, reference.runs, cpu_of) if reference else None,
    )


def table(setting: Setting, corpus: Corpus, all_series: list[Series], file_system: str) -> str:
    """The Markdown report of one setting; the legend explains the columns."""
    rounds = max((len(each.runs) for each in all_series), default=0)
    largest = max(each.tar_bytes for each in corpus.classes) / MEGABYTE
    rate = f", {corpus.shape.rate / MEGABYTE:.0f} MB/s a connection" if corpus.shape.rate else ""
    lines = [
        f"## {setting.title}",
        "",
        f"{corpus.shape.summary}: {len(corpus.classes)} classes, {corpus.files} files, "
        f"{corpus.payload / GIGABYTE:.3f} GB, the largest tar {largest:.0f} MB{rate}; "
        f"into {file_system}; rounds: {rounds}",
        "",
        f"| program | wall s (min-max) | / {REFERENCE.title} | CPU s/GB | / {REFERENCE.title} "
        "| peak MB | others |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [row(each, all_series, corpus.payload) for each in all_series]
    lines += beside_program(all_series)
    if repeated := ", ".join(
        f"{each.peer.name} {each.thrown_away}" for each in all_series if each.thrown_away
    ):
        lines += [
            "",
            f"Thrown away and repeated, because others had more than {QUIET:.0%} of the cores: "
            f"{repeated}",
        ]
    return "\n".join(lines)


def row(series: Series, all_series: list[Series], payload: int) -> str:
    """The row of one program."""
    if series.void:
        return f"| {series.peer.title} | VOID: {' '.join(series.void.split())[:200]} | | | | | |"
    found = figures(series, all_series, payload)
    return (
        f"| {series.peer.title} | {found.wall:.2f} ({found.fastest:.2f}-{found.slowest:.2f}) "
        f"| {ratio(found.wall_ratio)} | {found.cpu_per_gb:.2f} | {ratio(found.cpu_ratio)} "
        f"| {found.peak / MEGABYTE:.1f} | {found.others:.0%}{' busy' if found.busy else ''} |"
    )


def beside_program(all_series: list[Series]) -> list[str]:
    """How the package from Python compares with the program: the process, and its call alone."""
    ours, package = by_name(all_series, "ours"), by_name(all_series, FROM_PYTHON)
    if not ours or not package or not package.runs:
        return []
    calls = [run.call for run in package.runs]
    process, call = (
        " and ".join(f"{median_ratio(runs, ours.runs, of):.3f}" for of in (wall_of, cpu_of))
        for runs in (package.runs, calls)
    )
    return ["", f"From Python beside this program, wall and CPU: process {process}, call {call}"]


def ratio(value: float | None) -> str:
    """A number with two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


LEGEND = f"""
wall: median of the rounds, on a disk with a final sync for those that do none. CPU: of the program
and all its children, for a GB (10^9 bytes) of images. Ratios: medians of the rounds' ratios. peak:
this program and Python, high-water mark of their only process in any round; the others, largest sum
over their processes in the round that is not timed (PSS, sampled). others: the largest share of all
cores that other processes had during a run; above {QUIET:.0%} it is called busy.
"""
