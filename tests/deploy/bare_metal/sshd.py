"""An SSH server for the nodes and the client configuration of the machine that sets them up, with
separate keys."""

import shutil
import subprocess
from pathlib import Path

# Dependencies of the server that a minimal Debian does not have.
PACKAGES = ["openssh-server", "libwrap0"]
UNIT = """
[Unit]
Description=The way in
[Service]
ExecStart=/usr/sbin/sshd -D -e
RuntimeDirectory=sshd
"""
SERVER = """
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
CLIENT = """
Host *
  IdentityFile {folder}/key
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking accept-new
"""


class Sshd:
    """Path of the program; from its unpacked package if the machine does not have it. Nothing is
    installed."""

    def __init__(self, folder: Path, cache: Path):
        self._folder = folder
        folder.mkdir()
        self.usr = [] if Path("/usr/sbin/sshd").exists() else [unpacked(cache)]
        for name in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
            )

    def configure(self, etc: Path) -> None:
        """Writes the server's files into the `/etc` of a node."""
        (etc / "ssh").mkdir()
        shutil.copy(self._folder / "host_key", etc / "ssh/host_key")
        shutil.copy(self._folder / "key.pub", etc / "ssh/authorized_keys")
        (etc / "ssh/sshd_config").write_text(SERVER)
        (etc / "systemd/system/sshd.service").write_text(UNIT)
        (etc / "systemd/system/multi-user.target.wants/sshd.service").symlink_to("../sshd.service")

    def client(self, etc: Path) -> None:
        """Writes the client's files into an `/etc`."""
        (etc / "ssh").mkdir(parents=True)
        (etc / "ssh/ssh_config").write_text(CLIENT.format(folder=self._folder))


def unpacked(cache: Path) -> Path:
    """The `/usr` of the packages, downloaded once."""
    usr = cache / "root/usr"
    if not usr.exists():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(
            ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *PACKAGES],
            cwd=cache,
            check=True,
        )
        for package in cache.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, cache / "unpacked"], check=True)
        # Renamed when it is complete. The files of the packages in /lib are not needed, and `/usr`
        # has a `lib` too.
        (cache / "unpacked").rename(cache / "root")
    return usr
