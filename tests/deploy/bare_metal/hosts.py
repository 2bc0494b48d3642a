"""Hosts on one machine: a network namespace each, connected by a bridge in a namespace of its own.
Nodes also have all other kinds of namespaces, a file system in memory, and systemd as PID 1."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from sshd import Sshd

SECONDS_TO_BOOT = 180
SECONDS_FOR_A_BLOCK = 3600
STRICT = ["bash", "-euo", "pipefail", "-c"]
HERE = Path(__file__).resolve().parent


class HostError(Exception):
    """A host cannot be created, or a command on it fails."""


def must(*command: str | Path) -> str:
    """Returns the output of a command."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HostError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """A bridge and the hosts connected to it; a context manager that removes all of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = f"imagenet-{os.getpid()}"
        self.names: dict[str, str] = {}
        self._spaces: list[str] = []

    def __enter__(self) -> "Network":
        self._add(self.name)
        must("ip", "-n", self.name, "link", "add", "bridge", "type", "bridge")
        must("ip", "-n", self.name, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)

    def _add(self, space: str) -> None:
        must("ip", "netns", "add", space)
        self._spaces.append(space)

    def plug_in(self, name: str) -> str:
        """Creates a network namespace that other hosts reach by this name."""
        number = len(self.names) + 1
        # A public address, like that of ImageNet's server: a worker connects to a private one only
        # with a flag.
        space, address = f"{self.name}-{number}", f"203.0.113.{number}"
        self._add(space)
        must(
            "ip",
            "-n",
            self.name,
            "link",
            "add",
            f"to{number}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        must("ip", "-n", self.name, "link", "set", f"to{number}", "master", "bridge", "up")
        must("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            must("ip", "-n", space, "link", "set", device, "up")
        self.names[name] = address
        return space

    def etc_hosts(self) -> str:
        """The `/etc/hosts` of all hosts."""
        return "".join(
            f"{address} {name}\n"
            for name, address in {"localhost": "127.0.0.1", **self.names}.items()
        )


class Host:
    """A host on which blocks run."""

    def __init__(self, name: str, enter: list[str | Path], environment: dict[str, str]):
        self.name = name
        self._enter = enter
        self._environment = environment

    def run(
        self, commands: str, seconds: float = SECONDS_FOR_A_BLOCK
    ) -> subprocess.CompletedProcess[str]:
        """Runs commands in a shell that stops at the first failing command; the output includes
        standard error."""
        try:
            return subprocess.run(
                [*self._enter, *STRICT, commands],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            output = (error.output or b"").decode(errors="replace")
            raise HostError(
                f"on {self.name}, after {seconds:.0f}s still running: {commands}\n{output}"
            ) from error

    def must(self, commands: str) -> str:
        """Returns the output of the commands; raises an error if they fail."""
        done = self.run(commands)
        if done.returncode:
            raise HostError(
                f"on {self.name}, exit code {done.returncode}: {commands}\n{done.stdout}"
            )
        return done.stdout.strip()


class Node(Host):
    """A host with systemd; a context manager that kills it."""

    def __init__(self, network: Network, name: str, sshd: Sshd, authorities: Path):
        self._space = network.plug_in(name)
        self._folder = network.folder / name
        self._lower = [*map(str, sshd.usr), "/usr"]
        self._cgroup = cgroups() / self._space
        self._files(sshd, authorities)
        super().__init__(
            name,
            [],
            {
                "HOME": "/root",
                "USER": "root",
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            },
        )

    def _files(self, sshd: Sshd, authorities: Path) -> None:
        (self._folder / "root").mkdir(parents=True)
        etc = self._folder / "files/etc"
        for name in ("ssl/certs", "systemd/system/multi-user.target.wants"):
            (etc / name).mkdir(parents=True)
        shutil.copy(authorities, etc / "ssl/certs/ca-certificates.crt")
        (etc / "passwd").write_text(
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        )
        (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
        (etc / "shadow").write_text("root:*:20000::::::\nsshd:*:20000::::::\n")
        (etc / "nsswitch.conf").write_text("hosts: files\n")
        sshd.configure(etc)

    def boot(self, network: Network) -> None:
        """Boots it and waits until all units are started."""
        (self._folder / "files/etc/hosts").write_text(network.etc_hosts())
        self._cgroup.mkdir()
        namespaces = [
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ]
        with (self._folder / "console").open("wb") as console:
            self._outside = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    self._space,
                    "unshare",
                    *namespaces,
                    HERE / "host.sh",
                    self.name,
                    self._folder,
                    *self._lower,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=lambda: (self._cgroup / "cgroup.procs").write_text(str(os.getpid())),
            )
        until = time.monotonic() + SECONDS_TO_BOOT
        while True:
            children = (
                Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children")
                .read_text()
                .split()
            )
            self._first = children[0] if children else ""
            self._enter = ["nsenter", "--target", self._first, "--all", "--wdns=/root", "--"]
            state = (
                self.run("systemctl is-system-running; systemctl is-active sshd").stdout
                if children
                else ""
            )
            if state in ("running\nactive\n", "degraded\nactive\n"):
                return
            if time.monotonic() > until or self._outside.poll() is not None:
                raise HostError(f"{self.name} does not boot: {state}\n{self._console()}")
            time.sleep(0.1)

    def outside(self, path: str) -> Path:
        """A path on this host, as seen from the machine."""
        return Path(f"/proc/{self._first}/root{path}")

    def _console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")[-5000:]

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_outside"):
            # The kill of PID 1 ends all processes in its namespaces.
            self._outside.send_signal(signal.SIGKILL)
            self._outside.wait()
        until = time.monotonic() + 10
        while self._cgroup.exists() and time.monotonic() < until:
            for folder, _, _ in os.walk(self._cgroup, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError:
                    time.sleep(0.05)


def cgroups() -> Path:
    """The mount point of the unified control group hierarchy."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(path)
    raise HostError("the unified hierarchy of cgroups is not mounted")
