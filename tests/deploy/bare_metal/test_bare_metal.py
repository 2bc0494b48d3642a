"""Tests that need no hosts. Run with `python3 -m unittest discover tests/deploy/bare_metal`; it
needs the programs in target/debug and systemd-analyze."""

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

from page import PageError, blocks

REPOSITORY = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
UNITS = REPOSITORY / "deploy/systemd"
PROGRAMS = ("coordinator", "worker")
# systemd reports exposure in tenths; the bound is less than 3.0.
MOST_EXPOSED = "29"
HOSTS = {"your machine", "node1", "node2"}


class Units(unittest.TestCase):
    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze")
    def test_the_exposure_is_low(self) -> None:
        for program in PROGRAMS:
            unit = UNITS / f"imagenet-{program}.service"
            words = ["--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit]
            done = subprocess.run(
                ["systemd-analyze", "security", *words], capture_output=True, text=True, check=False
            )
            print(done.stdout.strip().splitlines()[-1].strip())
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_every_variable_is_one_that_the_program_reads(self) -> None:
        page = (REPOSITORY / "deploy/bare-metal.md").read_text()
        for program in PROGRAMS:
            help_text = subprocess.run(
                [BUILD / "debug" / program, "--help"], capture_output=True, text=True, check=True
            ).stdout
            known = set(re.findall(r"\[env: (IMAGENET_\w+)", help_text))
            used = set(
                re.findall(
                    r"^Environment=(IMAGENET_\w+)=",
                    (UNITS / f"imagenet-{program}.service").read_text(),
                    re.M,
                )
            )
            self.assertGreater(len(used), 1)
            self.assertLessEqual(used, known)
            for settings in (
                re.findall(rf"((?:^IMAGENET_\w+=.*\n)+)END", page, re.M)
                if program == "coordinator"
                else []
            ):
                self.assertLessEqual(set(re.findall(r"^(IMAGENET_\w+)=", settings, re.M)), known)

    def test_what_is_not_complete_can_be_put_together_beside_the_images(self) -> None:
        unit = (UNITS / "imagenet-worker.service").read_text()
        target, writable = (
            re.search(rf"^{name}=(.+)$", unit, re.M)[1]
            for name in ("Environment=IMAGENET_TARGET", "ReadWritePaths")
        )
        self.assertEqual(Path(target).parent, Path(writable))

    def test_both_are_hardened_alike(self) -> None:
        hardening = [
            (UNITS / f"imagenet-{program}.service").read_text().split("\n\n")[-2:]
            for program in PROGRAMS
        ]
        self.assertEqual(*hardening)


class Page(unittest.TestCase):
    def test_all_of_the_page_is_followed(self) -> None:
        text = (REPOSITORY / "deploy/bare-metal.md").read_text()
        found = blocks(text, HOSTS)
        self.assertEqual(len(found), text.count("```sh\n"))
        self.assertEqual({host for block in found for host in block.hosts}, HOSTS)

    def test_blocks_have_their_hosts_and_their_numbers(self) -> None:
        text = "# A\n## B\n```sh\n# node1 and node2\nx\n```\nand\n```sh\n# node1\n# why\ny\n```\n"
        first, second = blocks(text, HOSTS)
        self.assertEqual(
            (first.hosts, first.commands, str(first)), (("node1", "node2"), "x\n", "B, block 1")
        )
        self.assertEqual(
            (second.hosts, second.commands, str(second)), (("node1",), "# why\ny\n", "B, block 2")
        )

    def test_a_block_without_a_known_host_is_an_error(self) -> None:
        for text in (
            "",
            "```sh\nx\n```\n",
            "```sh\n# node7\nx\n```\n",
            "```\n# node1\nx\n```\n",
            "```sh\n# node1\nx\n",
            "   ```sh\n# node1\nx\n```\n",
        ):
            with self.assertRaises(PageError, msg=text):
                blocks(text, HOSTS)


if __name__ == "__main__":
    unittest.main()
