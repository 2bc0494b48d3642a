"""Measures whether the concurrency controller finds the limit of an origin, compared with each
fixed number of connections.

    cargo build --release -p coordinator -p worker -p tests --bins
    python3 tests/benches/concurrency.py                       # all kinds, half an hour
    python3 tests/benches/concurrency.py --kinds total --limits 3 --rounds 1

total    an origin with one rate limit for all connections. It breaks every transfer when more than
         C connections are open, and then answers no request for a second. C is unknown to the
         program. `adaptive` is compared with `--max-connections` 1 to C + 1, with --workers 20.
workers  the same with four worker processes of five slots.
steep    the same in one process, but one connection has at most 1/C of the rate: only C of them use
         all of it, and one more breaks them. It has no target: it shows the cost of finding C.
each     an origin with a rate limit for each connection and no other limit: adaptation should cost
         nothing. `adaptive` is compared with `--max-connections 20`, and with `xargs -P 20` with
         `curl | tar`, which does not adapt.

The settings run alternately, in another order each round. Every run has a separate origin, and must
complete every class. The compared value is the time of the whole job, including start and end of
the processes.

Exit code: 0, 1 if a target was missed or a class is incomplete, 2 if it could not run.
"""

import argparse
import io
import json
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from programs import BUILD, are_built  # noqa: E402

KINDS = ("total", "workers", "steep", "each")
SLOTS = 20
WORKERS = 4
IMAGE = 110_000
# The targets.
OF_THE_BEST = 0.85
OF_UNPACED = 0.95
REQUESTS_A_CLASS = 1.5
TIMEOUT = 300


@dataclass(frozen=True)
class Load:
    """Classes of one size, and the origin that serves them."""

    classes: int
    megabytes: float
    origin: tuple[str, ...]


@dataclass
class Figures:
    """The results of the runs of one setting."""

    seconds: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    overloads: list[int] = field(default_factory=list)
    most: int = 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--limits", nargs="+", type=int, default=(3, 5, 8), metavar="C")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--classes", type=int, default=60, help="of a megabyte, for total and workers (default 60)"
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=6_000_000,
        help="bytes a second of the one line (default 6 MB/s)",
    )
    parser.add_argument(
        "--bin",
        type=Path,
        default=BUILD / "release",
        help="folder with coordinator, worker and origin",
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="folder for the tars and the targets"
    )
    return parser.parse_args()


def make_tars(folder: Path, classes: int, megabytes: float) -> list[str]:
    """Tars with the structure of those of ImageNet, and a list of them."""
    folder.mkdir()
    noise = random.Random(1).randbytes(2 * IMAGE)
    wnids = [f"n{number:08}" for number in range(1, classes + 1)]
    for number, wnid in enumerate(wnids):
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for image in range(max(1, round(megabytes * 1e6 / IMAGE))):
                member = tarfile.TarInfo(f"{wnid}_{image}.JPEG")
                member.size = IMAGE
                start = (number * 7919 + image * 104_729) % IMAGE
                tar.addfile(member, io.BytesIO(noise[start : start + IMAGE]))
    (folder / "data.csv").write_text("wnid\n" + "".join(f"{wnid}\n" for wnid in wnids))
    return wnids


class Bench:
    """A corpus, and the commands that download it."""

    def __init__(self, options: argparse.Namespace, folder: Path, load: Load):
        self.bin, self.folder, self.load = options.bin.resolve(), folder, load
        self.tars, self.log = folder / "tars", folder / "log"
        self.wnids = make_tars(self.tars, load.classes, load.megabytes)
        self.images = {
            wnid: len(tarfile.open(self.tars / f"{wnid}.tar").getnames()) for wnid in self.wnids[:1]
        }

    def run(self, start, figures: Figures) -> None:
        """One run with a separate origin."""
        command = [str(self.bin / "origin"), "--dir", str(self.tars), *self.load.origin]
        target = Path(tempfile.mkdtemp(dir=self.folder))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as origin:
            try:
                url = origin.stdout.readline().strip()
                begin = time.monotonic()
                self.log.write_bytes(b"")
                start(self, url, target)
                seconds = time.monotonic() - begin
                with urllib.request.urlopen(f"{url}/.figures", timeout=10) as answer:
                    seen = json.load(answer)
            except SystemExit:
                print(self.log.read_text(errors="replace")[-3000:], file=sys.stderr)
                raise
            finally:
                origin.kill()
        self.check(target)
        shutil.rmtree(target)
        figures.seconds.append(seconds)
        figures.requests.append((seen["gets"] + seen["heads"]) / self.load.classes)
        figures.overloads.append(seen["overloads"])
        figures.most = max(figures.most, seen["most_transfers"])

    def check(self, target: Path) -> None:
        """Checks that every class has all of its images."""
        (expected,) = self.images.values()
        for wnid in self.wnids:
            folder = target / wnid
            found = len(list(folder.glob("*.JPEG"))) if folder.is_dir() else 0
            if found != expected:
                raise SystemExit(f"{wnid} has {found} of {expected} images")

    def coordinator(self, url: str, target: Path, arguments: list[str]) -> list[str]:
        always = [
            "--url",
            url,
            "--target",
            str(target),
            "--delete-tar",
            "--durability",
            "process",
            "--http",
            "127.0.0.1:0",
        ]
        return [
            str(self.bin / "coordinator"),
            "--fname",
            str(self.tars / "data.csv"),
            *always,
            *arguments,
        ]


def end(processes: list[subprocess.Popen]) -> None:
    """Waits for all processes; raises an error if one fails."""
    try:
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        raise SystemExit(f"exit codes {codes} of {processes[0].args}")


def quietly(command: list[str], log: Path, **more) -> subprocess.Popen:
    """Starts a program and discards its output unless it fails."""
    with log.open("ab") as words:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=words, **more)


def one_process(*arguments: str):
    """A job in one process with twenty slots."""

    def start(bench: Bench, url: str, target: Path) -> None:
        end(
            [
                quietly(
                    bench.coordinator(url, target, ["--dev", "--workers", str(SLOTS), *arguments]),
                    bench.log,
                )
            ]
        )

    return start


def four_workers(*arguments: str):
    """A job of a coordinator and four workers, with twenty slots in total."""

    def start(bench: Bench, url: str, target: Path) -> None:
        # A free port, which the coordinator binds shortly afterwards.
        port = random.randrange(20_000, 32_000)
        listen = ["--listen", f"127.0.0.1:{port}", *arguments]
        processes = [quietly(bench.coordinator(url, target, listen), bench.log)]
        for number in range(WORKERS):
            worker = [
                str(bench.bin / "worker"),
                "--connect",
                f"http://127.0.0.1:{port}",
                "--name",
                f"worker{number}",
            ]
            processes.append(
                quietly(
                    [*worker, "--workers", str(SLOTS // WORKERS), "--target", str(target)],
                    bench.log,
                )
            )
        end(processes)

    return start


def curl_tar(bench: Bench, url: str, target: Path) -> None:
    """One connection per slot, without adaptation."""
    each = f"mkdir {target}/$1 && curl -sS --fail {url}/$1.tar | tar -x -C {target}/$1"
    xargs = ["xargs", "-P", str(SLOTS), "-n", "1", "bash", "-o", "pipefail", "-c", each, "-"]
    process = quietly(xargs, bench.log, stdin=subprocess.PIPE, text=True)
    process.stdin.write("\n".join(bench.wnids))
    process.stdin.close()
    end([process])


def compare(bench: Bench, settings: dict, rounds: int) -> dict[str, Figures]:
    """Runs the settings alternately."""
    figures = {name: Figures() for name in settings}
    for number in range(rounds):
        order = list(settings)
        random.Random(number).shuffle(order)
        for name in order:
            bench.run(settings[name], figures[name])
    return figures


def show(title: str, bench: Bench, figures: dict[str, Figures]) -> None:
    size = sum((bench.tars / f"{wnid}.tar").stat().st_size for wnid in bench.wnids) / 1e6
    print(f"\n{title}: {bench.load.classes} classes, {size:.0f} MB")
    print(
        f"{'':24} {'MB/s':>6} {'seconds':>22} {'requests a class':>17} {'overloads':>12} "
        f"{'most at once':>13}"
    )
    for name, it in figures.items():
        speed = size / statistics.median(it.seconds)
        seconds = " ".join(f"{each:.1f}" for each in it.seconds)
        overloads = " ".join(map(str, it.overloads))
        print(
            f"{name:24} {speed:6.2f} {seconds:>22} {statistics.median(it.requests):17.2f} "
            f"{overloads:>12} {it.most:13}"
        )


def judge(what: str, value: float, target: float, met: bool) -> bool:
    print(f"  {what}: {value:.2f} (target {target}) {'met' if met else 'MISSED'}")
    return met


def breaks_above(options: argparse.Namespace, folder: Path, limit: int, kind: str) -> bool:
    """An origin that breaks connections above a limit: the controller and each fixed number."""
    origin = ["--total-rate", str(options.rate), "--break-above", str(limit), "--silence", "1"]
    if kind == "steep":
        origin += ["--rate", str(options.rate // limit)]
    bench = Bench(options, folder, Load(options.classes, 1.0, tuple(origin)))
    how = four_workers if kind == "workers" else one_process
    settings = {"adaptive": how()}
    settings |= {
        f"--max-connections {each}": how("--max-connections", str(each))
        for each in range(1, limit + 2)
    }
    figures = compare(bench, settings, options.rounds)
    show(f"{kind}, breaks above {limit}", bench, figures)
    adaptive = figures.pop("adaptive")
    best = min(statistics.median(it.seconds) for it in figures.values())
    ratio, requests = best / statistics.median(adaptive.seconds), max(adaptive.requests)
    if kind == "steep":
        print(f"  of the best fixed: {ratio:.2f}")
        return True
    met = judge("of the best fixed", ratio, OF_THE_BEST, ratio >= OF_THE_BEST)
    return (
        judge(
            "requests a class, at worst", requests, REQUESTS_A_CLASS, requests <= REQUESTS_A_CLASS
        )
        and met
    )


def each_its_own(options: argparse.Namespace, folder: Path) -> bool:
    """An origin that limits only each connection: the controller and no limit."""
    bench = Bench(options, folder, Load(80, 2.0, ("--rate", "1000000")))
    unpaced = f"xargs -P {SLOTS}, curl | tar"
    fixed = f"--max-connections {SLOTS}"
    settings = {
        "adaptive": one_process(),
        fixed: one_process("--max-connections", str(SLOTS)),
        unpaced: curl_tar,
    }
    figures = compare(bench, settings, options.rounds)
    show("each", bench, figures)
    adaptive = statistics.median(figures["adaptive"].seconds)
    ratios = {
        name: statistics.median(figures[name].seconds) / adaptive for name in (fixed, unpaced)
    }
    return all(
        [
            judge(f"of {name}", ratio, OF_UNPACED, ratio >= OF_UNPACED)
            for name, ratio in ratios.items()
        ]
    )


def main() -> int:
    options = arguments()
    if not are_built(options.bin, "coordinator", "worker", "origin"):
        return 2
    met = []
    for kind in options.kinds:
        for limit in options.limits if kind != "each" else (None,):
            with tempfile.TemporaryDirectory(dir=options.dir, prefix="pace-") as name:
                folder = Path(name)
                met.append(
                    each_its_own(options, folder)
                    if limit is None
                    else breaks_above(options, folder, limit, kind)
                )
            sys.stdout.flush()
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
