"""On a terminal: a line for each download and one for the batch, as the programs draw them; log
lines above them; one line at the end."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte
from harness import DEADLINE, PREAMBLE, run, wait_until
from origin import Origin

COLUMNS = 100
ROWS = 24
HELD = 30_000


class Terminal:
    """A script with its standard error on a terminal, and what is on its screen."""

    def __init__(self, script: str, *arguments: str | Path, stdin: int | None = None) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._outer, inner = pty.openpty()
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
        os.set_blocking(self._outer, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=inner,
            text=True,
            start_new_session=True,
        )
        os.close(inner)

    def lines(self) -> list[str]:
        """The lines on the screen now."""
        try:
            while text := os.read(self._outer, 1 << 16):
                self.raw += text
                self._stream.feed(text)
        except (BlockingIOError, OSError):
            pass
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def end(self) -> tuple[str, list[str]]:
        """Waits for the end; returns the standard output and the lines that stay."""
        try:
            output, _ = self.process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        assert self.process.returncode == 0, self.lines()
        lines = self.lines()
        os.close(self._outer)
        return output, lines


def held(origin: Origin) -> list[str]:
    wnids = origin.add_all(12, size=20_000)
    for wnid in wnids:
        origin.classes[wnid].holds_at = HELD
    return wnids


def test_the_downloads_are_drawn_as_by_the_programs_and_the_result_stays(
    origin: Origin, target: Path
) -> None:
    held(origin)
    origin.classes["n00000012"].status = 404
    terminal = Terminal("print(download(progress=True).success)", origin.url, target)

    def drawn() -> list[str]:
        lines = terminal.lines()
        return lines if sum("30.0k/" in line for line in lines) == 4 else []

    lines = wait_until("four downloads are shown with what they have received", drawn)
    *slots, job = lines
    for number, line in enumerate(slots):
        assert line.startswith(f"[{number:02}] n0000000{number + 1}:  "), lines
        assert "%|██" in line and "30.0k/71.7k" in line, lines
    assert job.startswith("0 done, of 12 classes, 120kB, "), lines
    origin.release()
    output, lines = terminal.end()
    assert output == "11\n"
    warning, *_, last = lines
    assert warning.startswith("WARN n00000012 failed: HTTPError: 404"), warning
    assert last.startswith("11 done, 1 failed, of 12 classes, in ")
    assert b"\x1b[?" not in terminal.raw, "no mode of the terminal is changed"


def test_log_lines_stay_above_the_downloads(origin: Origin, target: Path) -> None:
    for setup, start in (
        ("", "WARN "),
        ("import logging; logging.basicConfig(format='handled %(message)s')", "handled "),
    ):
        script = f"{setup}\nprint(download(progress=True, retries=1, num_workers=2).failed)"
        output, lines = Terminal(script, "http://127.0.0.1:1", target).end()
        assert output == "12\n"
        first, *others, last = lines
        assert first.startswith(f"{start}no connection to http://127.0.0.1:1: refused"), lines
        assert all(line.startswith(start) for line in others), lines
        assert last.startswith("0 done, 12 failed, of 12 classes, in "), lines


def test_of_two_batches_at_once_one_draws_and_the_other_writes_lines(
    origin: Origin, target: Path
) -> None:
    held(origin)
    terminal = Terminal(
        """
first = threading.Thread(target=download, kwargs={"progress": True})
first.start()
sys.stdin.readline()
target += "-other"
stats = download(progress=True)
first.join()
print(stats.success)
""",
        origin.url,
        target,
        stdin=subprocess.PIPE,
    )
    wait_until("the first one draws", lambda: any("%|██" in line for line in terminal.lines()))
    assert terminal.process.stdin is not None
    terminal.process.stdin.write("\n")
    terminal.process.stdin.flush()
    wait_until(
        "both say something",
        lambda: (
            any(line.startswith("12 classes into /") for line in terminal.lines())
            and any("%|██" in line for line in terminal.lines())
        ),
    )
    origin.release()
    output, _ = terminal.end()
    assert output == "12\n"


def test_ctrl_c_leaves_no_block(origin: Origin, target: Path) -> None:
    held(origin)
    terminal = Terminal(
        """
try:
    download(progress=True)
except KeyboardInterrupt:
    print("stopped")
""",
        origin.url,
        target,
    )
    wait_until(
        "downloads are drawn",
        lambda: sum("30.0k/" in line for line in terminal.lines()) == 4,
    )
    terminal.process.send_signal(signal.SIGINT)
    output, lines = terminal.end()
    assert (output, lines) == ("stopped\n", [])


#: A batch whose end the test decides, and what is asked of it.
FAKE = """
from imagenet_downloader import _display
class Fake:
    ended = False
    def __init__(self): self.calls = []
    def wait(self, seconds): return self.ended
    def hide(self): self.calls.append("hide")
    def show(self): self.calls.append("show")
one, other = Fake(), Fake()
assert _display._terminal.acquire(one)
"""


def test_a_batch_that_still_stops_keeps_the_terminal_and_draws_no_more() -> None:
    output, _ = run(
        FAKE
        + """
_display.release(other)
_display.release(one)
with _display.hidden_block():
    pass
print(one.calls, _display._terminal.acquire(other))
one.ended = True
print(_display._terminal.acquire(other), other.calls)
""",
        "",
        "",
    )
    assert output == "['hide', 'hide'] False\nTrue []\n"


def test_the_block_comes_back_when_the_outermost_writer_has_ended() -> None:
    output, _ = run(
        FAKE
        + """
with _display.hidden_block():
    with _display.hidden_block():
        pass
    print(one.calls)
print(one.calls)
def interrupted():
    raise KeyboardInterrupt
one.hide = interrupted
try:
    with _display.hidden_block():
        pass
except KeyboardInterrupt:
    print(one.calls)
""",
        "",
        "",
    )
    assert output == "['hide']\n['hide', 'show']\n['hide', 'show', 'show']\n"


def test_a_failure_in_the_log_frees_the_terminal(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    terminal = Terminal(
        """
import logging
from imagenet_downloader import _display
def fail(record): raise RuntimeError("filter")
logging.basicConfig(level="DEBUG", filename="/dev/null")
logging.getLogger("imagenet_downloader").addFilter(fail)
try:
    download(progress=True)
except RuntimeError as error:
    print(error)
end = time.monotonic() + 30
while not _display._terminal.acquire(object()) and time.monotonic() < end:
    time.sleep(0.01)
print(time.monotonic() < end)
""",
        origin.url,
        target,
    )
    output, _ = terminal.end()
    assert output == "filter\nTrue\n"


def test_a_forked_child_does_not_wait_for_a_lock_of_another_thread(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12)
    terminal = Terminal(
        """
import os
from imagenet_downloader import _display
download()
held, release = threading.Event(), threading.Event()
def hold():
    with _display.hidden_block():
        held.set()
        release.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    try:
        download(progress=True)
    except ForkError:
        os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
release.set()
""",
        origin.url,
        target,
    )
    output, _ = terminal.end()
    assert output == "3\n"
