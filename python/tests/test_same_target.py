"""Several calls for one target."""

from pathlib import Path

from harness import DEADLINE, assert_complete_or_absent, run, start
from origin import Origin

PRINT = "print(dict(download()), flush=True)"


def test_processes_that_start_the_same_call_download_each_class_once(
    origin: Origin, target: Path
) -> None:
    origin.add_all(12, size=50_000)
    origin.rate = 400_000
    processes = [start(PRINT, origin.url, target) for _ in range(3)]
    outputs = [process.communicate(timeout=DEADLINE) for process in processes]
    assert [errors for _, errors in outputs] == ["", "", ""]
    first, *others = sorted(output for output, _ in outputs)
    assert first == "{'success': 0, 'skipped': 12, 'failed': 0, 'total': 12}\n"
    assert others == [first, "{'success': 12, 'skipped': 0, 'failed': 0, 'total': 12}\n"]
    assert assert_complete_or_absent(target, origin) == 12
    gets = [wnid for method, wnid, _ in origin.requests if method == "GET"]
    assert len(gets) == len(set(gets)) == 12


def test_two_threads_with_lists_that_overlap_share_a_target(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    script = """
        results = {}
        def work(name, ids):
            results[name] = dict(download_batch(ids, target, url=url, progress=False))
        both = [
            threading.Thread(target=work, args=("one", wnids[:8])),
            threading.Thread(target=work, args=("two", wnids[4:])),
        ]
        [one.start() for one in both]
        [one.join() for one in both]
        print(sum(one["success"] for one in results.values()))
        print(sum(one["skipped"] for one in results.values()))
        print(sum(one["failed"] for one in results.values()))
    """
    output, _ = run(script, origin.url, target)
    assert output.split() == ["12", "4", "0"]
    assert assert_complete_or_absent(target, origin) == 12
