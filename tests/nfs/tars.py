"""The classes of the story: tars of random bytes that are equal in each run."""

import io
import random
import tarfile
from pathlib import Path

CLASSES, IMAGES, BYTES = 16, 7, 50_000


def make_tars(folder: Path) -> None:
    """Creates a tar for each class, and the list of them as `list.csv`."""
    folder.mkdir(parents=True)
    noise = random.Random(13)
    wnids = [f"n{number:08}" for number in range(1, CLASSES + 1)]
    for wnid in wnids:
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(IMAGES):
                entry = tarfile.TarInfo(f"{wnid}_{number}.JPEG")
                entry.size = BYTES
                tar.addfile(entry, io.BytesIO(noise.randbytes(BYTES)))
    (folder / "list.csv").write_text("\n".join(["wnid", *wnids, ""]))
