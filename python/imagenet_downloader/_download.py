"""The two functions that download a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import _options
from ._stats import Progress, Stats

if TYPE_CHECKING:
    from ._run import Run

#: URL of the classes if no other is given.
DEFAULT_URL = "https://image-net.org/data/winter21_whole"


def download_batch(
    part_ids: Iterable[str],
    target_path: str | os.PathLike[str],
    num_workers: int = 10,
    delete_tar: bool = False,
    *,
    url: str = DEFAULT_URL,
    retries: int = 5,
    timeout: float = 120.0,
    existing: str = "adopt",
    durability: str = "power",
    max_connections: int | None = None,
    header_file: str | os.PathLike[str] | None = None,
    cacert: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Progress], object] | None = True,
) -> Stats:
    """Downloads classes into `<target_path>/<wnid>/`, each published as a whole or not at all.

    Can be called from any thread, from several at once, and while an event loop runs (which it
    blocks; see `download_batch_async`). Calls for one target wait for each other, also those of
    several processes and a job of the programs. It does not hold the interpreter lock.

    Args:
        part_ids: WordNet ids (`n` and eight digits), e.g. of `load_part_ids_from_csv`. Repetitions
            are one class.
        target_path: folder for the classes; it is made if it is missing.
        num_workers: classes that are downloaded at the same time, at least 1.
        delete_tar: whether the tar of a class is not kept beside its folder.
        url: base of the URLs `<url>/<wnid>.tar`, or a template that contains `{wnid}`.
        retries: number of further attempts at a class without progress after the first one.
        timeout: longest time without a received byte, in seconds.
        existing: what becomes of a class folder without a manifest: `"adopt"` proves it against
            the origin, `"replace"` downloads it again, `"trust"` takes it for complete.
        durability: what a published class survives: `"power"`, a power cut, or `"process"`, the
            end of the process, which is faster on slow disks.
        max_connections: largest number of connections to the origin; `None`: `num_workers`.
        header_file: file with additional request headers (cookies, tokens), one `Name: value` in
            each line. They are never logged.
        cacert: file with additional certificate authorities in PEM format.
        progress: `True`: bars on a terminal, `tqdm` in a notebook if it is installed, otherwise a
            line every few seconds, all on standard error. A function is called with a `Progress`
            in the thread of the caller, at most ten times a second; states that come while it runs
            are left out, and its exception stops the batch. `False` or `None`: nothing.

    Returns:
        The counts, and each failed class with its reason.

    Raises:
        OptionError: a parameter or a file that it names cannot be used.
        TargetError: the target folder cannot be used, or its disk is full.
        OriginError: the origin refuses every class in the same way.
        ForkError: a parent of this process has begun a download before it was forked.
        DownloadError: another reason; it is the base of the others.
        KeyboardInterrupt: after Ctrl-C. Checkpoints are written first, and the same call continues
            there; a second Ctrl-C does not wait for them. If the disk does not answer, the
            batch stops in the background, and the next call for this target waits for its end.
    """
    run = _prepare(
        part_ids,
        target_path,
        progress,
        num_workers=num_workers,
        delete_tar=delete_tar,
        url=url,
        retries=retries,
        timeout=timeout,
        existing=existing,
        durability=durability,
        max_connections=max_connections,
        header_file=header_file,
        cacert=cacert,
    )
    return run.run()


async def download_batch_async(
    part_ids: Iterable[str],
    target_path: str | os.PathLike[str],
    num_workers: int = 10,
    delete_tar: bool = False,
    *,
    url: str = DEFAULT_URL,
    retries: int = 5,
    timeout: float = 120.0,
    existing: str = "adopt",
    durability: str = "power",
    max_connections: int | None = None,
    header_file: str | os.PathLike[str] | None = None,
    cacert: str | os.PathLike[str] | None = None,
    progress: bool | Callable[[Progress], object] | None = True,
) -> Stats:
    """As `download_batch`, for `asyncio`: the event loop is not blocked.

    A function given as `progress` is called in the event loop. When the task is cancelled, the
    batch stops at its checkpoints, and then `asyncio.CancelledError` is raised; a second
    cancellation does not wait for them. If the disk does not answer, the batch stops in the
    background, and the next call for this target waits for its end.

    Args:
        part_ids: see `download_batch`, as all others.

    Returns:
        The counts, and each failed class with its reason.

    Raises:
        DownloadError: see `download_batch`, also for its subclasses.
        asyncio.CancelledError: the task was cancelled.
    """
    run = _prepare(
        part_ids,
        target_path,
        progress,
        num_workers=num_workers,
        delete_tar=delete_tar,
        url=url,
        retries=retries,
        timeout=timeout,
        existing=existing,
        durability=durability,
        max_connections=max_connections,
        header_file=header_file,
        cacert=cacert,
    )
    return await run.run_async()


def _prepare(
    part_ids: Iterable[str],
    target_path: str | os.PathLike[str],
    progress: bool | Callable[[Progress], object] | None,
    **options: Any,
) -> Run:
    """A batch that is not started, with checked parameters."""
    from ._run import Run

    checked = _options.checked(**options)
    _options.check_plain(progress)
    ids, target = _options.ids(part_ids), _options.path("target_path", target_path)
    return Run(ids, target, checked, progress)
