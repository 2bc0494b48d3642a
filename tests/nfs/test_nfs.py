"""Tests that need no guest. Run with `python3 -m unittest discover tests/nfs`."""

import tarfile
import tempfile
import unittest
from pathlib import Path

from guest import verdict
from tars import CLASSES, IMAGES, make_tars


class Verdict(unittest.TestCase):
    def test_only_a_story_that_ended_and_whose_checks_held_has_passed(self) -> None:
        ok = "booted\nok: 3 s: NFS 3: verified\n"
        self.assertTrue(verdict(f"{ok}story ended: 0\nreboot: Power down"))
        wrong = "WRONG: 3 s: NFS 3: a class\nstory ended: 0"
        for console in ("", ok, "story ended: 1", f"{ok}{wrong}", "story ended: 0\nstory ended: 1"):
            self.assertFalse(verdict(console), console)


class Tars(unittest.TestCase):
    def test_the_list_names_what_is_there(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            tars = Path(folder) / "tars"
            make_tars(tars)
            head, *wnids = (tars / "list.csv").read_text().split()
            self.assertEqual((head, len(wnids)), ("wnid", CLASSES))
            for wnid in wnids:
                with tarfile.open(tars / f"{wnid}.tar") as tar:
                    self.assertEqual(len(tar.getnames()), IMAGES)


if __name__ == "__main__":
    unittest.main()
