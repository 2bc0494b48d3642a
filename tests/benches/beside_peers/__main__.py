"""Compares this program with common alternatives on the same classes, from the same nginx on
loopback.

    cargo build --release -p coordinator
    python3 tests/benches/beside_peers --shape realistic           # also: small, skewed, large
    python3 tests/benches/beside_peers --shape realistic --https   # also: --keep-tar, --disk
    python3 tests/benches/beside_peers --all                       # every setting with a target
    python3 tests/benches/beside_peers --peers from-python --rounds 15   # the Python package

The programs run alternately, in another order each round. After each run the target is compared
with the corpus; a program that fails or delivers anything else is VOID and has no figures. On a
busy machine many processes get a larger share than one. A run during which other processes used
more than a tenth of the cores is therefore repeated until --patience is used up, and marked if it
was never quiet. Loopback has no round-trip time and the origin shares the cores: the ratios are
meaningful, the seconds are not.

It needs nginx, curl and tar, and openssl for --https; aria2c, wget, a Python with requests below
target/python_peer (see requirements.txt) and one with the wheel of this program (--python; build it
with python/build-wheel from the programs of --bin) are used if they are installed. The corpus is in
memory, and so are the targets unless --disk is given: up to 5 GB.

Exit code: 0, 1 if a run was void or a target was missed, 2 if it could not run.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from corpus import SHAPES, Corpus
from origin import Origin, OriginError, nginx
from peers import (
    FROM_PYTHON,
    OTHERS,
    REFERENCE,
    Peer,
    choose,
    from_python,
    python_tool,
    this_program,
)
from rounds import NoRoom, Rounds, Series, Setting
from table import LEGEND, table
from targets import TARGETS, NoFigures, Target, judge

REPOSITORY = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="beside_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--all", action="store_true", help="every setting with a target, and whether it is met"
    )
    parser.add_argument("--shape", choices=SHAPES, default="realistic")
    parser.add_argument("--https", action="store_true")
    parser.add_argument("--keep-tar", action="store_true", help="the tars stay beside the classes")
    parser.add_argument(
        "--disk", action="store_true", help="targets on a disk instead of in memory"
    )
    parser.add_argument(
        "--parallel", type=int, default=10, metavar="N", help="downloads at a time (default 10)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default 5)")
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        choices=[FROM_PYTHON, *(each.name for each in OTHERS), "python"],
        help=f"only these beside this program and {REFERENCE.name}",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="X",
        help="images a class, as a part of the whole; targets are not judged then",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=300,
        metavar="S",
        help="seconds a setting to wait for quiet cores and repeat disturbed runs, 0 for never "
        "(default 300)",
    )
    parser.add_argument(
        "--bin",
        type=Path,
        default=BUILD / "release",
        metavar="DIR",
        help="where the coordinator is",
    )
    parser.add_argument(
        "--python",
        type=Path,
        default=BUILD / "wheel_installed/bin/python",
        metavar="FILE",
        help="interpreter that has the wheel of this program (default: below the build's folder)",
    )
    parser.add_argument(
        "--memory-dir",
        type=Path,
        default=Path("/dev/shm"),
        metavar="DIR",
        help="(default /dev/shm)",
    )
    parser.add_argument(
        "--disk-dir", type=Path, default=BUILD, metavar="DIR", help="(default: the build's folder)"
    )
    return parser.parse_args()


def file_system_of(folder: Path) -> str:
    """The type of the file system of a folder."""
    best = ("", "an unknown file system")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


class Bench:
    """The options, the available programs, and the corpora created so far."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options = options
        self._scratch = scratch
        self._corpora: dict[str, Corpus] = {}
        self._peers = choose(
            [
                this_program(options.bin),
                from_python(options.python),
                *OTHERS,
                python_tool(BUILD / "python_peer/bin/python"),
            ],
            options.peers,
        )

    def _corpus(self, shape: str) -> Corpus:
        """Returns a corpus. Only one exists at a time, because memory may be short."""
        if shape not in self._corpora:
            for name in list(self._corpora):
                shutil.rmtree(self._scratch / name)
                del self._corpora[name]
            self._corpora[shape] = Corpus(self._scratch / shape, SHAPES[shape], self.options.scale)
        return self._corpora[shape]

    def run(self, setting: Setting, target: Target | None) -> bool:
        """Measures and prints one setting. Returns whether no run was void and the target, if any,
        is met."""
        corpus = self._corpus(setting.shape)
        peers = self._taking_part(target)
        place = self.options.disk_dir if setting.on_disk else self.options.memory_dir
        with ExitStack() as ending:
            folder = Path(
                ending.enter_context(tempfile.TemporaryDirectory(prefix="beside-peers-", dir=place))
            )
            state = Path(
                ending.enter_context(
                    tempfile.TemporaryDirectory(prefix="origin-", dir=self._scratch)
                )
            )
            origin = ending.enter_context(
                Origin(corpus.tars, state / "nginx", setting.https, corpus.shape.rate)
            )
            rounds = Rounds(setting, corpus, peers, folder, self.options.patience)
            series = rounds.measure(self.options.rounds, origin)
        print(f"\n{table(setting, corpus, series, file_system_of(place))}\n")
        for remark in origin.remarks:
            print(remark)
        if setting.on_disk:
            print(
                "The targets were removed just now: on ext4 wait six minutes before anything is "
                "measured there again."
            )
        judged = target is not None and target.setting == setting and self.options.scale == 1
        met = print_verdicts(target, series, corpus) if judged else True
        sys.stdout.flush()
        return met and not any(each.void for each in series)

    def _taking_part(self, target: Target | None) -> list[Peer]:
        if target is None or target.peers is None or self.options.peers:
            return self._peers
        return [
            each for each in self._peers if each.name in ("ours", REFERENCE.name, *target.peers)
        ]


def print_verdicts(target: Target, series: list[Series], corpus: Corpus) -> bool:
    """Prints for each bound whether it is met. Returns whether all are."""
    try:
        verdicts = judge(target, series, corpus)
    except NoFigures as error:
        print(f"SHORTFALL  {error}")
        return False
    for verdict in verdicts:
        print(verdict)
    if any(run.disturbed for each in series for run in each.runs):
        print("Other processes disturbed these runs: measure again before you believe it.")
    return all(verdict.passed for verdict in verdicts)


def settings(options: argparse.Namespace) -> list[tuple[Setting, Target | None]]:
    """The settings to measure, each with its target if it has one."""
    if options.all:
        return [(replace(each.setting, parallel=options.parallel), each) for each in TARGETS]
    wanted = Setting(options.shape, options.https, options.keep_tar, options.disk, options.parallel)
    return [(wanted, next((each for each in TARGETS if each.setting == wanted), None))]


def main() -> int:
    options = arguments()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # runs the cleanup of the origin and the targets
    for program in (options.bin / "coordinator", nginx() or "nginx"):
        if not shutil.which(program):
            print(f"{program} is not there", file=sys.stderr)
            return 2
    try:
        with tempfile.TemporaryDirectory(prefix="beside-peers-", dir=options.memory_dir) as scratch:
            bench = Bench(options, Path(scratch))
            met = [bench.run(*each) for each in settings(options)]
    except (OriginError, NoRoom, OSError) as error:
        print(f"failed to measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(LEGEND)
    if options.all and options.scale == 1:
        print(f"{sum(met)} of {len(met)} settings meet their targets.")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
