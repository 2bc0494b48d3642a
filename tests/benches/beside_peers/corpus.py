"""The classes that all programs download, and the expected content of a target afterwards.

A corpus is generated from a seed, so it is the same on every machine and in every run. Compression
on the way has no effect: the bodies are slices of one block of random bytes.
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
# The size of every image is compared, and the digest of one image in this many.
SAMPLE = 40
IMAGE_BYTES = 110_000


def photo(draw: Random) -> int:
    """Size of an image in bytes, distributed as in ImageNet: log-normal, with the mean of its
    classes."""
    sigma = 0.6
    size = draw.lognormvariate(math.log(IMAGE_BYTES) - sigma**2 / 2, sigma)
    return int(min(3_000_000, max(2_000, size)))


@dataclass(frozen=True)
class Shape:
    """The number of classes, the number of images of each class, and the size of an image."""

    summary: str
    classes: int
    images: Callable[[Random, int], int]
    image_bytes: Callable[[Random], int] = photo
    # Bytes per second for each connection to the origin; 0: unlimited.
    rate: int = 0


SHAPES = {
    # As in ImageNet, many classes have 300 to 700 images and few have 1300.
    "realistic": Shape(
        "log-normal sizes", 14, lambda draw, _: 300 + int(1000 * draw.betavariate(1, 2.7))
    ),
    "small": Shape("2 KB a file", 32, lambda *_: 2_500, lambda _: 2_048),
    # The large class is late in the list: a program that keeps the order downloads it alone at the
    # end.
    "skewed": Shape(
        "one class 20 times larger",
        24,
        lambda _, number: 91 * (20 if number == 18 else 1),
        rate=20_000_000,
    ),
    "large": Shape("200 MB a class", 10, lambda *_: 200_000_000 // IMAGE_BYTES),
}


@dataclass(frozen=True)
class ImageClass:
    """One tar: its length in bytes, the size of each image by name, and the SHA-256 of some
    images."""

    wnid: str
    tar_bytes: int
    images: dict[str, int]
    digests: dict[str, str]


class Corpus:
    """The tars of a shape in a folder `tars`, the CSV for this program, and the plain names for the
    peers."""

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
        """Number of images."""
        return sum(len(each.images) for each in self.classes)

    @property
    def payload(self) -> int:
        """Bytes of all images."""
        return sum(sum(each.images.values()) for each in self.classes)

    @property
    def tar_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(each.tar_bytes for each in self.classes)

    def fault_in(self, target: Path, keep_tar: bool) -> str | None:
        """The first difference between the target and the corpus, in one line; None if they are
        equal."""
        for each in self.classes:
            if fault := fault_of_class(each, target / each.wnid) or fault_of_tar(
                each, target, self.tars, keep_tar
            ):
                return fault
        return None


def write_class(tars: Path, wnid: str, sizes: list[int], noise: bytes, draw: Random) -> ImageClass:
    """Writes the tar of a class with images of these sizes."""
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
    """The first difference of a class's folder, or None. Hidden files (a manifest) are ignored."""
    try:
        found = {
            entry.name: entry.stat(follow_symlinks=False).st_size
            for entry in os.scandir(folder)
            if entry.name[0] != "."
        }
    except OSError as error:
        return f"{folder.name}: {error.strerror}"
    if found != wanted.images:
        return (
            f"{folder.name}: {len(found)} files of {sum(found.values())} bytes, "
            f"not {len(wanted.images)} of {sum(wanted.images.values())}, or other names or sizes"
        )
    for name, digest in wanted.digests.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            return f"{folder.name}/{name}: other bytes than in the tar"
    return None


def fault_of_tar(wanted: ImageClass, target: Path, tars: Path, keep_tar: bool) -> str | None:
    """A fault if a tar to be kept is missing or differs, or if another tar is left."""
    tar = target / f"{wanted.wnid}.tar"
    if not keep_tar:
        return f"{tar.name}: still there" if tar.exists() else None
    if not tar.exists():
        return f"{tar.name}: missing"
    same = filecmp.cmp(tar, tars / tar.name, shallow=False)
    return None if same else f"{tar.name}: other bytes than the origin's"
