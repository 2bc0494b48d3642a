"""How the progress is shown: a function, lines, nothing; and what a slow or broken function does."""

import io
import sys
import threading
import time
from pathlib import Path

import pytest
from harness import assert_complete_or_absent, checkpoints, run
from imagenet_downloader import Progress, download_batch
from origin import Origin


def test_a_function_gets_counts_that_never_decrease_at_most_ten_times_a_second(
    origin: Origin, target: Path
) -> None:
    wnids = [*origin.add_all(11, size=20_000), "n90000000"]
    origin.rate = 60_000
    events: list[tuple[float, Progress]] = []
    stats = download_batch(
        wnids,
        target,
        4,
        True,
        url=origin.url,
        progress=lambda progress: events.append((time.monotonic(), progress)),
    )
    times = [at for at, _ in events]
    states = [state for _, state in events]
    assert len(states) > 5
    for before, after in zip(states, states[1:]):
        assert after.total == 12
        for count in ("success", "skipped", "failed", "received_bytes"):
            assert getattr(before, count) <= getattr(after, count), (before, after)
    for first, eleventh in zip(times, times[10:]):
        assert eleventh - first > 1.0, "more than ten within a second"
    last = states[-1]
    assert (last.success, last.failed, last.classes) == (stats.success, stats.failed, ())
    sent = sum(len(one.tar) for one in origin.classes.values())
    assert last.received_bytes == sent
    under_way = [one for state in states for one in state.classes]
    assert {one.wnid for one in under_way} <= set(wnids)
    assert max(len(state.classes) for state in states) == 4
    assert any(one.length and 0 < one.position < one.length for one in under_way)


def test_a_slow_function_misses_states_and_delays_no_class(origin: Origin, target: Path) -> None:
    wnids = origin.add_all(12)
    finished = threading.Event()
    states: list[Progress] = []

    def slow(progress: Progress) -> None:
        states.append(progress)
        if len(states) == 1:
            # Until every class is published, which the caller's thread has no part in.
            end = time.monotonic() + 60
            while sum(target.joinpath(wnid).is_dir() for wnid in wnids) < 12:
                assert time.monotonic() < end, "the function holds the download up"
                time.sleep(0.01)
            finished.set()

    stats = download_batch(wnids, target, 1, True, url=origin.url, progress=slow)
    assert finished.is_set() and stats.success == 12
    assert len(states) == 2, "the states in between were dropped"
    assert states[-1].success == 12


def test_an_exception_of_the_function_stops_the_batch_at_its_checkpoints(
    origin: Origin, target: Path
) -> None:
    wnids = origin.add_all(6, size=400_000)
    for one in origin.classes.values():
        one.holds_at = 600_000

    def fails(progress: Progress) -> None:
        if sum(one.position for one in progress.classes) == 2 * 600_000:
            raise LookupError("of the function")

    with pytest.raises(LookupError, match="^of the function$"):
        download_batch(wnids, target, 2, True, url=origin.url, progress=fails)
    assert assert_complete_or_absent(target, origin) == 0
    assert checkpoints(target)

    origin.release()
    del origin.requests[:]
    stats = download_batch(wnids, target, 2, True, url=origin.url, progress=None)
    assert stats.success == 6
    ranges = {wnid: asked for _, wnid, asked in origin.requests}
    assert [ranges[wnid] for wnid in wnids[:2]] == ["bytes=600000-"] * 2, "no byte comes twice"


def test_without_a_terminal_a_few_lines_are_written_to_standard_error(
    origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wnids = [*origin.add_all(2), "n90000000"]
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    download_batch(wnids, target, 2, True, url=origin.url)
    first, *_, last = output.getvalue().splitlines()
    assert first == f"3 classes into {target}, 2 at a time"
    assert last.startswith("2 done, 1 failed, of 3 classes, in ")
    assert len(output.getvalue().splitlines()) == 2
    assert "\x1b" not in output.getvalue()


def test_a_closed_standard_error_ends_no_download(
    origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wnid,) = origin.add_all(1)
    closed = io.StringIO()
    closed.close()
    for output in (closed, None):
        monkeypatch.setattr(sys, "stderr", output)
        stats = download_batch([wnid], target, url=origin.url)
        assert stats.total == 1 and stats.failed == 0


def test_nothing_is_written_to_standard_output_and_nothing_at_all_if_it_is_silent(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12)
    origin.classes["n00000003"].statuses = [503]
    output, errors = run("print(download().success)", origin.url, target)
    assert (output, errors) == ("12\n", "")
    output, errors = run("print(download(progress=True).skipped)", origin.url, target)
    assert output == "12\n"
    assert errors.splitlines()[-1].startswith("0 done, 12 skipped, of 12 classes")


def test_a_notebook_gets_one_bar_of_tqdm_and_lines_where_tqdm_is_missing(
    origin: Origin, target: Path
) -> None:
    origin.add_all(11)
    script = """
import types
ipython = types.ModuleType("IPython")
ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
sys.modules["IPython"] = ipython
class Bar:
    def __init__(self, **options): print("bar", options["total"])
    def set_postfix_str(self, text, refresh): self.text = text
    def refresh(self): self.shown = f"{self.n}, {self.text}"
    def close(self): print(self.shown.rpartition(",")[0])
    @staticmethod
    def write(text, file): print(text, file=file)
auto = types.ModuleType("tqdm.auto")
auto.tqdm = Bar
sys.modules["tqdm"] = types.ModuleType("tqdm")
sys.modules["tqdm.auto"] = auto if HAS_TQDM else None
download(progress=True)
"""
    output, errors = run(f"HAS_TQDM = True\n{script}", origin.url, target)
    assert output == "bar 12\n12, 1 failed\n"
    (warning,) = errors.splitlines()
    assert "failed: HTTPError: 404" in warning
    output, errors = run(f"HAS_TQDM = False\n{script}", origin.url, target)
    assert output == ""
    assert errors.splitlines()[-1].startswith("0 done, 11 skipped, 1 failed, of 12 classes")
