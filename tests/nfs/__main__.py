"""Runs the programs on a real NFS: a separate Linux in QEMU, with the kernel's NFS server and
client, versions 4.2 and 3. Two mounts of one export represent two hosts. The steps and checks
are in story.sh.

    cargo build -p coordinator -p worker -p tests --bins
    python3 tests/nfs                # --help has the rest

Needs the Debian packages that .ci/run installs, and no root; the kernel and the NFS programs are
downloaded with apt-get and unpacked below target/nfs. Nothing on the machine changes. QEMU emulates
the processor, so KVM is not needed.

Exit code: 0 (also with one line with the reason why it was skipped), 1 if a check failed or the
guest did not finish.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from guest import Guest, why_not
from packages import fetch
from tars import make_tars

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    about = "Runs the programs on NFS, in a guest."
    parser = argparse.ArgumentParser(prog="python3 tests/nfs", description=about)
    parser.add_argument(
        "--bin",
        type=Path,
        default=BUILD / "debug",
        metavar="FOLDER",
        help="folder with coordinator, worker and origin [default: target/debug]",
    )
    parser.add_argument("--versions", default="4.2 3", help="versions of NFS [default: 4.2 3]")
    parser.add_argument(
        "--story",
        type=Path,
        default=HERE / "story.sh",
        metavar="FILE",
        help="another script for the guest's shell (busybox)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=700,
        metavar="SECONDS",
        help="time limit of the guest [default: 700]",
    )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if reason := why_not():
        print(f"skipped: {reason}")
        return 0
    home = BUILD / "nfs"
    packages = fetch(home / "packages")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="guest-", dir=home) as folder:
        guest = Guest(Path(folder), packages)
        for program in ("coordinator", "worker", "origin"):
            guest.add(options.bin / program, f"bin/{program}")
        guest.add(options.story, "story.sh")
        make_tars(guest.path("tars"))
        passed = guest.run({"VERSIONS": options.versions}, options.timeout)
    print(f"NFS in a guest: {'passed' if passed else 'FAILED'}, {time.monotonic() - began:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
