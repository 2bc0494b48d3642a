"""The performance targets of this program, and the comparison with the results."""

from dataclasses import dataclass

from corpus import Corpus
from peers import FROM_PYTHON
from rounds import Series, Setting
from table import MEGABYTE, by_name, cpu_of, figures, median_ratio, wall_of

PEAK_MB = 40.0


@dataclass(frozen=True)
class Target:
    """Upper bounds in one setting. Ratios are to `curl | tar`; None: no bound."""

    setting: Setting
    wall: float | None = None
    cpu: float | None = None
    # Also faster than each of the other programs.
    fastest: bool = False
    # Factor on the time that the bytes take with every connection busy all the time.
    ideal: float | None = None
    # Wall and CPU of the call of `download_batch` from Python, as factors on those of this program,
    # if Python has the package.
    from_python: float | None = None
    # Programs in addition to this one and curl | tar; None: all. A disk keeps all targets until the
    # end and has no space for more, and peak memory is only a target of this program.
    peers: tuple[str, ...] | None = None


TARGETS = (
    Target(Setting("realistic"), wall=0.65, cpu=0.70, from_python=1.03),
    Target(Setting("realistic", keep_tar=True), wall=0.62, cpu=0.65, fastest=True),
    Target(Setting("realistic", https=True), wall=0.72, cpu=0.75),
    Target(Setting("small"), wall=0.62, cpu=0.65, fastest=True),
    Target(Setting("skewed"), wall=0.30, ideal=1.3),
    Target(Setting("large"), peers=()),
    Target(Setting("realistic", on_disk=True), wall=1.0, peers=()),
)


@dataclass(frozen=True)
class Verdict:
    """One bound: the measured and the allowed value."""

    what: str
    found: float
    bound: float
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the bound is met."""
        return self.found <= self.bound

    def __str__(self) -> str:
        word = "PASS     " if self.passed else "SHORTFALL"
        return (
            f"{word}  {self.what}: {self.found:.2f}{self.unit}, at most {self.bound:.2f}{self.unit}"
        )


class NoFigures(Exception):
    """This program or the reference is void, so no bound can be judged."""


def judge(target: Target, all_series: list[Series], corpus: Corpus) -> list[Verdict]:
    """Compares the results with the target."""
    ours = by_name(all_series, "ours")
    found = figures(ours, all_series, corpus.payload) if ours and ours.runs else None
    if not ours or not found or found.wall_ratio is None or found.cpu_ratio is None:
        raise NoFigures("no figures: this program or curl | tar is void or absent")
    verdicts = [Verdict("peak memory", found.peak / MEGABYTE, PEAK_MB, " MB")]
    if target.wall is not None:
        verdicts.append(Verdict("wall beside curl | tar", found.wall_ratio, target.wall))
    if target.cpu is not None:
        verdicts.append(Verdict("CPU beside curl | tar", found.cpu_ratio, target.cpu))
    if target.fastest:
        others = [each for each in all_series if each is not ours and not each.void]
        best = min(others, key=lambda each: figures(each, all_series, corpus.payload).wall)
        beside = median_ratio(ours.runs, best.runs, wall_of)
        verdicts.append(Verdict(f"wall beside the fastest peer, {best.peer.name}", beside, 1.0))
    if target.ideal is not None:
        at_best = corpus.tar_bytes / (target.setting.parallel * corpus.shape.rate)
        verdicts.append(
            Verdict(
                f"wall beside the {at_best:.2f} s of {target.setting.parallel} full connections",
                found.wall / at_best,
                target.ideal,
            )
        )
    if target.from_python is not None:
        verdicts += judge_package(target.from_python, ours, all_series)
    return verdicts


def judge_package(bound: float, ours: Series, all_series: list[Series]) -> list[Verdict]:
    """Compares the call from Python with this program, if Python has the package."""
    package = next((each for each in all_series if each.peer.name == FROM_PYTHON), None)
    if package is None:
        return []
    if package.void:
        raise NoFigures("no figures: the Python package is void")
    calls = [run.call for run in package.runs]
    return [
        Verdict(
            f"{what} beside this program, called from Python",
            median_ratio(calls, ours.runs, of),
            bound,
        )
        for what, of in (("wall", wall_of), ("CPU", cpu_of))
    ]
