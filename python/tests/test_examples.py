"""The examples and the README's snippet, executed as they are against an origin."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from harness import DEADLINE, assert_complete_or_absent
from nbclient import NotebookClient
from origin import Origin

PACKAGE = Path(__file__).resolve().parents[1]
EXAMPLES = PACKAGE / "examples"
MISSING = "n90000000"


@pytest.fixture
def csv(origin: Origin, tmp_path: Path) -> Path:
    """A list of 12 classes: one is missing, one breaks off, one first answers 503."""
    wnids = [*origin.add_all(11, size=20_000), MISSING]
    origin.classes[wnids[1]].cuts = [30_000]
    origin.classes[wnids[2]].statuses = [503]
    path = tmp_path / "data.csv"
    path.write_text("".join(f"{row}\n" for row in ["wnid", *wnids]))
    return path


def example(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)


def test_the_script_downloads_names_the_failure_and_continues(
    origin: Origin, csv: Path, target: Path
) -> None:
    first = example("download_batch.py", csv, target, "--url", origin.url)
    assert first.returncode == 1, first.stderr
    counts, failure = first.stdout.splitlines()
    assert counts == "Success: 11, Skipped: 0, Failed: 1"
    reason = f"404 Client Error: Not Found for url: {origin.url}/{MISSING}.tar"
    assert failure == f"{MISSING}: {reason} (requests: 1)"
    assert assert_complete_or_absent(target, origin) == 11
    origin.add(MISSING)
    second = example("download_batch.py", csv, target, "--url", origin.url)
    assert (second.returncode, second.stdout) == (0, "Success: 1, Skipped: 11, Failed: 0\n")


def test_the_script_says_in_one_line_why_it_could_not_run(csv: Path, tmp_path: Path) -> None:
    absent = example("download_batch.py", tmp_path / "absent.csv", tmp_path / "target")
    assert absent.returncode == 2
    (line,) = absent.stderr.splitlines()
    assert "absent.csv" in line


def test_the_async_example_stops_in_time_and_continues(
    origin: Origin, csv: Path, target: Path
) -> None:
    for one in origin.classes.values():
        one.holds_at = 30_000
    stopped = example("download_async.py", csv, target, "1.5", origin.url)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.endswith("\ntime is over; the same call continues\n")
    assert assert_complete_or_absent(target, origin) == 0
    origin.release()
    ended = example("download_async.py", csv, target, "50", origin.url)
    assert ended.stdout.endswith("\n11 downloaded, 0 there before, 1 failed\n"), ended.stderr
    assert assert_complete_or_absent(target, origin) == 11


def test_the_notebook_runs_in_a_kernel_and_shows_one_bar(
    origin: Origin, csv: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGENET_FNAME", str(csv))
    monkeypatch.setenv("IMAGENET_TARGET", str(target))
    monkeypatch.setenv("IMAGENET_URL", origin.url)
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=int(DEADLINE), kernel_name="python3").execute()
    count, download, failures, again = [
        cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs
    ]
    assert count[0].data["text/plain"] == "12"
    counts = "{'success': 11, 'skipped': 0, 'failed': 1, 'total': 12}"
    assert download[-1].data["text/plain"] == counts
    bar = "".join(text_of(output) for output in download[:-1])
    assert "12/12" in bar and "1 failed" in bar, bar
    assert failures[0].text.startswith(f"{MISSING} HTTPError 404 Client Error: Not Found")
    counts = "{'success': 0, 'skipped': 11, 'failed': 1, 'total': 12}"
    assert again[-1].data["text/plain"] == counts
    assert assert_complete_or_absent(target, origin) == 11


def text_of(output: nbformat.NotebookNode) -> str:
    """The text of an output of a cell: of a stream, or of a widget."""
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (PACKAGE / "README.md").read_text(), re.M | re.S)


def test_each_snippet_of_the_readme_runs_in_its_order(
    origin: Origin, csv: Path, target: Path
) -> None:
    # Only the values that a user replaces: the URL and the paths.
    program = "\n".join(snippets()).replace('"/path/to/imagenet"', repr(str(target)))
    default = "import imagenet_downloader._download as module\n" + "".join(
        f"module.{name}.__kwdefaults__['url'] = {origin.url!r}\n"
        for name in ("download_batch", "download_batch_async")
    )
    run = subprocess.run(
        [sys.executable, "-c", default + program],
        cwd=csv.parent,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "Success: 11, Failed: 1"
    assert f"{MISSING}: 404 Client Error" in run.stdout
    assert assert_complete_or_absent(target, origin) == 11
