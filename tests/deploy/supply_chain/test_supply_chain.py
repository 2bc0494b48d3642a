"""The files delivered with the programs: third-party notices, the list of components, and no local
paths.

    deploy/static-build && deploy/sbom && python3 -m unittest discover tests/deploy/supply_chain
"""

import json
import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = ("coordinator", "worker")
MODULE = "python"
NOTICES = REPOSITORY / "deploy/notices/THIRD-PARTY-NOTICES.txt"
MODULE_NOTICES = REPOSITORY / "deploy/notices/MODULE-NOTICES.txt"
IMAGE = REPOSITORY / "target/image/files"
ACKNOWLEDGEMENT = "This software is based in part on the work of the Independent JPEG Group."


def crates(edges: str, *packages: str) -> set[tuple[str, str]]:
    """Name and version of the crates that the packages depend on, without those of this
    workspace."""
    command = [
        "cargo",
        "tree",
        "--locked",
        "--prefix",
        "none",
        "--edges",
        edges,
        "--target",
        host(),
    ]
    command += [word for package in packages for word in ("--package", package)]
    listed = subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    found = re.findall(r"^(\S+) v(\S+)(?: \((?:proc-macro|\*)\))*$", listed, re.MULTILINE)
    return set(found)


def host() -> str:
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^host: (.+)$", version, re.MULTILINE)[1]


class Notices(unittest.TestCase):
    def test_each_crate_that_is_linked_in_has_its_licence_there(self):
        advice = "the lock file has changed: deploy/notices/write"
        for notices, packages in ((NOTICES, PROGRAMS), (MODULE_NOTICES, [MODULE])):
            with self.subTest(notices=notices.name):
                text = notices.read_text()
                named = set(re.findall(r"^    (\S+) (\d\S*)$", text, re.MULTILINE))
                linked = crates("normal,no-proc-macro", *packages)
                self.assertEqual(linked - named, set(), advice)
                self.assertEqual(named - crates("normal", *packages), set(), advice)
                self.assertGreater(len(named), 100)
        self.assertIn(ACKNOWLEDGEMENT, NOTICES.read_text())

    def test_what_the_page_vendors_has_its_licence_there(self):
        page = REPOSITORY / "coordinator/page"
        version = re.search(r"\(v([\d.]+)\)", (page / "uplot.js").read_text())[1]
        text = NOTICES.read_text()
        self.assertIn(f"uPlot {version} ", text)
        self.assertIn((page / "uplot.LICENSE").read_text().strip(), text)

    def test_the_image_has_them(self):
        if not IMAGE.exists():
            self.skipTest("there is no image: deploy/static-build")
        folder = IMAGE / "usr/share/doc/imagenet-downloader"
        self.assertEqual((folder / NOTICES.name).read_bytes(), NOTICES.read_bytes())
        self.assertEqual((folder / "LICENSE").read_bytes(), (REPOSITORY / "LICENSE").read_bytes())


class Components(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not shutil.which("cargo-cyclonedx"):
            raise unittest.SkipTest("cargo-cyclonedx is not installed")
        subprocess.run([REPOSITORY / "deploy/sbom"], check=True)

    def test_the_list_is_valid_names_each_crate_and_no_path(self):
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        for program in (*PROGRAMS, MODULE):
            with self.subTest(program=program):
                text = (REPOSITORY / f"target/sbom/{program}.cdx.json").read_text()
                self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_5).validate_str(text))
                components = {
                    (part["name"], part["version"]) for part in json.loads(text)["components"]
                }
                self.assertEqual(crates("normal,no-proc-macro", program) - components, set())
                self.assertEqual([place for place in build_places() if place in text], [])

    def test_it_leaves_nothing_in_the_sources(self):
        self.assertEqual(list(REPOSITORY.glob("*/*.cdx.json")), [])


class Programs(unittest.TestCase):
    def test_the_paths_of_the_build_machine_are_not_in_them(self):
        if not IMAGE.exists():
            self.skipTest("there is no image: deploy/static-build")
        for program in PROGRAMS:
            with self.subTest(program=program):
                content = (IMAGE / "usr/local/bin" / program).read_bytes()
                self.assertEqual(
                    [place for place in build_places() if place.encode() in content], []
                )
                self.assertIn(b"/cargo/registry/", content, "messages of crates name their files")


def build_places() -> list[str]:
    """The folders of the build whose paths identify the machine."""
    cargo = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    target = os.environ.get("CARGO_TARGET_DIR", str(REPOSITORY / "target"))
    return [cargo, str(REPOSITORY), target]


if __name__ == "__main__":
    unittest.main()
