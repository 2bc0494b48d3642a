"""A Linux in QEMU that runs one script: its initramfs, its disk, and its console output."""

import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

NEEDS = ("qemu-system-x86_64", "busybox", "cpio", "mke2fs", "depmod", "modprobe", "apt-get", "dpkg")
MODULES = ("virtio_blk", "virtio_pci", "ext4", "nfsd", "nfs", "nfsv3", "nfsv4")
DAEMONS = ("exportfs", "rpc.nfsd", "rpc.mountd", "rpc.statd", "mount.nfs", "rpcbind")
# init.sh ends with this line and the story's exit code.
END = re.compile(r"story ended: (\d+)")
SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|c)")

FOLDERS = (
    "bin",
    "sbin",
    "lib64",
    "lib/x86_64-linux-gnu",
    "etc",
    "proc",
    "sys",
    "dev",
    "tmp",
    "run",
    "export",
    "mnt/a",
    "mnt/b",
    "modules",
    "var/lib/nfs/v4recovery",
    "var/lib/nfs/rpc_pipefs",
    "var/lib/nfs/sm",
)
ETC = {
    "passwd": "root:x:0:0::/:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n"
    "statd:x:100:65534::/:/bin/false\n"
    "_rpc:x:101:65534::/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost guest\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n"
    "services: files\nrpc: files\nprotocols: files\n",
    "exports": "/export 127.0.0.1(rw,no_root_squash,sync,no_subtree_check,fsid=0)\n",
}


def why_not() -> str | None:
    """The reason why the guest cannot run here, or None."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the story on NFS needs Linux on x86-64"
    missing = ", ".join(each for each in NEEDS if not shutil.which(each))
    return f"the story on NFS needs {missing} (.ci/run installs them as root)" if missing else None


def verdict(console: str) -> bool:
    """Whether the story finished and all its checks passed."""
    ends = END.findall(console)
    return ends == ["0"] and "WRONG:" not in console


class Guest:
    """The files of a guest; `run` boots it."""

    def __init__(self, folder: Path, packages: Path):
        self._folder, self._packages = folder, packages
        self._root = folder / "root"
        for name in FOLDERS:
            self.path(name).mkdir(parents=True)
        # rpc.statd drops root privileges and reads here afterwards.
        self._root.chmod(0o755)
        self.add(Path(shutil.which("busybox")), "bin/busybox")
        for daemon in DAEMONS:
            found = sorted(packages.glob(f"**/sbin/{daemon}"))
            self.add(found[0], f"sbin/{daemon}")
        for name, text in ETC.items():
            self.path(f"etc/{name}").write_text(text)
        self._add_names()
        self._add_modules()
        self.add(Path(__file__).with_name("init.sh"), "init")
        self.path("init").chmod(0o755)

    def path(self, name: str) -> Path:
        """The path of a guest file during preparation."""
        return self._root / name

    def add(self, file: Path, name: str) -> None:
        """Adds a file to the guest, and the libraries that it is linked to."""
        shutil.copy(file, self.path(name))
        # ldd fails for static programs.
        listed = subprocess.run(
            ["ldd", file],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LD_LIBRARY_PATH": self._libraries()},
        )
        for library in map(Path, re.findall(r"/\S+\.so\S*", listed.stdout)):
            folder = "lib64" if library.name.startswith("ld-linux") else "lib/x86_64-linux-gnu"
            target = self.path(folder) / library.name
            if not target.exists():
                shutil.copy(library, target)

    def run(self, variables: dict[str, str], limit: float) -> bool:
        """Boots, prints the console output and returns whether the story passed. The guest receives
        the variables."""
        exports = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
        self.path("variables").write_text(exports)
        kernel = next((self._packages / "boot").glob("vmlinuz-*"))
        machine = [
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-m",
            "2048",
            "-smp",
            "2",
            "-net",
            "none",
            "-nographic",
            "-no-reboot",
            "-kernel",
            kernel,
            "-initrd",
            self._initramfs(),
            "-append",
            "console=ttyS0 quiet panic=-1",
            "-drive",
            f"file={self._disk()},format=raw,if=virtio,cache=unsafe",
        ]
        return verdict(_console(["qemu-system-x86_64", *map(str, machine)], limit))

    def _initramfs(self) -> Path:
        archive = self._folder / "initramfs"
        paths = sorted(self._root.rglob("*"))
        names = "\0".join(str(path.relative_to(self._root)) for path in paths)
        pack = ["cpio", "--create", "--null", "--format=newc", "--quiet", "--owner=0:0"]
        with open(archive, "wb") as packed:
            subprocess.run(pack, input=names.encode(), stdout=packed, cwd=self._root, check=True)
        return archive

    def _disk(self) -> Path:
        """An empty disk for the export of the guest's NFS server."""
        disk = self._folder / "disk"
        with open(disk, "wb") as image:
            image.truncate(1 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", disk], check=True)
        return disk

    def _libraries(self) -> str:
        return ":".join(sorted({str(path.parent) for path in self._packages.rglob("*.so*")}))

    def _add_names(self) -> None:
        """Names of services and protocols, for the C library in the guest."""
        host = [Path("/etc") / name for name in ("services", "protocols", "rpc")]
        for file in (self._packages / "etc/netconfig", *host):
            if file.exists():
                shutil.copy(file, self.path("etc"))
        for file in Path("/lib/x86_64-linux-gnu").glob("libnss_files.so.*"):
            shutil.copy(file, self.path("lib/x86_64-linux-gnu"))

    def _add_modules(self) -> None:
        """The kernel modules, numbered in load order."""
        version = next((self._packages / "lib/modules").iterdir()).name
        loaded: list[str] = []
        for module in MODULES:
            find = ["modprobe", "--dirname", self._packages, "--set-version", version]
            shown = subprocess.check_output([*find, "--show-depends", module], text=True)
            loaded += [line.split()[1] for line in shown.splitlines() if line.startswith("insmod")]
        for number, file in enumerate(dict.fromkeys(loaded)):
            shutil.copy(file, self.path(f"modules/{number:03}-{Path(file).name}"))


def _console(command: list[str], limit: float) -> str:
    """The output of QEMU, printed line by line; QEMU is killed after the limit."""
    lines = []
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, **streams) as qemu:
        clock = threading.Timer(limit, qemu.kill)
        clock.start()
        for line in qemu.stdout:
            # The firmware prints terminal control sequences.
            text = SEQUENCE.sub("", line.decode(errors="replace")).strip("\r\n")
            lines.append(text)
            print(f"  {text}", flush=True)
        expired = not clock.is_alive()
        clock.cancel()
    if expired:
        print(f"  the guest was ended after {limit:.0f} s", file=sys.stderr)
    return "\n".join(lines)
