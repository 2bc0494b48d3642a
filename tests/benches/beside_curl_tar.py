#!/usr/bin/env python3
"""Times `coordinator --dev` beside `xargs -P N curl | tar -x` on the same classes, from the same origin.

    cargo build --release -p coordinator -p tests
    python3 tests/benches/beside_curl_tar.py --bin target/release

The two take turns, each round in the other order; a run whose files are not all there, to the byte, ends the benchmark.
Only standard Python, curl, tar and xargs are needed. Loopback has no round-trip time and the origin shares the cores, so
read the ratios and not the seconds; give --dir a folder in memory (/dev/shm) to leave the disk out of it.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

MANIFEST = ".manifest.json"
# What an ordinary user gets; as root tar would also change owners.
PIPELINE = """set -e
mkdir "$TARGET/$1"
curl -fsS "$URL/$1.tar" | tar -x --no-same-owner --no-same-permissions -C "$TARGET/$1" -f -"""


@dataclass
class Run:
    """What one run cost."""

    wall: float
    cpu: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="folder with coordinator and origin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--images", type=int, default=500, help="per class, on average")
    parser.add_argument("--image-kib", type=float, default=110, help="size of an image, on average")
    parser.add_argument("--parallel", type=int, default=10)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second and connection; 0 is without a limit")
    parser.add_argument("--durability", choices=["process", "power"], default="process",
                        help="with power the pipeline is followed by `sync -f`, within its time")
    parser.add_argument("--dir", type=Path, help="where the corpus and the targets go")
    return parser.parse_args()


def make_corpus(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Writes the tars; gives the files of each class with their sizes."""
    source = random.Random(1)
    noise = source.randbytes(4 << 20)
    corpus: dict[str, dict[str, int]] = {}
    for number in range(1, options.classes + 1):
        wnid = f"n{number:08}"
        files = corpus[wnid] = {}
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for image in range(max(1, int(options.images * source.uniform(0.5, 1.5)))):
                size = int(options.image_kib * 1024 * source.uniform(0.2, 1.8))
                start = source.randrange(max(1, len(noise) - size))
                entry = tarfile.TarInfo(f"{wnid}_{image}.JPEG")
                entry.size = size = len(noise[start : start + size])
                tar.addfile(entry, BytesIO(noise[start : start + size]))
                files[entry.name] = size
    return corpus


def timed(command: list[str], environment: dict[str, str], log: Path) -> Run:
    """Runs a command; the kernel adds up what it and its descendants used."""
    with log.open("wb") as out:
        begin = time.perf_counter()
        child = subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command[0]} ended with {child.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime)


def verify(target: Path, corpus: dict[str, dict[str, int]], tars: Path) -> None:
    """Ends the benchmark unless every file is there with its size, and one of each class with its bytes."""
    for wnid, files in corpus.items():
        found = {entry.name: entry.stat().st_size for entry in os.scandir(target / wnid) if entry.name != MANIFEST}
        if found != files:
            sys.exit(f"{target / wnid}: {len(found)} files, {sum(found.values())} bytes; "
                     f"expected {len(files)} files, {sum(files.values())} bytes")
        with tarfile.open(tars / f"{wnid}.tar") as tar:
            sample = tar.next()
            if tar.extractfile(sample).read() != (target / wnid / sample.name).read_bytes():
                sys.exit(f"{target / wnid / sample.name}: other bytes than in the tar")


def ours(options: argparse.Namespace, url: str, csv: Path, target: Path, log: Path) -> Run:
    command = [str(options.bin / "coordinator"), "--dev", "--delete-tar", "--fname", str(csv), "--target", str(target),
               "--url", url, "--workers", str(options.parallel), "--durability", options.durability]
    return timed(command, {"IMAGENET_HTTP": "127.0.0.1:0"}, log)


def pipeline(options: argparse.Namespace, url: str, csv: Path, target: Path, log: Path) -> Run:
    run = f"tail -n +2 '{csv}' | xargs -P {options.parallel} -I{{}} bash -o pipefail -c \"$PIPELINE\" pipeline {{}}"
    if options.durability == "power":
        run += f" && sync -f '{target}'"
    return timed(["bash", "-c", run], {"URL": url, "TARGET": str(target), "PIPELINE": PIPELINE}, log)


def measure(options: argparse.Namespace, url: str, folder: Path, corpus: dict[str, dict[str, int]]) -> dict[str, list[Run]]:
    csv = folder / "data.csv"
    csv.write_text("wnid\n" + "".join(f"{wnid}\n" for wnid in corpus))
    contestants = {"ours": ours, "curl to tar": pipeline}
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(-1, options.rounds):  # the first round only warms up
        order = list(contestants) if number % 2 else list(reversed(contestants))
        for name in order:
            target = folder / f"target-{number}-{contestants[name].__name__}"
            target.mkdir()
            os.sync()
            run = contestants[name](options, url, csv, target, folder / "output")
            verify(target, corpus, folder / "tars")
            shutil.rmtree(target)
            if number >= 0:
                runs[name].append(run)
                print(f"round {number + 1}: {name:11} {run.wall:7.2f} s wall {run.cpu:7.2f} s CPU", file=sys.stderr)
    return runs


def report(runs: dict[str, list[Run]], corpus: dict[str, dict[str, int]]) -> None:
    files = sum(len(files) for files in corpus.values())
    size = sum(sum(files.values()) for files in corpus.values())
    print(f"{len(corpus)} classes, {files} files, {size / 1e6:.0f} MB; medians of {len(runs['ours'])} rounds\n")
    print("|             | wall s | CPU s | MB/s |")
    print("|-------------|-------:|------:|-----:|")
    for name, found in runs.items():
        wall = statistics.median(run.wall for run in found)
        cpu = statistics.median(run.cpu for run in found)
        print(f"| {name:11} | {wall:6.2f} | {cpu:5.2f} | {size / wall / 1e6:4.0f} |")
    pairs = list(zip(runs["ours"], runs["curl to tar"]))
    wall = statistics.median(one.wall / other.wall for one, other in pairs)
    cpu = statistics.median(one.cpu / other.cpu for one, other in pairs)
    print(f"\nours / curl to tar, median of the pairs: wall {wall:.2f}, CPU {cpu:.2f}")


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="beside-curl-tar-", dir=options.dir) as name:
        folder = Path(name)
        tars = folder / "tars"
        tars.mkdir()
        corpus = make_corpus(tars, options)
        command = [str(options.bin / "origin"), "--dir", str(tars), "--rate", str(options.rate)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as origin:
            try:
                url = origin.stdout.readline().strip()
                report(measure(options, url, folder, corpus), corpus)
            finally:
                origin.kill()


if __name__ == "__main__":
    main()
