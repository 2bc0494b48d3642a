"""Downloads for a limited time in an event loop; the next call continues where this one stopped.

python download_async.py data.csv /data/imagenet 3600 URL
"""

import asyncio
import sys

from imagenet_downloader import (
    DEFAULT_URL,
    Progress,
    download_batch_async,
    load_part_ids_from_csv,
)


def show(progress: Progress) -> None:
    """Called in the event loop, at most ten times a second."""
    ended = progress.success + progress.skipped + progress.failed
    print(f"\r{ended} of {progress.total}, {progress.received_bytes / 1e6:.1f} MB", end="")


async def main(csv: str, target: str, seconds: float, url: str = DEFAULT_URL) -> None:
    wnids = load_part_ids_from_csv(csv)
    download = download_batch_async(wnids, target, 5, True, url=url, progress=show)
    try:
        stats = await asyncio.wait_for(download, seconds)
    except asyncio.TimeoutError:
        # The batch has written its checkpoints before this exception comes.
        print("\ntime is over; the same call continues")
    else:
        print(f"\n{stats.success} downloaded, {stats.skipped} there before, {stats.failed} failed")


if __name__ == "__main__":
    csv, target, seconds, *url = sys.argv[1:]
    asyncio.run(main(csv, target, float(seconds), *url))
