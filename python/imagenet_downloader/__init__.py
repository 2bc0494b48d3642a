"""Downloads ImageNet classes by their WordNet ids: each `<url>/<wnid>.tar` into a folder of images.

```python
from imagenet_downloader import download_batch, load_part_ids_from_csv

part_ids = load_part_ids_from_csv("data.csv")
stats = download_batch(part_ids, "/path/to/imagenet", num_workers=15, delete_tar=True)
print(f"Success: {stats['success']}, Failed: {stats['failed']}")
```

A class folder is complete as soon as it has its name. A call that is interrupted leaves checkpoints,
and the same call continues there. The program's log goes to the logger `imagenet_downloader`.
"""

from ._csv import load_part_ids_from_csv
from ._download import DEFAULT_URL, download_batch, download_batch_async
from ._errors import CsvError, DownloadError, ForkError, OptionError, OriginError, TargetError
from ._stats import ClassUnderWay, Failure, Progress, Stats

__all__ = [
    "DEFAULT_URL",
    "ClassUnderWay",
    "CsvError",
    "DownloadError",
    "Failure",
    "ForkError",
    "OptionError",
    "OriginError",
    "Progress",
    "Stats",
    "TargetError",
    "download_batch",
    "download_batch_async",
    "load_part_ids_from_csv",
]

#: Version of the package.
__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, which only the native module knows: it is loaded by the first call."""
    if name == "__version__":
        from ._native import VERSION

        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
