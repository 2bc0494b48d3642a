"""What this program is held to, and whether it gets there."""

from dataclasses import dataclass

from corpus import Corpus
from rounds import Series, Setting
from table import MEGABYTE, by_name, figures, median_ratio, wall_of

PEAK_MB = 40.0


@dataclass(frozen=True)
class Target:
    """Upper bounds in one setting. Ratios are to `curl | tar`; None where nothing is asked for."""

    setting: Setting
    wall: float | None = None
    cpu: float | None = None
    # Faster than each of the others, too.
    fastest: bool = False
    # Times what the bytes take when every connection is in use all the time.
    ideal: float | None = None
    # Who takes part beside this program and curl | tar; None: everybody. A disk keeps all targets to the end and has no
    # room for more, and peak memory is nobody else's concern.
    peers: tuple[str, ...] | None = None


TARGETS = (
    Target(Setting("realistic"), wall=0.65, cpu=0.70),
    Target(Setting("realistic", keep_tar=True), wall=0.62, cpu=0.65, fastest=True),
    Target(Setting("realistic", https=True), wall=0.72, cpu=0.75),
    Target(Setting("small"), wall=0.62, cpu=0.65, fastest=True),
    Target(Setting("skewed"), wall=0.30, ideal=1.3),
    Target(Setting("large"), peers=()),
    Target(Setting("realistic", on_disk=True), wall=1.0, peers=()),
)


@dataclass(frozen=True)
class Verdict:
    """One bound: what was found beside what is asked for."""

    what: str
    found: float
    bound: float
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.found <= self.bound

    def __str__(self) -> str:
        word = "PASS     " if self.passed else "SHORTFALL"
        return f"{word}  {self.what}: {self.found:.2f}{self.unit}, at most {self.bound:.2f}{self.unit}"


class NoFigures(Exception):
    """This program or the reference is void, so that nothing can be said."""


def judge(target: Target, all_series: list[Series], corpus: Corpus) -> list[Verdict]:
    """Holds the rounds against the target."""
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
        verdicts.append(Verdict(f"wall beside the {at_best:.2f} s of {target.setting.parallel} full connections",
                                found.wall / at_best, target.ideal))
    return verdicts
