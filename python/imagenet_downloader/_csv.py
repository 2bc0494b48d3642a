"""The ids of a CSV file."""

import contextlib
import os
import sys
import time

from . import _options


def load_part_ids_from_csv(csv_path: str | os.PathLike[str]) -> list[str]:
    """Reads the ids of a CSV file with a `wnid` column; other columns are ignored.

    Rows that hold only `n` are left out, with one warning: through the logger
    `imagenet_downloader`, or on standard error if no handler gets it.

    Args:
        csv_path: the file. A byte order mark, quoted fields and blank lines are accepted.

    Returns:
        The ids, each once, in the order of the file. Values that are no WordNet id (`n` and eight
        digits) are included: `download_batch` counts them as failed.

    Raises:
        CsvError: the file cannot be read, has no `wnid` column, or has no valid row.
    """
    from . import _exit, _native  # noqa: F401

    ids, warning = _native.load_part_ids_from_csv(_options.path("csv_path", csv_path))
    if warning is not None:
        from . import _display, _log

        with _display.hidden_block():
            _log.emit([(_log.WARNING, time.time(), warning)])
            if not _log.handlers():
                with contextlib.suppress(Exception):
                    print(f"WARN {warning}", file=sys.stderr, flush=True)
    return ids
