"""Ctrl-C and cancellation while the disk does not answer: a synchronisation that takes seconds."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEADLINE, assert_complete_or_absent, checkpoints, run, start, wait_until
from origin import Origin

#: Time from the signal to the exception, in seconds.
SOON = 0.3
#: Stands for the `fsync` of the C library: makes the file `BEGAN`, and synchronises once there is a
#: file `GOES_ON`.
SLOW_FSYNC = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int file) {
    int began = open(getenv("BEGAN"), O_CREAT | O_WRONLY, 0600);
    if (began >= 0) close(began);
    while (access(getenv("GOES_ON"), F_OK)) usleep(10000);
    return syscall(SYS_fsync, file);
}
"""


class Disk:
    """A disk whose synchronisation does not return until `goes_on` is called."""

    def __init__(self, folder: Path) -> None:
        library = folder / "slow_fsync.so"
        source = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(source, input=SLOW_FSYNC, text=True, check=True)
        self._began = folder / "began"
        self._goes_on = folder / "goes_on"
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "BEGAN": str(self._began),
            "GOES_ON": str(self._goes_on),
        }

    def start(self, script: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """Starts a script on this disk. It is killed when it takes too long."""
        process = start(script, *arguments, stdin=subprocess.PIPE, env=self._environment, bufsize=1)
        self._timer = threading.Timer(DEADLINE, process.kill)
        self._timer.start()
        wait_until("a synchronisation", self._began.exists)
        return process

    def close(self) -> None:
        self.goes_on()
        self._timer.cancel()

    def goes_on(self) -> None:
        self._goes_on.touch()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc), for a slow fsync")
    disk = Disk(tmp_path)
    yield disk
    disk.close()


#: Says how long the exception took, then calls again when its input has a line.
BLOCKING = """
    import signal
    signalled = []
    def note(*_):
        signalled.append(time.monotonic())
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, note)
    try:
        download()
    except KeyboardInterrupt:
        print(time.monotonic() - signalled[0], flush=True)
    sys.stdin.readline()
    print(dict(download()), flush=True)
"""
TASK = """
    import asyncio, signal
    async def main():
        loop = asyncio.get_running_loop()
        options = {"num_workers": 4, "delete_tar": True, "url": url, "progress": False}
        task = asyncio.create_task(download_batch_async(wnids, target, **options))
        signalled = []
        def cancel():
            signalled.append(time.monotonic())
            task.cancel()
        loop.add_signal_handler(signal.SIGINT, cancel)
        try:
            await task
        except asyncio.CancelledError:
            print(time.monotonic() - signalled[0], flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(dict(await download_batch_async(wnids, target, **options)), flush=True)
    asyncio.run(main())
"""


@pytest.mark.parametrize("script", [BLOCKING, TASK], ids=["blocking", "task"])
def test_the_exception_does_not_wait_for_the_disk_and_the_next_call_does(
    script: str, origin: Origin, target: Path, disk: Disk
) -> None:
    origin.add_all(12)
    process = disk.start(script, origin.url, target)
    assert process.stdout is not None and process.stdin is not None
    process.send_signal(signal.SIGINT)
    assert float(process.stdout.readline()) < SOON
    assert_complete_or_absent(target, origin)
    # The next call finds the first one still stopping.
    process.stdin.write("\n")
    process.stdin.flush()
    disk.goes_on()
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "'failed': 0, 'total': 12}" in output
    assert assert_complete_or_absent(target, origin) == 12
    assert checkpoints(target) == []


def test_the_process_ends_while_the_disk_does_not_answer(
    origin: Origin, target: Path, disk: Disk
) -> None:
    origin.add_all(12)
    process = disk.start("download()", origin.url, target)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")
    assert_complete_or_absent(target, origin)
    run("print(download().failed)", origin.url, target)
    assert assert_complete_or_absent(target, origin) == 12
