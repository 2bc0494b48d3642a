"""Builds the image from source without a registry, and runs it.

    cargo fetch --locked && python3 tests/deploy/docker/from_source.py

The base image of the Dockerfile is replaced with one built here: the smallest Debian with a C
compiler (by debootstrap, from Debian's mirror), this machine's Rust, and the fetched crates. The
build itself has no network. It takes 15 minutes and 5 GB in the folder for temporary files, so it
is run manually and not by `.ci/run`.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from engine import REPOSITORY, Engine, run, why_not

DOCKERFILE = REPOSITORY / "deploy/Dockerfile"
PACKAGES = "ca-certificates,gcc,libc6-dev"
HOUR = 3600.0
REVISION = "0123abc"


def stand_in(folder: Path, suite: str) -> None:
    """Creates the files of the base image."""
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, folder, timeout=HOUR)
    toolchain = Path(run("rustc", "--print", "sysroot"))
    for part in ("bin", "lib"):
        shutil.copytree(
            toolchain / part, folder / "usr/local" / part, symlinks=True, dirs_exist_ok=True
        )
    registry = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry"
    for part in ("cache", "index"):
        shutil.copytree(registry / part, folder / "usr/local/cargo/registry" / part)


def main() -> int:
    if reason := why_not() or (
        None if shutil.which("debootstrap") else "debootstrap is not installed"
    ):
        print(f"cannot run: {reason}", file=sys.stderr)
        return 2
    name, suite = re.search(
        r"^ARG RUST=(rust:\S*-(\w+))$", DOCKERFILE.read_text(), re.MULTILINE
    ).groups()
    with tempfile.TemporaryDirectory(prefix="imagenet-base-") as scratch, Engine({}) as engine:
        base, archive = Path(scratch) / "base", Path(scratch) / "base.tar"
        stand_in(base, suite)
        run("tar", "--create", "--numeric-owner", "--directory", base, "--file", archive, ".")
        engine.docker(
            "import",
            "--change",
            "ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true",
            archive,
            name,
        )
        archive.unlink()
        print(f"made {name}; building", flush=True)
        print(
            engine.docker(
                "build",
                "--network",
                "none",
                "--file",
                DOCKERFILE,
                "--tag",
                "from-source",
                "--build-arg",
                f"REVISION={REVISION}",
                REPOSITORY,
                timeout=HOUR,
            )
        )
        print("size, user:", engine.inspect("from-source", "{{.Size}} {{.Config.User}}"))
        for program in ("coordinator", "worker"):
            version = engine.docker(
                "run",
                "--rm",
                "--read-only",
                "--network",
                "none",
                "from-source",
                program,
                "--version",
            )
            if REVISION not in version:
                raise AssertionError(f"{version} does not name {REVISION}")
            print(version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
