"""The two functions: what they download, return and raise."""

import logging
import os
import pickle
from pathlib import Path

import imagenet_downloader
import pytest
from harness import files, run
from imagenet_downloader import (
    CsvError,
    DownloadError,
    Failure,
    OptionError,
    OriginError,
    Stats,
    TargetError,
    download_batch,
    load_part_ids_from_csv,
)
from imagenet_downloader import _native, _options
from origin import Origin

MISSING = "n90000000"


def test_the_snippet_downloads_what_is_there_and_the_next_call_nothing(
    origin: Origin, target: Path, tmp_path: Path
) -> None:
    wnids = [*origin.add_all(11), MISSING]
    origin.classes[wnids[2]].cuts = [1500]
    origin.classes[wnids[5]].statuses = [503]
    csv = tmp_path / "data.csv"
    csv.write_text("wnid,label\n" + "".join(f"{wnid},a label\n" for wnid in wnids))

    part_ids = load_part_ids_from_csv(str(csv))
    assert part_ids == wnids
    stats = download_batch(
        part_ids=part_ids,
        target_path=str(target),
        num_workers=15,
        delete_tar=True,
        url=origin.url,
    )
    assert (stats["success"], stats["failed"]) == (11, 1)
    assert files(target) == {wnid: one.images for wnid, one in origin.classes.items()}
    assert not list(target.glob("*.tar"))
    (failure,) = stats.failures
    assert failure == Failure(MISSING, "HTTPError", failure.reason, 1)
    assert failure.reason.startswith("404 Client Error")
    assert origin.gets(wnids[2]) == 2 and origin.gets(wnids[5]) == 2, "both were tried again"
    assert stats.files == sum(len(one.images) for one in origin.classes.values())

    before = origin.gets()
    again = download_batch(part_ids, target, 15, True, url=origin.url)
    assert dict(again) == {"success": 0, "skipped": 11, "failed": 1, "total": 12}
    assert origin.gets() - before == 1, "only the missing class is requested"
    assert again.files == stats.files


def test_a_tar_is_kept_byte_for_byte_unless_it_is_to_be_deleted(
    origin: Origin, target: Path
) -> None:
    (wnid,) = origin.add_all(1)
    stats = download_batch([wnid], target, url=origin.url)
    assert stats.success == 1
    assert (target / f"{wnid}.tar").read_bytes() == origin.classes[wnid].tar


def test_a_failure_has_the_number_of_requests_for_its_tar(origin: Origin, target: Path) -> None:
    (wnid,) = origin.add_all(1)
    origin.classes[wnid].status = 503
    stats = download_batch(["bad", wnid, wnid], target, retries=1, url=origin.url)
    invalid, failed = stats.failures
    assert (invalid.wnid, invalid.kind, invalid.attempts) == ("bad", "InvalidWnid", 0)
    assert (failed.wnid, failed.attempts) == (wnid, 2)
    assert origin.gets(wnid) == 2
    assert (stats.duplicates, stats.total) == (1, 2)


def test_stats_are_a_mapping_with_attributes_and_survive_a_pickle() -> None:
    failure = Failure(MISSING, "HTTPError", "404", 1)
    stats = Stats(3, 2, 1, (failure,), 4, 50)
    assert list(stats) == ["success", "skipped", "failed", "total"]
    assert dict(stats) == {"success": 3, "skipped": 2, "failed": 1, "total": 6}
    assert {**stats} == dict(stats) and len(stats) == 4
    assert (stats.success, stats.skipped, stats.failed, stats.total) == (3, 2, 1, 6)
    assert stats == dict(stats) and stats != {**stats, "total": 7}
    assert stats.get("files") is None and "total" in stats
    with pytest.raises(KeyError):
        stats["failures"]
    with pytest.raises(AttributeError):
        stats.success = 4  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(stats))
    assert copy == stats and copy.failures == (failure,) and hash(copy) == hash(stats)
    assert copy != Stats(3, 2, 1, (), 4, 50)
    assert eval(repr(stats), {"Stats": Stats, "Failure": Failure}) == stats


def test_rows_of_only_n_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csv = tmp_path / "retry.csv"
    csv.write_text("wnid\nn\nn00000001\nn\n")
    assert load_part_ids_from_csv(csv) == ["n00000001"]
    (message,) = caplog.messages
    assert message.startswith('the class list has 2 rows that hold only "n", left out')
    # Without a handler of the program.
    output, errors = run("print(load_part_ids_from_csv(url))", csv, "")
    assert (output, errors) == ("['n00000001']\n", f"WARN {message}\n")


def test_a_traceback_with_local_variables_does_not_show_the_password_of_the_url() -> None:
    options = _options.checked(
        num_workers=1,
        delete_tar=False,
        url="https://user:password@host/",
        retries=0,
        timeout=1,
        existing="adopt",
        durability="power",
        max_connections=None,
        header_file=None,
        cacert=None,
    )
    assert "password" not in repr(options)
    assert options.url == "https://user:password@host/"


def test_a_csv_that_cannot_be_used_is_a_csv_error(tmp_path: Path) -> None:
    with pytest.raises(CsvError, match="^cannot read .*none.csv: there is no such file"):
        load_part_ids_from_csv(tmp_path / "none.csv")
    other = tmp_path / "other.csv"
    other.write_text("id\nn00000001\n")
    with pytest.raises(CsvError) as raised:
        load_part_ids_from_csv(other)
    assert str(raised.value) == "CSV file must contain 'wnid' column (found: id)"
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, RuntimeError)
    assert type(pickle.loads(pickle.dumps(raised.value))) is CsvError


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_workers": 0}, "cannot download with num_workers = 0: give at least 1"),
        ({"num_workers": -1}, "cannot download with num_workers = -1: give at least 1"),
        ({"num_workers": 1 << 40}, "give at most 4294967295"),
        ({"max_connections": 0}, "cannot download with max_connections = 0: give at least 1"),
        ({"retries": -1}, "cannot download with retries = -1: give at least 0"),
        ({"timeout": 0}, "cannot download with timeout = 0.0: give a number of seconds above 0"),
        ({"timeout": float("nan")}, "timeout = nan"),
        ({"timeout": 10**400}, "timeout = inf"),
        ({"url": "http://\ud800"}, "cannot use url = "),
        ({"existing": "keep"}, 'existing = "keep": give one of "adopt", "replace", "trust"'),
        ({"durability": "disk"}, 'durability = "disk": give one of "power", "process"'),
        ({"url": "ftp://host"}, "cannot use the URL: its scheme is ftp:"),
        ({"header_file": "/none"}, "cannot read /none, given with header_file: No such file"),
        ({"cacert": "/none"}, "cannot read /none, given with cacert: No such file"),
    ],
)
def test_an_option_that_cannot_be_used_is_an_option_error(
    target: Path, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(OptionError) as raised:
        download_batch(["n00000001"], target, **{"url": "http://127.0.0.1:1", **options})  # type: ignore[arg-type]
    assert sentence in str(raised.value)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, DownloadError)
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"part_ids": "n00000001"}, "part_ids must be a list of ids, not one str"),
        ({"part_ids": 7}, "part_ids must be a list of ids, not int"),
        ({"part_ids": ["n00000001", 7]}, "each id of part_ids must be a str, not int: 7"),
        ({"target_path": 7}, "target_path must be a str or a path, not int"),
        ({"num_workers": "10"}, "num_workers must be an int, not str"),
        ({"delete_tar": "false"}, "delete_tar must be a bool, not str"),
        ({"delete_tar": 0}, "delete_tar must be a bool, not int"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not str"),
        ({"timeout": None}, "timeout must be a number of seconds, not NoneType"),
        ({"url": None}, "url must be a str, not NoneType"),
        ({"progress": "yes"}, "progress must be True, False, None or a function, not str"),
    ],
)
def test_a_value_of_another_type_is_a_type_error(
    target: Path, arguments: dict[str, object], sentence: str
) -> None:
    usual: dict[str, object] = {"part_ids": ["n00000001"], "target_path": target}
    with pytest.raises(TypeError, match=f"^{sentence}"):
        download_batch(**{**usual, **arguments})  # type: ignore[arg-type]


def test_a_header_file_is_sent_and_its_secret_is_in_no_message(
    origin: Origin, target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "imagenet_downloader")
    headers = tmp_path / "headers"
    (wnid,) = origin.add_all(1)
    headers.write_text("Cookie: session=hushed\n")
    stats = download_batch([wnid], target, url=origin.url, header_file=headers, progress=False)
    assert stats.success == 1
    assert origin.requests
    assert origin.cookies == ["session=hushed"] * len(origin.requests)
    assert caplog.messages
    assert "hushed" not in caplog.text
    headers.write_text("Cookie: session=hushed\nhushed\n")
    with pytest.raises(OptionError, match="line 2 is not of the form") as raised:
        download_batch(["n00000001"], target, url=origin.url, header_file=headers)
    assert "hushed" not in str(raised.value).replace(str(headers), "")


def test_a_target_that_cannot_be_used_is_a_target_error(tmp_path: Path, origin: Origin) -> None:
    (wnid,) = origin.add_all(1)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(TargetError) as raised:
        download_batch([wnid], tmp_path / "file", url=origin.url)
    assert str(raised.value).startswith("cannot make a folder in the target folder")
    assert str(raised.value).endswith("(give a folder with target_path)")
    assert isinstance(raised.value, DownloadError)
    assert origin.gets() == 0


def test_an_origin_that_refuses_every_class_is_an_origin_error_that_names_the_parameter(
    origin: Origin, target: Path
) -> None:
    wnids = origin.add_all(30)
    for status, advice in (
        (404, "There is nothing under these URLs: check the path in url."),
        (403, "Check url, and give a login in header_file if the origin needs one."),
    ):
        origin.status = status
        with pytest.raises(OriginError, match=f"^cannot get any class from {origin.url}") as raised:
            download_batch(wnids, target, url=origin.url, progress=False)
        assert advice in str(raised.value)
        assert "Options::" not in str(raised.value)


def test_an_empty_list_is_a_batch_without_classes(origin: Origin, target: Path) -> None:
    assert dict(download_batch([], target, url=origin.url)) == {
        "success": 0,
        "skipped": 0,
        "failed": 0,
        "total": 0,
    }


def test_constants_are_those_of_the_program() -> None:
    assert imagenet_downloader.DEFAULT_URL == _native.DEFAULT_URL
    assert imagenet_downloader.__version__ == _native.VERSION
    missing = [
        name for name in imagenet_downloader.__all__ if not hasattr(imagenet_downloader, name)
    ]
    assert missing == []
    assert os.path.exists(os.path.join(os.path.dirname(imagenet_downloader.__file__), "py.typed"))
