"""An nginx on loopback that serves a folder of tars, optionally at a constant rate for each
connection.

This module creates the listening sockets and passes them to nginx in the variable NGINX, as nginx
passes them on in an upgrade. The port is therefore free, and options set on the sockets apply to
every accepted connection from its first packet: the congestion control, because another default of
the machine would change the figures (a connection that started with bbr stays paced after a change
to cubic, which cost each program a fifth to a half more CPU time), and SO_MAX_PACING_RATE, because
nginx's `limit_rate` starts with a burst of one second and restarts with each request.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from processes import cpu_of_family, processes

WORKERS = 2
CONGESTION_CONTROL = b"cubic"
# Number of the option in Linux; Python has no constant for it.
SO_MAX_PACING_RATE = 47
SECONDS_TO_START = 60
SECONDS_TO_STOP = 10

CONFIGURATION = """
daemon off; {user} worker_processes {workers}; pid {folder}/pid; error_log {folder}/errors warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/x-tar;
  sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 100000;
  open_file_cache max=1000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} reuseport{ssl}; root {root}; {certificate} {limit} }}
}}
"""


class OriginError(Exception):
    """The origin cannot be started."""


def nginx() -> str | None:
    """Path of nginx; Debian installs it in a folder of root's PATH only."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


class Origin:
    """A running nginx; a context manager that stops it. `rate`: bytes per second and connection, 0:
    unlimited."""

    def __init__(self, root: Path, folder: Path, https: bool = False, rate: int = 0):
        folder.mkdir()
        self.remarks: list[str] = []
        sockets = self._listen(rate)
        port = sockets[0].getsockname()[1]
        self.cacert = make_certificate(folder) if https else None
        self.url = f"{'https' if https else 'http'}://127.0.0.1:{port}"
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(
                user="user root;" if os.geteuid() == 0 else "",
                workers=WORKERS,
                folder=folder,
                port=port,
                root=root,
                ssl=" ssl" if https else "",
                limit=f"limit_rate {rate};" if rate and not self.paced else "",
                certificate=f"ssl_certificate {self.cacert}; "
                f"ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;"
                if https
                else "",
            )
        )
        handed_over = [each.fileno() for each in sockets]
        self._process = subprocess.Popen(
            [
                nginx() or "nginx",
                "-p",
                folder,
                "-c",
                folder / "nginx.conf",
                "-e",
                folder / "errors",
            ],
            env={"PATH": os.environ["PATH"], "NGINX": "".join(f"{each};" for each in handed_over)},
            pass_fds=handed_over,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in sockets:
            each.close()
        self._wait_for_workers(folder / "errors")

    def _listen(self, rate: int) -> list[socket.socket]:
        """Opens one socket for each nginx worker, all on the same free port."""
        sockets: list[socket.socket] = []
        self.paced = True
        port = 0
        for _ in range(WORKERS):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._set(
                listener,
                socket.IPPROTO_TCP,
                socket.TCP_CONGESTION,
                CONGESTION_CONTROL,
                f"without {CONGESTION_CONTROL.decode()}: "
                "the machine's own congestion control is used",
            )
            if rate:
                self.paced = self._set(
                    listener,
                    socket.SOL_SOCKET,
                    SO_MAX_PACING_RATE,
                    rate.to_bytes(8, "little"),
                    "without pacing: nginx's limit_rate is used, which begins with a burst",
                )
            listener.bind(("127.0.0.1", port))
            listener.listen(511)
            port = listener.getsockname()[1]
            sockets.append(listener)
        return sockets

    def _set(
        self, listener: socket.socket, level: int, option: int, value: bytes, otherwise: str
    ) -> bool:
        try:
            listener.setsockopt(level, option, value)
        except OSError as error:
            if (remark := f"{otherwise} ({error.strerror})") not in self.remarks:
                self.remarks.append(remark)
            return False
        return True

    def _wait_for_workers(self, errors: Path) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while self._process.poll() is None and time.monotonic() < deadline:
            if sum(each.parent == self._process.pid for each in processes()) >= WORKERS:
                return
            time.sleep(0.01)
        self.__exit__()
        raise OriginError(
            f"nginx did not start: {errors.read_text() if errors.exists() else 'it says nothing'}"
        )

    def cpu_seconds(self) -> float:
        """CPU seconds that nginx has used so far."""
        return cpu_of_family(self._process.pid)

    def __enter__(self) -> "Origin":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def make_certificate(folder: Path) -> Path:
    """Creates a self-signed certificate for 127.0.0.1."""
    certificate = folder / "cert.pem"
    command = [
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
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        folder / "key.pem",
        "-out",
        certificate,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OriginError(f"openssl made no certificate: {done.stderr.strip()}")
    return certificate
