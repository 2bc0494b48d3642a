"""Pools of forked processes beside a batch, as the workers of a data loader."""

from pathlib import Path

from harness import run
from origin import Origin

POOLS = """
    import multiprocessing, os, warnings
    # Python 3.12 warns of each fork beside threads.
    warnings.simplefilter("ignore", DeprecationWarning)
    fork = multiprocessing.get_context("fork")
    def load(number):
        # As a dataset that reads the images of its part, and downloads nothing.
        return sum(len(os.listdir(f"{target}/{wnid}")) for wnid in wnids[number::2])
    def attempt(number):
        try:
            return dict(download_batch(wnids, f"{target}_{number}", url=url, progress=False))
        except ForkError as error:
            return type(error).__name__
"""


def test_pools_before_and_after_a_batch_load_and_end(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    output, errors = run(
        POOLS
        + """
    before = fork.Pool(2)
    before.map(abs, range(4))
    print(dict(download()))
    after = fork.Pool(2)
    print(sum(before.map(load, range(2))) >= 36, sum(after.map(load, range(2))) >= 36)
    print([one["success"] for one in before.map(attempt, ["a", "b"], chunksize=1)])
    print(after.map(attempt, ["c", "d"], chunksize=1))
    for pool in before, after:
        pool.close()
        pool.join()
    print(download().skipped)
""",
        origin.url,
        target,
    )
    assert output.splitlines() == [
        "{'success': 12, 'skipped': 0, 'failed': 0, 'total': 12}",
        "True True",
        "[12, 12]",
        "['ForkError', 'ForkError']",
        "12",
    ], errors


def test_an_error_of_a_forked_process_reaches_its_parent(origin: Origin, target: Path) -> None:
    origin.add_all(12)
    output, _ = run(
        POOLS
        + """
    download()
    with fork.Pool(1) as pool:
        try:
            pool.apply(download)
        except ForkError as error:
            print(error)
""",
        origin.url,
        target,
    )
    assert output.startswith("this process was made by fork()")
    assert 'start method "spawn"' in output
