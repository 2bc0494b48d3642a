"""Downloads the classes of a CSV and names what failed.

python download_batch.py data.csv /data/imagenet --url URL
"""

import argparse
import sys

from imagenet_downloader import (
    DEFAULT_URL,
    DownloadError,
    download_batch,
    load_part_ids_from_csv,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("csv", help="file with a column wnid")
    parser.add_argument("target", help="folder for the classes")
    parser.add_argument("--url", default=DEFAULT_URL, help="base of <url>/<wnid>.tar")
    parser.add_argument("--header-file", help="file with a login: one HTTP header in each line")
    options = parser.parse_args()

    try:
        stats = download_batch(
            load_part_ids_from_csv(options.csv),
            options.target,
            num_workers=5,
            delete_tar=True,
            url=options.url,
            header_file=options.header_file,
        )
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130

    print(f"Success: {stats.success}, Skipped: {stats.skipped}, Failed: {stats.failed}")
    for failure in stats.failures:
        print(f"{failure.wnid}: {failure.reason} (requests: {failure.attempts})")
    return 1 if stats.failed else 0


if __name__ == "__main__":
    sys.exit(main())
