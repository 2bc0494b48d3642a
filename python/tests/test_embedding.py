"""Inside of other programs: threads, event loops, several batches, forks, logging, the import."""

import asyncio
import logging
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import DEADLINE, files, needs_proc, run, start, wait_until
from imagenet_downloader import Stats, download_batch, download_batch_async
from origin import Origin


def contents(origin: Origin) -> dict[str, dict[str, bytes]]:
    return {wnid: one.images for wnid, one in origin.classes.items()}


def test_two_threads_download_at_once_and_a_process_twice(origin: Origin, tmp_path: Path) -> None:
    wnids = origin.add_all(6)
    held = origin.classes[wnids[0]]
    held.holds_at = 100
    both_began = threading.Barrier(3, timeout=60)

    def download(name: str) -> Stats:
        begun: list[bool] = []

        def progress(state: object) -> None:
            if not begun:
                begun.append(True)
                both_began.wait()

        return download_batch(wnids, tmp_path / name, 2, True, url=origin.url, progress=progress)

    with ThreadPoolExecutor(2) as threads:
        batches = [threads.submit(download, name) for name in ("one", "two")]
        both_began.wait()
        origin.release()
        assert [batch.result(60).success for batch in batches] == [6, 6]
    for name in ("one", "two"):
        assert files(tmp_path / name) == contents(origin)
    again = download_batch(wnids, tmp_path / "one", url=origin.url, progress=None)
    assert again.skipped == 6


def test_both_functions_work_in_a_running_event_loop_and_one_lets_it_go_on(
    origin: Origin, tmp_path: Path
) -> None:
    wnids = origin.add_all(4)
    origin.classes[wnids[0]].holds_at = 100

    async def story() -> None:
        blocking = download_batch(
            wnids[1:], tmp_path / "a", url=origin.url, progress=False, delete_tar=True
        )
        assert blocking.success == 3
        # The class waits until this task, which runs meanwhile, lets it go on.
        task = asyncio.create_task(
            download_batch_async(wnids, tmp_path / "b", url=origin.url, delete_tar=True)
        )
        while origin.gets(wnids[0]) == 0:
            await asyncio.sleep(0.01)
        origin.release()
        stats = await asyncio.wait_for(task, 60)
        assert stats.success == 4

    asyncio.run(story())
    assert files(tmp_path / "b") == contents(origin)


def test_a_function_is_called_in_the_thread_of_the_caller(origin: Origin, target: Path) -> None:
    wnids = origin.add_all(3)
    seen: set[int] = set()

    def note(progress: object) -> None:
        seen.add(threading.get_ident())

    with ThreadPoolExecutor(1) as threads:
        own = threads.submit(threading.get_ident).result(60)
        threads.submit(download_batch, wnids, target, url=origin.url, progress=note).result(60)
    assert seen == {own}


def test_a_child_that_is_forked_after_a_batch_gets_an_error_at_once(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12)
    output, _ = run(
        """
        import os
        def in_child():
            child = os.fork()
            if child == 0:
                began = time.monotonic()
                try:
                    download()
                except ForkError as error:
                    print(type(error).__name__, time.monotonic() - began < 1, flush=True)
                    print(str(error), flush=True)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        download()
        in_child()
        # While another thread's batch runs, whose locks the child has as they are.
        events = []
        thread = threading.Thread(target=lambda: download(existing="replace", progress=events.append))
        thread.start()
        in_child()
        thread.join()
        print(download().skipped)
        """,
        origin.url,
        target,
    )
    first, sentence, second, _, last = output.splitlines()
    assert first == second == "ForkError True"
    assert "start this process before the first download" in sentence and "spawn" in sentence
    assert last == "12", "the parent goes on"


def test_a_child_in_the_middle_of_its_batch_does_not_hang(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    output, _ = run(
        """
        import os
        children = []
        def fork(progress):
            if not children:
                children.append(os.fork())
        try:
            stats = download(progress=fork)
        except ForkError:
            os._exit(3)
        print(stats.success, os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
        """,
        origin.url,
        target,
    )
    assert output == "12 3\n"


def test_children_that_are_forked_before_the_first_batch_download(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12)
    output, _ = run(
        """
        import multiprocessing
        def work(part):
            global wnids, target
            wnids, target = wnids[part::2], f"{target}-{part}"
            return download()
        with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
            print([stats.success for stats in pool.map(work, [0, 1], chunksize=1)])
        """,
        origin.url,
        target,
    )
    assert output == "[6, 6]\n"


def test_the_logger_gets_the_lines_of_its_level(
    origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (wnid,) = origin.add_all(1)
    origin.classes[wnid].statuses = [503]
    for level, name in ((logging.DEBUG, "a"), (logging.WARNING, "b"), (logging.CRITICAL, "c")):
        caplog.clear()
        origin.classes[wnid].statuses = [503]
        with caplog.at_level(level, logger="imagenet_downloader"):
            download_batch([wnid], tmp_path / name, url=origin.url, progress=False)
        levels = {record.levelno for record in caplog.records}
        assert {record.name for record in caplog.records} <= {"imagenet_downloader"}
        assert all(one >= level for one in levels)
        if level == logging.DEBUG:
            assert logging.INFO in levels
            messages = [record.getMessage() for record in caplog.records]
            assert any("503" in message for message in messages), messages
            assert not any("\n" in message for message in messages)


def test_a_line_has_the_time_at_which_it_was_written(
    origin: Origin, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (wnid,) = origin.add_all(1)
    origin.classes[wnid].holds_at = 100
    origin.classes[wnid].cuts = [200]
    times: list[float] = []

    def cut_it(progress: object) -> None:
        if not times:
            times.append(time.time())
            origin.release()
            wait_until("the rest is requested", lambda: origin.gets(wnid) == 2)
            times.append(time.time())

    with caplog.at_level(logging.DEBUG, logger="imagenet_downloader"):
        download_batch([wnid], target, url=origin.url, progress=cut_it)
    begun, ended = times
    assert any(begun < record.created < ended for record in caplog.records), caplog.text


def test_warnings_are_shown_where_no_handler_gets_them(origin: Origin, target: Path) -> None:
    script = "import logging\n{}\nprint(download(progress={}, retries=1).failed)"
    for setup, progress, shown in (
        ("", True, True),
        ("", False, False),
        ("logging.basicConfig(filename='/dev/null')", True, False),
    ):
        output, errors = run(script.format(setup, progress), "http://127.0.0.1:1", target)
        assert output == "12\n"
        said = "no connection to http://127.0.0.1:1: refused; is --url right? Trying again"
        assert (said in errors) == shown, (setup, progress, errors)


def test_logging_is_not_loaded_for_a_program_that_has_not_loaded_it(
    origin: Origin, target: Path
) -> None:
    script = "{}\nprint(download(progress={}, retries=1).failed, 'logging' in sys.modules)"
    url = "http://127.0.0.1:1"
    output, errors = run(script.format("", True), url, target)
    assert output == "12 False\n"
    assert errors.count("refused; is --url right? Trying again") == 1, "the warning is shown"
    # Loaded during the batch, without a handler.
    loads = "def loads(progress): import logging"
    output, errors = run(script.format(loads, "loads"), url, target)
    assert (output, errors) == ("12 True\n", "")


@needs_proc
def test_the_import_starts_no_thread_and_loads_neither_the_native_module_nor_what_is_slow() -> None:
    output, _ = run(
        """
        import os
        print(len(os.listdir("/proc/self/task")))
        names = "_native asyncio dataclasses inspect logging tqdm multiprocessing".split()
        loaded = set(sys.modules) | {name.rpartition(".")[2] for name in sys.modules
                                     if name.startswith("imagenet_downloader.")}
        print([name for name in names if name in loaded])
        import imagenet_downloader._native
        print(len(os.listdir("/proc/self/task")))
        """,
        "",
        "",
    )
    assert output.splitlines() == ["1", "[]", "1"]


@needs_proc
def test_no_thread_is_left_after_a_batch(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    output, _ = run(
        """
        download(progress=True)
        print(threads_at_the_end())
        """,
        origin.url,
        target,
    )
    assert output == "1\n"
    assert os.path.isdir(target)


def test_a_batch_that_shows_no_warnings_leaves_them_to_one_that_does(
    origin: Origin, target: Path
) -> None:
    for wnid in origin.add_all(12):
        origin.classes[wnid].holds_at = 100
    process = start(
        """
        import logging
        logging.getLogger("imagenet_downloader").setLevel("ERROR")
        first = threading.Thread(target=download, kwargs={"progress": True})
        first.start()
        sys.stdin.readline()
        refused = {"url": "http://127.0.0.1:1", "retries": 0, "progress": False}
        download_batch(wnids, target + "-other", **refused)
        print("ended", flush=True)
        first.join()
        """,
        origin.url,
        target,
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    wait_until("the first batch runs", origin.gets)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ended\n"
    origin.release()
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert errors.count("WARN no connection to http://127.0.0.1:1: refused") == 1, errors


@needs_proc
def test_a_process_without_threads_gets_an_error_and_does_not_hang(target: Path) -> None:
    said = ""
    for spare in range(1, 16, 2):
        process = start(
            """
            import resource
            from imagenet_downloader import _run
            with open("/proc/self/statm") as pages:
                size = int(pages.read().split()[0]) * resource.getpagesize()
            limit = size + (int(sys.argv[3]) << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                download(retries=0)
            except DownloadError as error:
                print(error)
            """,
            "http://127.0.0.1:1",
            target,
            str(spare),
        )
        try:
            said += process.communicate(timeout=DEADLINE)[0]
        finally:
            process.kill()
    assert "cannot start the thread imagenet_batch: " in said
