"""A Docker engine for the tests: its files in a temporary folder, its bridges and firewall rules in
a network namespace.

It therefore does not interfere with an existing engine or the network of the host: an engine
otherwise sets the policy of forwarded packets to DROP for the whole machine. Published ports are
reachable in that namespace only.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
COMPOSE_FILE = REPOSITORY / "deploy/compose.yaml"
STARTS_WITHIN = 60.0
PROJECT = "imagenet"


class Failed(AssertionError):
    """A command ended with an exit code other than 0; the text has its complete output."""


def why_not() -> str | None:
    """The reason why no engine can run here, or None."""
    missing = [
        each
        for each in ("dockerd", "docker", "docker-compose", "iptables", "ip", "nsenter")
        if not shutil.which(each)
    ]
    if os.geteuid() != 0:
        return "Docker's engine needs root"
    return f"{', '.join(missing)} not installed" if missing else None


def run(*words: str | Path, environment: dict[str, str] | None = None, timeout: float = 300) -> str:
    """The output of a command."""
    ended = subprocess.run(
        [str(word) for word in words],
        env=environment,
        timeout=timeout,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    if ended.returncode != 0:
        raise Failed(
            f"{' '.join(map(str, words))} ended with {ended.returncode}\n"
            f"{ended.stdout}{ended.stderr}"
        )
    return ended.stdout.strip()


def wait_until(what: str, found, within: float = 120.0):
    """The first true value of `found`; a failing command is retried."""
    deadline, last = time.monotonic() + within, None
    while time.monotonic() < deadline:
        try:
            if last := found():
                return last
        except Failed as error:
            last = error
        time.sleep(0.3)
    raise AssertionError(f"not within {within:.0f} s: {what}; last: {last}")


class Engine:
    """A running engine, as a context manager."""

    def __init__(self, variables: dict[str, str]):
        self._variables = variables

    def __enter__(self) -> "Engine":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the cleanup of the engine
        self._folder = Path(tempfile.mkdtemp(prefix="imagenet-docker-"))
        self._space = f"imagenet-docker-{os.getpid()}"
        run("ip", "netns", "add", self._space)
        run("ip", "-n", self._space, "link", "set", "lo", "up")
        socket = f"unix://{self._folder}/socket"
        settings = {"DOCKER_HOST": socket, "DOCKER_BUILDKIT": "0", "COMPOSE_HTTP_TIMEOUT": "600"}
        self.environment = os.environ | settings | self._variables
        self._log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                *self._inside(),
                "dockerd",
                "--host",
                socket,
                "--bridge",
                "none",
                "--data-root",
                self._folder / "data",
                "--exec-root",
                self._folder / "exec",
                "--pidfile",
                self._folder / "pid",
                "--containerd-namespace",
                self._space,
                "--containerd-plugins-namespace",
                f"{self._space}-plugins",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        try:
            wait_until(
                "the engine answers",
                lambda: self._process.poll() is not None or self.docker("version"),
                STARTS_WITHIN,
            )
            if self._process.poll() is not None:
                raise AssertionError(
                    f"the engine ended:\n{(self._folder / 'log').read_text()[-3000:]}"
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)
        self._log.close()
        run("ip", "netns", "del", self._space)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _inside(self) -> list[str]:
        # `ip netns exec` would hide the control groups, which the engine needs.
        return ["nsenter", f"--net=/run/netns/{self._space}"]

    def docker(self, *words: str | Path, **options) -> str:
        """The output of `docker …`."""
        return run("docker", *words, environment=self.environment, **options)

    def compose(self, *words: str, **options) -> str:
        """The output of `docker-compose …` for the unchanged Compose file."""
        return run(
            "docker-compose",
            "--project-name",
            PROJECT,
            "--file",
            COMPOSE_FILE,
            *words,
            environment=self.environment,
            **options,
        )

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, including ended ones, in the order of their names."""
        lines = self.docker(
            "ps",
            "--all",
            "--no-trunc",
            "--format",
            "{{.Names}} {{.ID}}",
            "--filter",
            f"label=com.docker.compose.service={service}",
            "--filter",
            "label=com.docker.compose.oneoff=False",
        ).splitlines()
        return [line.split()[1] for line in sorted(lines)]

    def inspect(self, container: str, what: str) -> str:
        """A field of a container or an image, in Go's template language."""
        return self.docker("inspect", "--format", what, container)

    def fetch(self, url: str) -> str:
        """The response body of a published port."""
        return run(
            *self._inside(), "curl", "--silent", "--show-error", "--fail", "--max-time", "5", url
        )
