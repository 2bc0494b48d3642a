"""ImageNet's server for the hosts: two scripted origins behind nginx, with its host name and a
certificate for it."""

import io
import random
import subprocess
import tarfile
from pathlib import Path

from hosts import must

NAME = "image-net.org"
IMAGES, BYTES = 6, 10_000
CONFIGURATION = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/errors warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream tars {{ server {slow} max_fails=0; server {fast} backup; }}
  server {{
    listen 443 ssl; server_name {name};
    ssl_certificate {folder}/certificate; ssl_certificate_key {folder}/key;
    location / {{ proxy_pass http://tars; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""


def make_tars(folder: Path, classes: list[str]) -> dict[str, dict[str, bytes]]:
    """Creates a tar for each class; returns the files of each by name."""
    folder.mkdir()
    made = {}
    noise = random.Random(5)
    for wnid in classes:
        made[wnid] = {f"{wnid}_{number}.JPEG": noise.randbytes(BYTES) for number in range(IMAGES)}
        with tarfile.open(folder / f"{wnid}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in made[wnid].items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return made


class Origin:
    """Serves the tars of a folder in a network namespace; a context manager that stops it. `rate`:
    bytes per second."""

    def __init__(self, space: str, folder: Path, tars: Path, program: Path, rate: int):
        self._inside = ["ip", "netns", "exec", space]
        self._folder, self._tars, self._program, self._rate = folder, tars, program, rate
        self._running: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        self.certificate = folder / "certificate"
        must(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={NAME}",
            "-addext",
            f"subjectAltName=DNS:{NAME}",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            folder / "key",
            "-out",
            self.certificate,
        )

    def __enter__(self) -> "Origin":
        slow, fast = self._serve(self._rate), self._serve(0)
        configuration = CONFIGURATION.format(folder=self._folder, name=NAME, slow=slow, fast=fast)
        (self._folder / "nginx.conf").write_text(configuration)
        self._start(
            "nginx",
            "-p",
            self._folder,
            "-c",
            self._folder / "nginx.conf",
            "-e",
            self._folder / "errors",
        )
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._running:
            program.terminate()
            program.wait()

    def raise_the_rate(self) -> None:
        """Removes the rate limit. Transfers in progress are cut, which the programs must handle; no
        request is rejected."""
        self._running[0].kill()
        self._running.pop(0).wait()

    def _serve(self, rate: int) -> str:
        """Starts an origin; returns its address as HOST:PORT."""
        serving = self._start(
            self._program, "--dir", self._tars, "--listen", "127.0.0.1:0", "--total-rate", str(rate)
        )
        return serving.stdout.readline().decode().strip().removeprefix("http://")

    def _start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [*self._inside, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self._running.append(started)
        return started
