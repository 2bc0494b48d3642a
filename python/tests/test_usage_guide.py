"""The usage guide of the tool that ``imagenet-downloader`` replaces, followed as a user does.

Each command is that of the guide with ``uv run main.py`` replaced by ``imagenet-downloader``. The
origin is given by the environment variable, so that the commands stay to the letter.
"""

import os
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from origin import Origin, images, tar_of

if sys.platform == "darwin":
    pytest.skip("the guide has the `sed` of GNU", allow_module_level=True)

CLASSES = [f"n{number:08}" for number in range(2084071, 2084083)]
RETRY_RECIPE = """
grep -o 'n[0-9]*' target_path/failed_downloads.log > failed_retry.csv
sed -i '1iwnid' failed_retry.csv
"""


class CollectingOrigin(Origin):
    """Counts how many requests wait for a reply at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.collects = 1
        """A reply waits until this many requests are there, for a second at most."""
        self.waiting = 0
        self.most_waiting = 0
        self.changed = threading.Condition()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        with self.changed:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.waiting >= self.collects, timeout=1)
            # Before the reply, because the client may send its next request at once.
            self.waiting -= 1
        super()._answer(request)


@pytest.fixture
def origin() -> Iterator[CollectingOrigin]:
    with CollectingOrigin() as origin:
        for wnid in CLASSES:
            origin.add(wnid)
        yield origin


class User:
    """A shell in a folder of its own, in which the origin is known."""

    def __init__(self, folder: Path, origin: CollectingOrigin):
        self.folder = folder
        scripts = sysconfig.get_path("scripts")
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        self.environment = kept | {
            "PATH": f"{scripts}:/usr/bin:/bin",
            "IMAGENET_URL": origin.url,
        }

    def writes(self, name: str, classes: list[str]) -> None:
        rows = "".join(f"{wnid},label of {wnid}\n" for wnid in classes)
        (self.folder / name).write_text(f"wnid,label\n{rows}")

    def runs(self, commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def has_classes(self, target: str, classes: list[str], tars: bool) -> None:
        """Checks the structure that the guide shows, and each byte."""
        folder = self.folder / target
        for wnid in classes:
            found = {path.name: path.read_bytes() for path in (folder / wnid).glob("*.JPEG")}
            assert found == images(wnid)
            assert (folder / f"{wnid}.tar").exists() == tars, wnid
        folders = {path.name for path in folder.glob("n*") if path.is_dir()}
        assert folders == set(classes)
        for log in ("failed_downloads.log", "imagenet_downloader.log"):
            assert (folder / log).is_file()

    def failures(self, target: str) -> list[str]:
        lines = (self.folder / target / "failed_downloads.log").read_text().splitlines()
        return [line.partition(" - ")[0] for line in lines]


@pytest.fixture
def user(tmp_path: Path, origin: CollectingOrigin) -> User:
    return User(tmp_path, origin)


def table(success: int, skipped: int, failed: int) -> list[tuple[str, int]]:
    total = success + skipped + failed
    return [("Success", success), ("Skipped", skipped), ("Failed", failed), ("Total", total)]


def printed_table(output: str) -> list[tuple[str, int]]:
    found = re.findall(r"^(?:\S )?(Success|Skipped|Failed|Total): +(\d+)$", output, re.MULTILINE)
    return [(name, int(count)) for name, count in found]


def ended(
    run: subprocess.CompletedProcess[str], code: int, success: int, skipped: int, failed: int
) -> None:
    assert run.returncode == code, run.stderr
    assert printed_table(run.stdout) == table(success, skipped, failed), run.stdout


def test_without_flags_data_csv_is_downloaded_into_the_current_folder_and_tars_stay(user: User):
    user.writes("data.csv", CLASSES)
    ended(user.runs("imagenet-downloader"), 0, 12, 0, 0)
    user.has_classes(".", CLASSES, tars=True)
    assert user.failures(".") == []


def test_a_list_and_a_target_of_ones_own(user: User):
    user.writes("my_classes.csv", CLASSES[:3])
    command = "imagenet-downloader --fname my_classes.csv --target /path/to/imagenet"
    command = command.replace("/path/to", str(user.folder))
    ended(user.runs(command), 0, 3, 0, 0)
    user.has_classes("imagenet", CLASSES[:3], tars=True)
    again = user.runs(command)
    ended(again, 0, 0, 3, 0)


def test_twenty_workers_that_delete_the_tars(user: User):
    user.writes("data.csv", CLASSES)
    run = user.runs("imagenet-downloader --workers 20 --delete-tar --target target_path")
    ended(run, 0, 12, 0, 0)
    user.has_classes("target_path", CLASSES, tars=False)


def test_five_workers_are_at_most_five_downloads_at_a_time(user: User, origin: CollectingOrigin):
    user.writes("data.csv", CLASSES)
    origin.collects = 6
    # Without it the limit of connections starts below five, whatever the number of workers.
    user.environment["IMAGENET_MAX_CONNECTIONS"] = "12"
    ended(user.runs("imagenet-downloader --workers 5"), 0, 12, 0, 0)
    user.has_classes(".", CLASSES, tars=True)
    assert 1 <= origin.most_waiting <= 5


def test_the_production_command(user: User):
    user.writes("production_classes.csv", CLASSES)
    run = user.runs(
        "imagenet-downloader --fname production_classes.csv --workers 15 --target target_path "
        "--delete-tar"
    )
    ended(run, 0, 12, 0, 0)
    user.has_classes("target_path", CLASSES, tars=False)


def test_the_retry_recipe_tries_what_failed_and_nothing_else(user: User, origin: CollectingOrigin):
    missing, page, *others = CLASSES
    origin.classes[missing].status = 404
    origin.classes[page].tar = b"<!DOCTYPE html><title>Log in</title>"
    user.writes("data.csv", CLASSES)
    first = user.runs("imagenet-downloader --target target_path")
    ended(first, 1, 10, 0, 2)
    user.has_classes("target_path", others, tars=True)
    assert sorted(user.failures("target_path")) == [missing, page]

    # The origin has one of the two again.
    origin.classes[page].tar = tar_of(images(page))
    origin.requests.clear()
    recipe = RETRY_RECIPE + "imagenet-downloader --fname failed_retry.csv --target target_path"
    second = user.runs(recipe)
    rows = (user.folder / "failed_retry.csv").read_text().splitlines()
    assert rows[0] == "wnid" and set(rows[1:]) == {missing, page, "n"}
    ended(second, 1, 1, 0, 1)
    warning = f'the class list has {rows.count("n")} rows that hold only "n", left out'
    log = (user.folder / "target_path/imagenet_downloader.log").read_text()
    assert second.stderr.count(warning) == 1 and log.count(warning) == 1, second.stderr
    assert {wnid for _, wnid, _ in origin.requests} == {missing, page}
    user.has_classes("target_path", [page, *others], tars=True)
    assert user.failures("target_path") == [missing]

    # And the other one.
    origin.classes[missing].status = 0
    ended(user.runs(recipe), 0, 1, 0, 0)
    user.has_classes("target_path", CLASSES, tars=True)
    assert user.failures("target_path") == []
