"""The three programs of the wheel, however it was installed."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))
SYSTEM_PYTHON = Path(sys.executable).resolve()
"""The interpreter behind the virtual environment."""
PROGRAMS = ("coordinator", "worker", "imagenet-downloader")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel, which ``python/build-wheel`` leaves there."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
    wheels = list((target / "wheels").glob("*.whl"))
    if len(wheels) != 1:
        pytest.skip("there is no wheel: python/build-wheel")
    return wheels[0]


def run(
    *command: str | Path, code: int = 0, **environment: str | Path
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    ended = subprocess.run(
        command, env=variables | environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == code, (command, ended.stdout, ended.stderr)
    return ended


def says_its_version(*command: str | Path, **environment: str | Path) -> None:
    said = run(*command, "--version", **environment).stdout
    assert said.split()[:1] == ["imagenet-downloader"], said


def test_the_wheel_installs_three_programs_of_the_same_version():
    said = {name: run(SCRIPTS / name, "--version").stdout.split(maxsplit=1) for name in PROGRAMS}
    assert {name: words[0] for name, words in said.items()} == {name: name for name in PROGRAMS}
    assert len({words[1] for words in said.values()}) == 1, said


def test_usage_lines_have_the_name_that_was_typed():
    program = SCRIPTS / "imagenet-downloader"
    assert "Usage: imagenet-downloader [OPTIONS]" in run(program, "--help").stdout
    assert "Usage: imagenet-downloader [OPTIONS]" in run(program, "--wrong", code=2).stderr
    status = run(program, "status", "--help").stdout
    assert "Usage: imagenet-downloader status" in status


def test_subcommands_work_under_the_name(tmp_path: Path):
    program = SCRIPTS / "imagenet-downloader"
    ended = run(program, "status", "--target", tmp_path, code=2)
    assert "error: failed to" in ended.stderr and not list(tmp_path.iterdir())
    completions = run(program, "completions", "bash").stdout
    assert (
        "imagenet-downloader" in completions.splitlines()[-1]
        or "imagenet-downloader" in (completions.splitlines()[-2])
    )


def test_the_demo_runs_on_one_machine(tmp_path: Path):
    demo = run(SCRIPTS / "imagenet-downloader", "--demo", "--target", tmp_path, code=1)
    assert "Success: 12" in demo.stdout and "Failed:  1" in demo.stdout, demo.stdout


def test_the_module_is_the_same_program_and_starts_without_the_native_part():
    says_its_version(sys.executable, "-m", "imagenet_downloader")
    loaded = run(
        sys.executable,
        "-c",
        "import sys, imagenet_downloader.__main__; print(*sys.modules)",
    ).stdout.split()
    assert "imagenet_downloader._native" not in loaded


def test_it_works_through_a_symbolic_link(tmp_path: Path):
    link = tmp_path / "imagenet-downloader"
    link.symlink_to(SCRIPTS / "imagenet-downloader")
    says_its_version(link)


def pip(*arguments: str | Path, **environment: str | Path) -> None:
    python = sys.executable
    options = ("--no-index", "--no-deps", "--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", *arguments[:1], *options, *arguments[1:], **environment)


def test_it_works_in_a_target_folder_and_says_if_the_program_is_missing(
    wheel: Path, tmp_path: Path
):
    pip("install", "--target", tmp_path, wheel)
    # -S: without the packages of this environment.
    module = (SYSTEM_PYTHON, "-S", "-m", "imagenet_downloader")
    says_its_version(*module, PYTHONPATH=tmp_path)
    says_its_version(tmp_path / "bin/imagenet-downloader", PYTHONPATH=tmp_path)

    (tmp_path / "bin/coordinator").chmod(0o644)
    ended = run(*module, "--version", code=2, PYTHONPATH=tmp_path)
    assert ended.stderr.startswith(f"error: failed to start {tmp_path}/bin/coordinator: Permission")
    assert len(ended.stderr.splitlines()) == 1

    (tmp_path / "bin/coordinator").unlink()
    ended = run(*module, "--version", code=2, PYTHONPATH=tmp_path, HOME=tmp_path)
    assert ended.stderr.startswith("error: failed to find the program `coordinator`, which")
    assert len(ended.stderr.splitlines()) == 1


def test_it_works_for_a_user_of_the_systems_python(wheel: Path, tmp_path: Path):
    python = SYSTEM_PYTHON
    options = ("--quiet", "--no-index", "--no-deps", "--break-system-packages")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--user", *options)
    run(*pip, wheel, PYTHONUSERBASE=tmp_path)
    says_its_version(tmp_path / "bin/imagenet-downloader", PYTHONUSERBASE=tmp_path)


def test_uv_runs_it_in_an_environment_of_its_own(wheel: Path, tmp_path: Path):
    uv = (SCRIPTS / "uv", "--offline", "--quiet", "--cache-dir", tmp_path / "cache")
    python = ("--python", SYSTEM_PYTHON)
    says_its_version(*uv, "run", "--no-project", *python, "--with", wheel, "imagenet-downloader")
    says_its_version(*uv, "tool", "run", *python, "--from", wheel, "imagenet-downloader")


def test_the_wheel_has_licences_and_notices_and_no_path_of_the_build(wheel: Path):
    root = Path(__file__).parents[2]
    cargo = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    places = [cargo.encode(), str(root).encode(), str(wheel.parents[1]).encode()]
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    named = {path.rpartition("/")[2]: content for path, content in contents.items()}
    assert named["LICENSE"] == (root / "LICENSE").read_bytes()
    notices = root / "deploy/notices/THIRD-PARTY-NOTICES.txt"
    assert named["THIRD-PARTY-NOTICES.txt"] == notices.read_bytes()
    for path, content in contents.items():
        assert [place for place in places if place in content] == [], path
    assert any(path.endswith("/_native.abi3.so") for path in contents)
    assert wheel.stat().st_size <= 25_000_000
