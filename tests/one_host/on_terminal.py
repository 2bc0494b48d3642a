"""Runs a program with standard error on a pseudo-terminal, and ends with its exit code.

Usage: on_terminal.py MODE PROGRAM [ARGUMENT ...]

gone: the terminal is closed after the first output; SIGHUP is ignored, as after `disown`.
gone-both: the same, with standard output on that terminal too.
stopped: nothing is read from the terminal, as after Ctrl-S.
read: all output is read.
record: the terminal has 100 columns and 24 rows, and its output is passed on as it is. SIGUSR1
makes it 40 columns and 8 rows, and writes a mark. SIGINT and SIGTERM go to the program.
"""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

RESIZED = b"\x1b]0;resized\x07"
mode, command = sys.argv[1], sys.argv[2:]
terminal, inner = pty.openpty()


def resize(columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def pass_on(text):
    sys.stderr.buffer.write(text)
    sys.stderr.flush()


def shrink(*_):
    # What the program wrote before belongs before the mark.
    os.set_blocking(terminal, False)
    try:
        pass_on(os.read(terminal, 1 << 20))
    except BlockingIOError:
        pass
    os.set_blocking(terminal, True)
    resize(40, 8)
    pass_on(RESIZED)


if mode == "record":
    resize(100, 24)
program = subprocess.Popen(
    command,
    stdout=inner if mode == "gone-both" else None,
    stderr=inner,
    start_new_session=True,
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
)
os.close(inner)
if mode == "record":
    signal.signal(signal.SIGUSR1, shrink)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda number, _: program.send_signal(number))
if mode.startswith("gone"):
    os.read(terminal, 1)
    os.close(terminal)
while mode in ("read", "record"):
    try:
        text = os.read(terminal, 65536)
    except BlockingIOError:
        continue
    except OSError:
        break
    if mode == "record":
        pass_on(text)
    else:
        sys.stderr.write(text.decode("utf-8", "replace").replace("\x1b", "<ESC>"))
code = program.wait()
# After a signal this program ends with an exit code that none of the programs has.
sys.exit(code if code >= 0 else 100 - code)
