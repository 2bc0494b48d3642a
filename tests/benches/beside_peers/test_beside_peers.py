"""Tests of the measurement itself. Run with `python3 -m unittest discover
tests/benches/beside_peers`."""

import shutil
import tarfile
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from random import Random

from corpus import SHAPES, Corpus
from measure import Call, Load, Run, Void, measure
from peers import REFERENCE, Job, Peer, from_python, this_program
from processes import CORES, parse_stat
from rounds import Rounds, Series, Setting, in_turn
from table import median_ratio, row, wall_of
from targets import NoFigures, Target, judge

OURS = this_program(Path("build"))


class NoOrigin:
    """An origin that receives no requests."""

    url = "http://127.0.0.1:1"
    cacert = None

    def cpu_seconds(self) -> float:
        return 0.0


def run(wall: float, cpu: float = 1.0, others: float = 0.0) -> Run:
    return Run(wall, cpu, 30_000_000, others)


def series(peer: Peer, *walls: float) -> Series:
    return Series(peer, [run(wall) for wall in walls], peak=30_000_000)


class WithCorpus(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        shape = replace(SHAPES["small"], classes=2, images=lambda *_: 5)
        self.corpus = Corpus(self.folder / "corpus", shape)
        self.target = self.folder / "target"

    def unpack(self, keep_tar: bool = False):
        for each in self.corpus.classes:
            with tarfile.open(self.corpus.tars / f"{each.wnid}.tar") as tar:
                tar.extractall(self.target / each.wnid)
            if keep_tar:
                shutil.copy(self.corpus.tars / f"{each.wnid}.tar", self.target)


class ATargetIsTheCorpusOrVoid(WithCorpus):
    def test_what_was_unpacked_is_right_also_with_a_manifest(self):
        self.unpack()
        (self.target / "n00000001/.manifest.json").write_text("{}")
        self.assertIsNone(self.corpus.fault_in(self.target, keep_tar=False))

    def test_a_kept_tar_must_be_there_and_whole_and_a_deleted_one_must_not(self):
        self.unpack()
        self.assertIn("missing", self.corpus.fault_in(self.target, keep_tar=True))
        self.unpack(keep_tar=True)
        self.assertIsNone(self.corpus.fault_in(self.target, keep_tar=True))
        self.assertIn("still there", self.corpus.fault_in(self.target, keep_tar=False))
        with (self.target / "n00000002.tar").open("r+b") as tar:
            tar.write(b"x")
        self.assertIn(
            "n00000002.tar: other bytes", self.corpus.fault_in(self.target, keep_tar=True)
        )

    def test_each_fault_of_a_folder_is_found(self):
        image = self.target / "n00000002/n00000002_0.JPEG"
        faults = {
            "missing": image.unlink,
            "one too many": lambda: image.with_name("extra.JPEG").touch(),
            "another name": lambda: image.rename(image.with_name("other.JPEG")),
            "cut": lambda: image.write_bytes(image.read_bytes()[:-1]),
            "other bytes": lambda: image.write_bytes(bytes(image.stat().st_size)),
            "no folder": lambda: shutil.rmtree(image.parent),
        }
        for name, make in faults.items():
            with self.subTest(name):
                shutil.rmtree(self.target, ignore_errors=True)
                self.unpack()
                make()
                self.assertIn("n00000002", self.corpus.fault_in(self.target, keep_tar=False) or "")

    def test_a_program_that_fails_or_delivers_nothing_is_void(self):
        for command, why in (
            (["sh", "-c", "echo no such host >&2; exit 7"], "exit code 7: no such host"),
            (["true"], "No such file"),
            (["no-such-program"], "did not start"),
        ):
            with self.subTest(command), self.assertRaisesRegex(Void, why):
                job = Job(self.corpus, "", None, self.folder / command[0], 1, False)
                measure(
                    Peer("some", "some", lambda _: command),
                    job,
                    NoOrigin(),
                    self.folder / "log",
                    False,
                    True,
                )

    def test_a_void_peer_gets_no_figures_and_no_more_turns(self):
        lazy = Peer("lazy", "lazy", lambda _: ["true"])
        (found,) = Rounds(Setting("small"), self.corpus, [lazy], self.folder, patience=0).measure(
            3, NoOrigin()
        )
        self.assertEqual(found.runs, [])
        self.assertIn("| lazy | VOID: n00000001", row(found, [found], self.corpus.payload))


class TheCorpus(unittest.TestCase):
    def test_realistic_images_have_the_mean_and_the_number_of_imagenet(self):
        shape, draw = SHAPES["realistic"], Random(3)
        sizes = [shape.image_bytes(draw) for _ in range(20_000)]
        self.assertAlmostEqual(sum(sizes) / len(sizes), 110_000, delta=3_000)
        counts = [shape.images(draw, number) for number in range(1000)]
        self.assertTrue(300 <= min(counts) < 310 and 1100 < max(counts) <= 1300)

    def test_is_the_same_every_time(self):
        with tempfile.TemporaryDirectory() as folder:
            one, other = (Corpus(Path(folder, name), SHAPES["skewed"], 0.03) for name in "ab")
            self.assertEqual(one.classes, other.classes)


class TheOtherProcesses(unittest.TestCase):
    def test_have_what_is_neither_the_measuring_nor_idle(self):
        before, later = Load(100.0, 50.0, 10.0), Load(102.0, 50.0 + 2 * CORES, 10.0 + CORES)
        self.assertAlmostEqual(before.share_of_others(later), 0.5)

    def test_a_name_with_a_parenthesis_hides_no_field(self):
        line = "42 (a ) 1 2 (b) S 7 41 41 0 -1 0 1 2 3 4 250 150 9 9 20 0 1 0"
        found = parse_stat(line)
        self.assertEqual((found.pid, found.parent, found.group), (42, 7, 41))
        self.assertGreater(found.cpu_seconds, 0)


class TheFigures(unittest.TestCase):
    def test_every_round_has_another_order(self):
        peers = [series(Peer(name, name, lambda _: [])) for name in "abcdefg"]
        orders = ["".join(each.peer.name for each in in_turn(peers, number)) for number in range(7)]
        self.assertEqual(len(set(orders)), 7)
        self.assertEqual({order[0] for order in orders}, set("abcdefg"))
        self.assertTrue(all(sorted(order) == list("abcdefg") for order in orders))

    def test_a_ratio_is_of_the_same_round(self):
        # The machine was ten times slower in the second round. The ratio of the medians would be
        # 1.1.
        ours, reference = series(OURS, 1.0, 11.0, 2.2), series(REFERENCE, 2.0, 20.0, 1.0)
        self.assertAlmostEqual(median_ratio(ours.runs, reference.runs, wall_of), 0.55)

    def judge(self, target: Target, *all_series: Series) -> dict[str, bool]:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Corpus(Path(folder, "corpus"), replace(SHAPES["skewed"], classes=1), 0.03)
            return {
                each.what.split(" of ")[0]: each.passed
                for each in judge(target, list(all_series), corpus)
            }

    def test_a_bound_holds_or_not(self):
        target = Target(Setting("small"), wall=0.5, cpu=0.9)
        verdicts = self.judge(target, series(OURS, 1.0, 1.0), series(REFERENCE, 2.0, 2.1))
        self.assertEqual(
            verdicts,
            {"peak memory": True, "wall beside curl | tar": True, "CPU beside curl | tar": False},
        )

    def test_the_fastest_is_not_always_the_reference_and_a_void_peer_is_never(self):
        wget, void = (
            Peer("wget", "wget", lambda _: []),
            Series(Peer("aria2", "aria2", lambda _: []), void="exit code 3"),
        )
        target = Target(Setting("small"), fastest=True)
        verdicts = self.judge(
            target, series(OURS, 1.0), series(REFERENCE, 2.0), series(wget, 0.9), void
        )
        self.assertEqual(verdicts["wall beside the fastest peer, wget"], False)

    def test_the_package_is_compared_with_this_program_and_not_with_the_reference(self):
        runs = [replace(run(1.5, 1.5), call=call) for call in (Call(1.02, 1.1), Call(1.04, 1.1))]
        package = Series(from_python(Path("python")), runs)
        target = Target(Setting("small"), from_python=1.03)
        verdicts = self.judge(target, series(OURS, 1.0, 1.0), series(REFERENCE, 2.0, 2.0), package)
        self.assertEqual(
            verdicts,
            {
                "peak memory": True,
                "wall beside this program, called from Python": True,
                "CPU beside this program, called from Python": False,
            },
        )
        package = Series(from_python(Path("python")), void="exit code 1")
        with self.assertRaises(NoFigures):
            self.judge(target, series(OURS, 1.0), series(REFERENCE, 2.0), package)

    def test_without_this_program_or_the_reference_nothing_passes(self):
        for absent in (OURS, REFERENCE):
            with self.subTest(absent.name), self.assertRaises(NoFigures):
                present = [series(each, 1.0) for each in (OURS, REFERENCE) if each is not absent]
                self.judge(Target(Setting("small")), *present, Series(absent, void="exit code 1"))


if __name__ == "__main__":
    unittest.main()
