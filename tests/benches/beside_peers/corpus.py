"""The classes that everybody downloads, and what must lie in a target afterwards.

A corpus is drawn from a seed, so it is the same on every machine and in every run. It is never compressed by anybody on
the way: the bodies are slices of one block of noise.
"""

import filecmp
import hashlib
import math
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

NOISE = 32 << 20
# Every image is counted and measured, one in this many is also compared byte by byte, by its digest.
SAMPLE = 40
IMAGE_BYTES = 110_000


def photo(draw: Random) -> int:
    """Bytes of an image as ImageNet has them: log-normal, with the mean that its classes have."""
    sigma = 0.6
    size = draw.lognormvariate(math.log(IMAGE_BYTES) - sigma**2 / 2, sigma)
    return int(min(3_000_000, max(2_000, size)))


@dataclass(frozen=True)
class Shape:
    """How many classes there are, how many images the class with a number has, how large an image is."""

    summary: str
    classes: int
    images: Callable[[Random, int], int]
    image_bytes: Callable[[Random], int] = photo
    # Bytes per second that the origin gives to one connection; 0: as fast as it can.
    rate: int = 0


SHAPES = {
    # Many classes have 300 to 700 images and few have 1300, as with ImageNet.
    "realistic": Shape("log-normal sizes", 14, lambda draw, _: 300 + int(1000 * draw.betavariate(1, 2.7))),
    "small": Shape("2 KB a file", 32, lambda *_: 2_500, lambda _: 2_048),
    # The large one comes late in the list: whoever goes through it in order is left alone with it at the end.
    "skewed": Shape("one class 20 times larger", 24, lambda _, number: 91 * (20 if number == 18 else 1), rate=20_000_000),
    "large": Shape("200 MB a class", 10, lambda *_: 200_000_000 // IMAGE_BYTES),
}


@dataclass(frozen=True)
class ImageClass:
    """One tar: its sizes in bytes, its images by name, the SHA-256 of some of them."""

    wnid: str
    tar_bytes: int
    images: dict[str, int]
    digests: dict[str, str]


class Corpus:
    """The tars of a shape in a folder `tars`; beside it the CSV for this program and the bare names for the peers."""

    def __init__(self, folder: Path, shape: Shape, scale: float = 1.0):
        self.shape = shape
        self.tars = folder / "tars"
        self.csv = folder / "data.csv"
        self.names = folder / "names"
        self.tars.mkdir(parents=True)
        draw = Random(1)
        noise = draw.randbytes(NOISE)
        self.classes = []
        for number in range(shape.classes):
            count = max(3, round(shape.images(draw, number) * scale))
            sizes = [shape.image_bytes(draw) for _ in range(count)]
            self.classes.append(write_class(self.tars, f"n{number + 1:08}", sizes, noise, draw))
        wnids = [each.wnid for each in self.classes]
        self.csv.write_text("wnid\n" + "".join(f"{wnid}\n" for wnid in wnids))
        self.names.write_text("".join(f"{wnid}\n" for wnid in wnids))

    @property
    def files(self) -> int:
        """How many images there are."""
        return sum(len(each.images) for each in self.classes)

    @property
    def payload(self) -> int:
        """Bytes of all images."""
        return sum(sum(each.images.values()) for each in self.classes)

    @property
    def tar_bytes(self) -> int:
        """Bytes that go over the wire."""
        return sum(each.tar_bytes for each in self.classes)

    def fault_in(self, target: Path, keep_tar: bool) -> str | None:
        """What the target lacks or has too much, in one line; None if it holds exactly the corpus."""
        for each in self.classes:
            if fault := fault_of_class(each, target / each.wnid) or fault_of_tar(each, target, self.tars, keep_tar):
                return fault
        return None


def write_class(tars: Path, wnid: str, sizes: list[int], noise: bytes, draw: Random) -> ImageClass:
    """Writes the tar of a class whose images have these sizes."""
    images: dict[str, int] = {}
    digests: dict[str, str] = {}
    path = tars / f"{wnid}.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, size in enumerate(sizes):
            start = draw.randrange(len(noise) - size)
            body = noise[start : start + size]
            entry = tarfile.TarInfo(f"{wnid}_{number}.JPEG")
            entry.size = size
            entry.mtime = 1_300_000_000 + number
            tar.addfile(entry, BytesIO(body))
            images[entry.name] = size
            if number % SAMPLE == 0:
                digests[entry.name] = hashlib.sha256(body).hexdigest()
    return ImageClass(wnid, path.stat().st_size, images, digests)


def fault_of_class(wanted: ImageClass, folder: Path) -> str | None:
    """What is wrong with the folder of a class. Hidden files (a manifest) may be there as well."""
    try:
        found = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder) if entry.name[0] != "."}
    except OSError as error:
        return f"{folder.name}: {error.strerror}"
    if found != wanted.images:
        return (f"{folder.name}: {len(found)} files of {sum(found.values())} bytes, "
                f"not {len(wanted.images)} of {sum(wanted.images.values())}, or other names or sizes")
    for name, digest in wanted.digests.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            return f"{folder.name}/{name}: other bytes than in the tar"
    return None


def fault_of_tar(wanted: ImageClass, target: Path, tars: Path, keep_tar: bool) -> str | None:
    """Whether the tar is there if and only if it was to be kept, with all its bytes."""
    tar = target / f"{wanted.wnid}.tar"
    if not keep_tar:
        return f"{tar.name}: still there" if tar.exists() else None
    if not tar.exists():
        return f"{tar.name}: missing"
    same = filecmp.cmp(tar, tars / tar.name, shallow=False)
    return None if same else f"{tar.name}: other bytes than the origin's"
