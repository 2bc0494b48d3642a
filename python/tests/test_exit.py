"""The end of the interpreter while other threads are in a call."""

import signal
import subprocess
from pathlib import Path

from harness import DEADLINE, start, wait_until
from origin import Origin

RUNS = 5

#: An object that the interpreter drops late in its end, and that lets other threads run meanwhile:
#: longer than a wait of the package, so that each of these threads wants the lock again.
SLOW_END = """
class Slow:
    sleep = staticmethod(time.sleep)
    def __del__(self):
        self.sleep(0.3)
slow = Slow()
"""


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs: {process.communicate()}") from None
    return process.returncode, output + errors


def test_an_interpreter_that_ends_while_a_daemon_thread_downloads_does_not_crash(
    origin: Origin, tmp_path: Path
) -> None:
    origin.classes[origin.add_all(12)[0]].holds_at = 100
    for number in range(RUNS):
        process = start(
            SLOW_END
            + f"""
seen = threading.Event()
for _ in range(4):
    options = dict(progress=lambda _: seen.set())
    threading.Thread(target=download, kwargs=options, daemon=True).start()
assert seen.wait(60)
time.sleep({number} / 100)
""",
            origin.url,
            tmp_path / str(number),
        )
        assert ended(process) == (0, "")


def test_an_interpreter_that_is_interrupted_while_it_joins_a_thread_does_not_crash(
    origin: Origin, tmp_path: Path
) -> None:
    origin.classes[origin.add_all(12)[0]].holds_at = 100
    for number in range(RUNS):
        process = start(
            SLOW_END
            + """
def tell(_):
    print("begun", flush=True)
threading.Thread(target=download, kwargs=dict(progress=tell)).start()
""",
            origin.url,
            tmp_path / str(number),
        )
        assert process.stdout is not None
        wait_until("the batch begins", process.stdout.readline)
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        code, said = ended(process)
        # -2 is the answer to Ctrl-C: the interpreter ends itself by this signal.
        assert code in (0, 1, 130, -signal.SIGINT), (code, said)


def test_the_calls_of_other_threads_have_ended_before_the_interpreter_ends(
    origin: Origin, tmp_path: Path
) -> None:
    origin.classes[origin.add_all(12)[0]].holds_at = 100
    process = start(
        """
        import atexit
        seen = threading.Event()
        options = dict(progress=lambda _: seen.set())
        thread = threading.Thread(target=download, kwargs=options, daemon=True)
        # Runs after the hook of the package, which the first call registers.
        atexit.register(lambda: print(thread.join(10), thread.is_alive()))
        thread.start()
        assert seen.wait(60)
        """,
        origin.url,
        tmp_path / "imagenet",
    )
    assert ended(process) == (0, "None False\n")


def test_another_hook_at_the_end_of_the_interpreter_can_download(
    origin: Origin, tmp_path: Path
) -> None:
    origin.add_all(12)
    process = start(
        """
        import atexit
        atexit.register(lambda: print(download().success))
        wnids.remove("n00000012")
        print(download().success)
        wnids.append("n00000012")
        """,
        origin.url,
        tmp_path / "imagenet",
    )
    assert ended(process) == (0, "11\n1\n")
