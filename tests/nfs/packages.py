"""The guest's kernel and NFS programs: Debian packages, unpacked and not installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# The kernel for virtual machines is a third of the size of the standard one.
KERNEL = "linux-image-cloud-amd64"
# The NFS programs, and the libraries that the machine may not have.
NFS = (
    "nfs-kernel-server",
    "nfs-common",
    "rpcbind",
    "libtirpc3",
    "libtirpc-common",
    "libevent-core-2.1-7",
    "libnfsidmap1",
    "libkeyutils1",
    "libwrap0",
    "libcap2",
    "libsqlite3-0",
    "libblkid1",
    "libmount1",
    "libuuid1",
    "libselinux1",
    "libnsl2",
)


def fetch(folder: Path) -> Path:
    """The folder with the unpacked packages; downloads them if it does not exist."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
    depends = subprocess.check_output(["apt-cache", "depends", KERNEL], text=True).splitlines()
    kernel = next(line.split()[1] for line in depends if "Depends: linux-image" in line)
    with tempfile.TemporaryDirectory(dir=folder.parent) as debs:
        # Without apt's own user, which may have no access to the folder.
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download"]
        subprocess.run([*download, kernel, *NFS], cwd=debs, check=True)
        unpacked = Path(debs) / "unpacked"
        for deb in sorted(Path(debs).glob("*.deb")):
            subprocess.run(["dpkg", "-x", deb, unpacked], check=True)
        version = next((unpacked / "lib/modules").iterdir()).name
        subprocess.run(["depmod", "--basedir", unpacked, version], check=True)
        # Renamed only when it is complete.
        shutil.move(unpacked, folder)
    return folder
