"""In the kernel of a notebook and in IPython on a terminal; the example notebook is in `test_examples`."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
from harness import DEADLINE, assert_complete_or_absent, checkpoints, wait_until
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from origin import Origin

COUNTS = "{'success': 12, 'skipped': 0, 'failed': 0, 'total': 12}"
AGAIN = "{'success': 0, 'skipped': 12, 'failed': 0, 'total': 12}"


def setup(origin: Origin, target: Path) -> str:
    return textwrap.dedent(
        f"""
        from imagenet_downloader import download_batch, download_batch_async
        wnids = {list(origin.classes)}
        options = {{"target_path": {str(target)!r}, "url": {origin.url!r}, "delete_tar": True}}
        """
    )


def test_a_notebook_without_tqdm_shows_lines(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    cells = [
        # An import of this module now fails.
        "import sys; sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None",
        setup(origin, target),
        "dict(download_batch(wnids, **options))",
        "dict(await download_batch_async(wnids, **options))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=int(DEADLINE), kernel_name="python3").execute()
    for cell, counts in zip(notebook.cells[2:], (COUNTS, AGAIN), strict=True):
        # A stream may be cut into several outputs.
        *lines, result = cell.outputs
        assert {line.name for line in lines} == {"stderr"}
        text = "".join(line.text for line in lines)
        assert "of 12 classes, in " in text
        assert "\r" not in text and "\x1b" not in text
        assert result.data["text/plain"] == counts
    assert assert_complete_or_absent(target, origin) == 12


def test_an_interrupted_kernel_has_checkpoints_and_continues(origin: Origin, target: Path) -> None:
    for wnid in origin.add_all(12, size=100_000):
        origin.classes[wnid].holds_at = 150_000
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=DEADLINE)
    try:
        client.execute_interactive(setup(origin, target), timeout=DEADLINE)
        call = "stats = download_batch(wnids, num_workers=4, **options)"
        asked = client.execute(call)
        wait_until("four held bodies", lambda: origin.bytes_sent == 4 * 150_000)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=DEADLINE))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert assert_complete_or_absent(target, origin) == 0
        assert checkpoints(target)
        origin.release()
        reply = client.execute_interactive(call, timeout=DEADLINE, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", reply["content"]
        assert assert_complete_or_absent(target, origin) == 12
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_ipython_runs_both_functions(origin: Origin, target: Path, tmp_path: Path) -> None:
    origin.add_all(12)
    cell = setup(origin, target) + (
        "print(dict(download_batch(wnids, **options)))\n"
        "print(dict(await download_batch_async(wnids, **options)))\n"
    )
    command = [sys.executable, "-m", "IPython", "--quick", "--colors=nocolor", "-c", cell]
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{COUNTS}\n{AGAIN}\n"
    assert ran.stderr.count("of 12 classes, in ") == 2
    assert assert_complete_or_absent(target, origin) == 12
