"""The command ``imagenet-downloader``, also as ``python -m imagenet_downloader``.

It replaces this process by the program ``coordinator`` of the same wheel, called under the name
``imagenet-downloader``. Under this name the program runs jobs on one machine, as
``coordinator --dev`` does; flags, messages and exit codes are the program's own.
"""

import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

NAME = "imagenet-downloader"
PROGRAM = "coordinator"
COULD_NOT_RUN = 2
"""Exit code of the programs for a job that could not run."""


def main() -> NoReturn:
    """Runs the program with the arguments of this process.

    Exits with 2, after one sentence on standard error, if the program is missing or cannot be
    started.
    """
    program = next(programs(), None)
    if program is None:
        fail(
            f"find the program `{PROGRAM}`, which the wheel of {NAME} installs beside this "
            f"command; install the wheel again: `pip install --force-reinstall {NAME}`"
        )
    # Python ignores these signals, and an ignored signal stays ignored in another program.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(program, [NAME, *sys.argv[1:]])
    except OSError as error:
        fail(f"start {program}: {error.strerror}; install the wheel for this system again")


def programs() -> Iterator[str]:
    """Paths of the program, the preferred one first: of the installation that this module belongs
    to, of this interpreter, of this user. Not on ``PATH``: other programs have this name, too."""
    for folder in folders():
        path = os.path.join(folder, PROGRAM)
        if os.path.isfile(path):
            yield path


def folders() -> Iterator[str]:
    """Folders in which installers put programs."""
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # PREFIX/lib/pythonX.Y/site-packages belongs to PREFIX/bin: virtual environments, --user.
    yield os.path.normpath(os.path.join(packages, "..", "..", "..", "bin"))
    # pip install --target.
    yield os.path.join(packages, "bin")
    # The package may be elsewhere, as in an editable installation.
    import sysconfig

    yield sysconfig.get_path("scripts")
    yield sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))


def fail(what: str) -> NoReturn:
    """Prints an error in the form of the programs, and exits."""
    print(f"error: failed to {what}", file=sys.stderr)
    sys.exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
