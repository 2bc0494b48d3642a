"""Runs a program with standard error on a pseudo-terminal, and ends with its exit code.

Usage: on_terminal.py MODE PROGRAM [ARGUMENT ...]

gone: the terminal is closed after the first output; SIGHUP is ignored, as after `disown`.
gone-both: the same, with standard output on that terminal too.
stopped: nothing is read from the terminal, as after Ctrl-S.
read: all output is read.
"""

import os
import pty
import signal
import subprocess
import sys

mode, command = sys.argv[1], sys.argv[2:]
terminal, inner = pty.openpty()
program = subprocess.Popen(
    command,
    stdout=inner if mode == "gone-both" else None,
    stderr=inner,
    start_new_session=True,
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
)
os.close(inner)
if mode.startswith("gone"):
    os.read(terminal, 1)
    os.close(terminal)
while mode == "read":
    try:
        text = os.read(terminal, 65536)
    except OSError:
        break
    sys.stderr.write(text.decode("utf-8", "replace").replace("\x1b", "<ESC>"))
code = program.wait()
# After a signal this program ends with an exit code that none of the programs has.
sys.exit(code if code >= 0 else 100 - code)
