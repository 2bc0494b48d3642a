"""Programs that replace outputs, loggers or modules, or that give values of other kinds."""

import functools
import logging
import logging.config
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import run, start, wait_until
from imagenet_downloader import OptionError, download_batch, download_batch_async
from origin import Origin


async def later(progress: object) -> None:
    """Would never be awaited."""


class Later:
    async def __call__(self, progress: object) -> None:
        """As `later`."""

    async def method(self, progress: object) -> None:
        """As `later`."""


@pytest.mark.parametrize(
    "progress", [later, Later(), Later().method, functools.partial(later, 1)], ids=repr
)
def test_an_async_function_for_the_progress_is_refused(
    origin: Origin, target: Path, progress: object
) -> None:
    wnids = origin.add_all(1)
    with pytest.raises(TypeError, match="give a plain function"):
        download_batch(wnids, target, url=origin.url, progress=progress)  # type: ignore[arg-type]
    call = download_batch_async(wnids, target, url=origin.url, progress=progress)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give a plain function"):
        call.send(None)
    assert origin.gets(wnids[0]) == 0


@pytest.mark.parametrize(
    "change",
    [
        "sys.stderr = type('Output', (), {'write': lambda self, text: len(text)})()",
        "sys.stderr = type('Output', (), {'write': lambda self, text: 1 / 0})()",
        "import io; sys.stderr = io.BytesIO()",
        "del sys.stderr",
        "sys.stderr = object()",
    ],
)
def test_no_standard_error_ends_a_download(origin: Origin, target: Path, change: str) -> None:
    origin.add_all(12)
    # The interpreter itself does not end well with such an output.
    script = f"{change}\nprint(download(progress=True).success, flush=True)\nimport os; os._exit(0)"
    assert run(script, origin.url, target)[0] == "12\n"


def test_a_table_instead_of_ids_is_refused(tmp_path: Path) -> None:
    table = types.SimpleNamespace(columns=["wnid"])
    for given in (table, {"wnid": ["n00000001"]}):
        with pytest.raises(TypeError, match=r"give one column, e\.g\. df\['wnid'\]"):
            download_batch(given, tmp_path)  # type: ignore[arg-type]


def test_a_child_downloads_after_its_parent_has_only_given_wrong_options(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12)
    output, _ = run(
        """
        import os
        try:
            download(existing="no")
        except OptionError:
            pass
        child = os.fork()
        if child == 0:
            print(download().success, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """,
        origin.url,
        target,
    )
    assert output == "12\n"


def test_a_header_that_the_program_sets_itself_is_refused(origin: Origin, target: Path) -> None:
    wnids = origin.add_all(1)
    file = target.parent / "headers"
    for name in ("Range", "host", "Content-Length", "Transfer-Encoding", "Connection"):
        file.write_text(f"{name}: 1\n")
        file.chmod(0o600)
        with pytest.raises(OptionError, match="which the program sets itself; remove this line"):
            download_batch(wnids, target, url=origin.url, header_file=file, progress=False)
    assert origin.gets(wnids[0]) == 0


@pytest.fixture
def restored_logging() -> Iterator[None]:
    logger = logging.getLogger("imagenet_downloader")
    yield
    logger.disabled = False


def test_a_warning_is_shown_if_the_logger_is_disabled(
    origin: Origin,
    target: Path,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    wnids = origin.add_all(1)
    logging.getLogger("imagenet_downloader")
    logging.config.dictConfig({"version": 1})
    file = target.parent / "headers"
    file.write_text("X-Token: 1\n")
    # A warning: others can read it.
    file.chmod(0o644)
    download_batch(wnids, target, url=origin.url, header_file=file)
    assert "WARN " in capsys.readouterr().err


def test_a_module_that_is_only_named_as_ipython_is_none(
    origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert download_batch(origin.add_all(1), target, url=origin.url).success == 1


def test_ctrl_c_does_not_wait_for_a_slow_log_handler(origin: Origin, target: Path) -> None:
    origin.add_all(1000)
    process: subprocess.Popen[str] = start(
        """
        import logging, signal
        class Slow(logging.Handler):
            def emit(self, record):
                if "missing here" in record.getMessage():
                    print(record.getMessage(), flush=True)
                    return
                print("line", flush=True)
                time.sleep(0.02)
        logger = logging.getLogger("imagenet_downloader")
        logger.addHandler(Slow())
        logger.setLevel(5)
        wnids = [f"n{number:08}" for number in range(1, 1001)]
        try:
            download(existing="adopt")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """,
        origin.url,
        target,
    )
    assert process.stdout is not None
    for _ in range(20):
        assert process.poll() is None
        wait_until("a line is logged", process.stdout.readline)
    process.send_signal(2)
    begun = time.monotonic()
    rest, errors = process.communicate(timeout=60)
    seconds = time.monotonic() - begun
    print(f"ended within {seconds:.2f} s")
    lines = rest.splitlines()
    assert lines[-1] == "interrupted", errors
    assert "log lines are missing here: the call ended" in lines[-2]
    # Those until the signal is seen, and those of 50 ms: hundreds were queued.
    assert lines.count("line") < 40
