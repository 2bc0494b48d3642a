"""Runs a command and prints its cost as JSON. Started with `python3 -I -S launch.py SYNC COMMAND…`.

A separate process that loads few modules: the peak memory of a child starts at that of its parent.
SYNC is a folder whose file system is synced within the measured time, or empty. The output of the
command goes to standard error.
"""

import json
import os
import sys
import time


def wait(pid: int):
    """The exit code of a child, and its resource usage with that of the descendants it waited
    for."""
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage


def main() -> None:
    folder, command = sys.argv[1], sys.argv[2:]
    begin = time.perf_counter()
    to_errors = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    code, usage = wait(os.posix_spawnp(command[0], command, os.environ, file_actions=to_errors))
    cpu = usage.ru_utime + usage.ru_stime
    if folder and code == 0:
        code, sync = wait(
            os.posix_spawnp("sync", ["sync", "-f", folder], os.environ, file_actions=to_errors)
        )
        cpu += sync.ru_utime + sync.ru_stime
    wall = time.perf_counter() - begin
    print(json.dumps({"code": code, "wall": wall, "cpu": cpu, "largest": usage.ru_maxrss * 1024}))


main()
