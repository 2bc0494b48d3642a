"""Pods without a cluster: emulates the work of a kubelet with kernel features, so that commands run
unchanged.

Each pod has a network namespace with an address, a host name, its process as PID 1, a read-only
root that contains only the programs, and its volumes; user, groups, variables and arguments are
those of the pod. Services are lines of `/etc/hosts`. If the variable IMAGE names the folder with
the files of the image, as `deploy/static-build` creates it, the root is that of the image;
otherwise it contains the programs of the debug build and the libraries that they need. Not
emulated: scheduling, admission, binding of claims, resources, policies.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from chart import NAMESPACE
from programs import program
from volumes import Volumes

LIBRARIES = [Path("/lib"), Path("/lib64"), Path("/usr/lib")]
BRIDGE = "10.77.0.254"
SETUP = r"""
set -e
mount --make-rprivate /
mount -t tmpfs pod "$ROOT"
cd "$ROOT"
mkdir -p proc dev etc
for device in null zero random urandom; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mount -t proc proc proc
cp "$HOSTS" etc/hosts
if [ -n "$IMAGE" ]; then
  cp -r "$IMAGE/." .
else
  mkdir -p usr/lib usr/local/bin lib lib64 etc/ssl/certs
  for library in $LIBRARIES; do mount --rbind "$library" ".$library"; done
  for program in $PROGRAMS; do
    touch "usr/local/bin/${program##*/}"
    mount --bind "$program" "usr/local/bin/${program##*/}"
  done
  cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
fi
while read -r from to mode; do
  mkdir -p ".$to"
  mount --bind "$from" ".$to"
  mount -o "remount,bind,$mode" ".$to"
done < "$MOUNTS"
mount -o remount,ro "$ROOT"
hostname "$POD"
cd /
exec setpriv --no-new-privs chroot --userspec="$USER_AND_GROUP" --groups="$GROUPS_TOO" "$ROOT" "$@"
"""


def skip_unless_possible() -> None:
    if os.geteuid() != 0 or any(
        shutil.which(tool) is None for tool in ("ip", "unshare", "setpriv", "curl")
    ):
        raise unittest.SkipTest("pods need root, iproute2, util-linux and curl")
    program("coordinator"), program("worker"), program("origin")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def children(process: subprocess.Popen) -> list[int]:
    """Process ids of the children; empty after its end."""
    if process.poll() is not None:
        return []
    return [
        int(child)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


class Pod:
    """A pod that runs or has ended."""

    def __init__(self, name: str, address: str, process: subprocess.Popen, log: Path):
        self.name, self.address, self.process, self.log = name, address, process, log

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the program itself, as a kubelet does."""
        for child in children(self.process):
            os.kill(child, number)

    def wait(self, seconds: float = 180) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.output()[-3000:]}") from None

    def stop(self, seconds: float) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait_until(self, words: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.output():
            if not self.is_running() or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} never says {words!r}:\n{self.output()[-3000:]}")
            time.sleep(0.05)


class Cluster:
    """Hosts on a bridge in a namespace of its own, the applied objects, and the content of the
    claims."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="imagenet-cluster-"))
        self.space = f"imagenet-{os.getpid()}-{self.folder.name[-8:]}"
        self.spaces: dict[str, str] = {}
        self.running: list[subprocess.Popen] = []
        self.objects: dict[tuple[str, str], dict] = {}
        self.count = 0
        self.volumes = Volumes(self.folder)
        os.chmod(self.folder, 0o755)
        ip("netns", "add", self.space)
        ip("-n", self.space, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.space, "addr", "add", f"{BRIDGE}/24", "dev", "bridge")
        for device in ("lo", "bridge"):
            ip("-n", self.space, "link", "set", device, "up")

    def close(self) -> None:
        for process in self.running:
            # A program that changes its user loses the signal that --kill-child gives it.
            for child in children(process):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        for space in [*self.spaces.values(), self.space]:
            subprocess.run(["ip", "netns", "delete", space], check=False)
        shutil.rmtree(self.folder)

    def apply(self, objects: list[dict], keep: tuple[str, ...] = ()) -> None:
        """Applies objects as an upgrade does; objects of the kinds in `keep` stay as they are in
        the cluster."""
        kept = {key: found for key, found in self.objects.items() if key[0] in keep}
        self.objects = {
            (found["kind"], found["metadata"]["name"]): found for found in objects
        } | kept
        self.volumes.objects = self.objects

    def command(self, words: list[str]) -> str:
        """Runs a command on the node, as a kubelet or Prometheus does."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.space, *map(str, words)], capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def origin(self, tars: Path, rate: int = 0) -> str:
        """Serves tars; `rate` is in bytes per second and connection, 0: unlimited. Returns the
        URL."""
        words = [
            "ip",
            "netns",
            "exec",
            self.space,
            program("origin"),
            "--dir",
            tars,
            "--listen",
            f"{BRIDGE}:0",
            "--rate",
            str(rate),
        ]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        return process.stdout.readline().strip()

    def address(self, name: str) -> str:
        """The address of a pod, which stays the same after a restart."""
        if name not in self.spaces:
            number = len(self.spaces) + 1
            space = f"{self.space}-{number}"
            self.spaces[name] = space
            ip("netns", "add", space)
            ip(
                "-n",
                self.space,
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
            ip("-n", self.space, "link", "set", f"to{number}", "master", "bridge", "up")
            ip("-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", space, "link", "set", device, "up")
        return f"10.77.0.{list(self.spaces).index(name) + 1}"

    def run(self, name: str, pod: dict, command: list[str] | None = None) -> Pod:
        """Starts a pod, or with a command another process in a pod like it, as `kubectl exec`
        does."""
        self.count += 1
        home = self.folder / f"{self.count}-{name}"
        (home / "root").mkdir(parents=True)
        [container] = pod["spec"]["containers"]
        security = pod["spec"]["securityContext"]
        group = security["fsGroup"]
        (home / "mounts").write_text(
            "".join(self.volumes.mounts(name, pod["spec"], home / "volumes"))
        )
        (home / "hosts").write_text(
            f"127.0.0.1 localhost\n{self.address(name)} {name}\n" + self.services()
        )
        environment = {
            "PATH": os.environ["PATH"],
            "ROOT": str(home / "root"),
            "IMAGE": os.environ.get("IMAGE", ""),
            "LIBRARIES": " ".join(str(path) for path in LIBRARIES if path.exists()),
            "PROGRAMS": " ".join(str(program(one)) for one in ("coordinator", "worker")),
            "HOSTS": str(home / "hosts"),
            "MOUNTS": str(home / "mounts"),
            "POD": name,
            "USER_AND_GROUP": f"{security['runAsUser']}:{security['runAsGroup']}",
            "GROUPS_TOO": ",".join(
                str(one) for one in [group, *security.get("supplementalGroups", [])]
            ),
        }
        environment |= {
            variable["name"]: variable["value"] for variable in container.get("env", [])
        }
        words = command or [*container["command"], *container["args"]]
        unshare = "unshare --mount --uts --pid --fork --kill-child"
        enter = f"ip netns exec {self.spaces[name]} {unshare}".split()
        with open(home / "output", "wb") as output:
            process = subprocess.Popen(
                [*enter, "sh", "-c", SETUP, "sh", *words],
                env=environment,
                stdout=output,
                stderr=output,
            )
        self.running.append(process)
        return Pod(name, self.address(name), process, home / "output")

    def services(self) -> str:
        """Every Service resolves to the coordinator; other selectors are tested on the rendered
        objects."""
        lines = []
        for kind, name in list(self.objects):
            if kind == "Service":
                pod = f"{name.removesuffix('-headless')}-coordinator-0"
                lines.append(f"{self.address(pod)} {name} {name}.{NAMESPACE}.svc\n")
        return "".join(lines)
