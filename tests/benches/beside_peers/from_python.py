"""This program as a library in Python: one call of `download_batch`. Its input is in the
environment.

The interpreter has the package `imagenet_downloader` installed from its wheel. The last line of
output has the cost of the call as JSON, with the modules that the first call loads; the cost of the
process also has the start of the interpreter.
"""

import json
import os
import sys
import time
from pathlib import Path

from imagenet_downloader import download_batch


def main() -> int:
    wnids = Path(os.environ["NAMES"]).read_text().split()
    wall, cpu = time.perf_counter(), time.process_time()
    stats = download_batch(
        wnids,
        os.environ["TARGET"],
        num_workers=int(os.environ["PARALLEL"]),
        delete_tar=not os.environ["KEEP_TAR"],
        url=os.environ["URL"],
        cacert=os.environ["CACERT"] or None,
    )
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(cost), flush=True)
    return 1 if stats.failed else 0


if __name__ == "__main__":
    sys.exit(main())
