"""A simple downloader in Python: requests, a thread pool, and tarfile. Its input is in the
environment.

Each tar is streamed into a file in small pieces, unpacked when it is complete, and removed unless
it is to be kept.
"""

import os
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter

CHUNK = 8192
TARGET = Path(os.environ["TARGET"])
KEEP_TAR = bool(os.environ["KEEP_TAR"])
PARALLEL = int(os.environ["PARALLEL"])
# Passed with each request: the environment variable of requests would override the session.
VERIFY = os.environ["CACERT"] or True


def download(session: requests.Session, wnid: str) -> None:
    """Downloads one class into its folder."""
    path = TARGET / f"{wnid}.tar"
    with session.get(
        f"{os.environ['URL']}/{wnid}.tar", stream=True, timeout=120, verify=VERIFY
    ) as response:
        response.raise_for_status()
        with path.open("wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
    folder = TARGET / wnid
    folder.mkdir()
    with tarfile.open(path) as tar:
        tar.chown = lambda *_: (
            None
        )  # as an ordinary user; root would change the owner of every file
        tar.extractall(folder)
    if not KEEP_TAR:
        path.unlink()


def main() -> int:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(
            scheme, HTTPAdapter(pool_connections=PARALLEL, pool_maxsize=PARALLEL, max_retries=5)
        )
    wnids = Path(os.environ["NAMES"]).read_text().split()
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(lambda wnid: download(session, wnid), wnids):
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
