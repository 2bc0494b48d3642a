"""The chart for the tests: rendered, as objects, and their content."""

import base64
import copy
import os
import subprocess
import tempfile
import unittest
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from tools import ROOT, helms

CHART = ROOT / "deploy" / "helm"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE = "vision"
RELEASE = "imagenet"

Object = dict


class Refused(Exception):
    """Helm did not render the chart; the text is its output."""


def skip_without_helm() -> None:
    if not helms():
        raise unittest.SkipTest(f"no helm; see {Path(__file__).with_name('tools.py')}")


def helm(arguments: list[str], version: str | None = None) -> subprocess.CompletedProcess:
    """Runs helm, the newest version unless one is given, without the machine's configuration."""
    program = helms()[version or max(helms())]
    with tempfile.TemporaryDirectory() as home:
        environment = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        environment |= {"HOME": home, "PATH": os.environ["PATH"]}
        return subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, env=environment
        )


def template(
    values: list[Path] = (), settings: list[str] = (), version: str | None = None
) -> list[Object]:
    """The objects from these values files and `--set` arguments."""
    files = [word for path in values for word in ("-f", path)]
    given = [word for setting in settings for word in ("--set", setting)]
    done = helm(["template", RELEASE, CHART, "--namespace", NAMESPACE, *files, *given], version)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


@cache
def _rendered(path: Path) -> list[Object]:
    return template([path])


def rendered(path: Path) -> list[Object]:
    """The objects from a values file, as a copy that the caller may change."""
    return copy.deepcopy(_rendered(path))


def values_file(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def one(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [found for found in of_kind(objects, kind) if found["metadata"]["name"] == name]
    return found


def texts(secret: Object) -> dict[str, str]:
    """The decoded content of a Secret."""
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Each pod template and pod, with the kind and name of its owner."""
    for found in objects:
        name = f"{found['kind']} {found['metadata']['name']}"
        if found["kind"] == "Pod":
            yield name, found
        elif "template" in found.get("spec", {}):
            yield name, found["spec"]["template"]


def component(pod: Object) -> str:
    return pod["metadata"]["labels"]["app.kubernetes.io/component"]
