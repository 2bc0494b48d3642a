"""Ctrl-C and the cancellation of a task: an exception soon, checkpoints, and the next call continues."""

import os
import signal
import time
from pathlib import Path

import pytest
from harness import (
    DEADLINE,
    assert_complete_or_absent,
    checkpoints,
    needs_proc,
    run,
    start,
    wait_until,
)
from origin import Origin

#: Bytes of each tar that are sent before its body waits.
HELD = 600_000

#: Each script says when it begins, when its classes after the first have as many bytes as its last
#: argument says, and the time of the exception.
NOTE = """
    said = []
    def note(progress):
        positions = [one.position for one in progress.classes if one.wnid != wnids[0]]
        if not said and sum(positions) >= int(sys.argv[3]):
            said.append(print("held", flush=True))
"""
BLOCKING = (
    NOTE
    + """
    try:
        print("begins", flush=True)
        download(num_workers=2, progress=note)
    except KeyboardInterrupt:
        print(time.time(), flush=True)
"""
)
LOOP = (
    NOTE
    + """
    import asyncio
    async def main():
        options = {"num_workers": 2, "delete_tar": True, "url": url, "progress": note}
        try:
            print("begins", flush=True)
            await download_batch_async(wnids, target, **options)
        except asyncio.CancelledError:
            print(time.time(), flush=True)
            raise
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
"""
)
TASK = (
    NOTE
    + """
    import asyncio, signal
    async def main():
        options = {"num_workers": 2, "delete_tar": True, "url": url, "progress": note}
        print("begins", flush=True)
        task = asyncio.create_task(download_batch_async(wnids, target, **options))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            print(time.time(), flush=True)
    asyncio.run(main())
"""
)


@pytest.mark.parametrize("script", [BLOCKING, LOOP, TASK], ids=["blocking", "loop", "task"])
def test_the_exception_comes_soon_with_checkpoints_and_the_next_call_continues(
    script: str, origin: Origin, target: Path
) -> None:
    origin.add_all(12, size=400_000)
    held = ["n00000002", "n00000003"]
    for wnid in held:
        origin.classes[wnid].holds_at = HELD
    process = start(script, origin.url, target, len(held) * HELD)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["begins\n", "held\n"]
    sent_at = time.time()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    # `test_interrupts.py` holds the time to its limit, over many instants.
    print(f"{float(output) - sent_at:.3f} s from the signal to the exception")
    assert origin.gets() <= len(held) + 1, "no class was begun after the signal"
    assert assert_complete_or_absent(target, origin) == 1
    assert checkpoints(target)

    origin.release()
    del origin.requests[:]
    stats, _ = run("print(dict(download()))", origin.url, target)
    assert stats == "{'success': 11, 'skipped': 1, 'failed': 0, 'total': 12}\n"
    assert assert_complete_or_absent(target, origin) == 12
    for wnid in held:
        ranges = [asked for _, requested, asked in origin.requests if requested == wnid]
        assert ranges == [f"bytes={HELD}-"], "no byte comes twice"
    assert checkpoints(target) == []


@pytest.mark.parametrize("requests", [0, 1, 3, 6, 10])
def test_after_any_request_folders_are_complete_or_absent(
    requests: int, origin: Origin, target: Path
) -> None:
    origin.add_all(12, size=30_000)
    origin.rate = 400_000
    process = start(BLOCKING, origin.url, target, 1 << 40)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    wait_until(
        f"the origin has {requests} requests or the batch has ended",
        lambda: len(origin.requests) >= requests or process.poll() is not None,
    )
    sent_at = time.time()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    print(f"{float(output) - sent_at:.3f} s from the signal to the exception")
    done = assert_complete_or_absent(target, origin)
    stats, _ = run("print(download().skipped)", origin.url, target)
    assert int(stats) == done
    assert assert_complete_or_absent(target, origin) == 12


#: A batch that takes long to stop, as on a hung disk. Each wait is interrupted.
SLOW = """
import signal
from imagenet_downloader import _run
class Slow:
    def start(self, *_): pass
    def cancel(self): pass
    def state(self): pass
    def hide(self): pass
    def wait(self, seconds):
        interrupt()
        return False
_run.Batch = Slow
began = time.monotonic()
"""


def test_a_second_signal_while_stopping_does_not_wait(target: Path) -> None:
    output, _ = run(
        SLOW
        + """
interrupt = lambda: signal.raise_signal(signal.SIGINT)
try:
    download()
except KeyboardInterrupt as error:
    print(type(error.__context__).__name__, time.monotonic() - began < 10)
""",
        "",
        target,
    )
    assert output == "KeyboardInterrupt True\n"


def test_a_second_cancellation_while_stopping_does_not_wait(target: Path) -> None:
    output, _ = run(
        SLOW
        + """
import asyncio
interrupt = lambda: asyncio.get_running_loop().call_soon(task.cancel)
async def main():
    global task
    task = asyncio.create_task(download_batch_async(wnids, target, url=url, progress=False))
    try:
        await task
    except asyncio.CancelledError as error:
        print(type(error.__context__).__name__, time.monotonic() - began < 10)
asyncio.run(main())
""",
        "",
        target,
    )
    assert output == "CancelledError True\n"


@needs_proc
def test_a_coroutine_that_is_closed_stops_its_batch(origin: Origin, target: Path) -> None:
    for wnid in origin.add_all(12):
        origin.classes[wnid].holds_at = 100
    output, errors = run(
        """
        import asyncio
        one = download_batch_async(wnids, target, url=url, progress=False)
        async def begin():
            one.send(None)
        asyncio.run(begin())
        assert threads() > 1
        one.close()
        del one
        print(threads_at_the_end())
        """,
        origin.url,
        target,
    )
    assert (output, errors) == ("1\n", "")


def test_ctrl_c_is_answered_while_a_header_file_does_not(tmp_path: Path, target: Path) -> None:
    pipe = tmp_path / "headers"
    os.mkfifo(pipe)
    process = start(
        """
        try:
            download(header_file=sys.argv[3])
        except KeyboardInterrupt:
            print("stopped")
        """,
        "http://127.0.0.1:1",
        target,
        pipe,
    )

    def opened() -> int | None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    writer = wait_until("the header file is being opened", opened)
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        os.close(writer)
    assert (output, process.returncode) == ("stopped\n", 0), errors


@needs_proc
def test_a_signal_before_the_batch_is_cancelled_leaves_no_batch(
    origin: Origin, target: Path
) -> None:
    for wnid in origin.add_all(12):
        origin.classes[wnid].holds_at = 100
    output, _ = run(
        """
        from imagenet_downloader import _run
        def interrupted(*_):
            raise KeyboardInterrupt
        _run.Run._stop = interrupted
        def end(progress):
            raise RuntimeError
        try:
            download(progress=end)
        except KeyboardInterrupt as error:
            kept = error  # as IPython does, with the frames of the call
        print(threads_at_the_end())
        """,
        origin.url,
        target,
    )
    assert output == "1\n"
