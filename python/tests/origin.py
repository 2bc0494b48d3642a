"""A scripted HTTP origin of class tars: each class has its answers, and every request is noted."""

import contextlib
import http.server
import io
import json
import re
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


def images(wnid: str, count: int = 3, size: int = 1000) -> dict[str, bytes]:
    """The images of a class: names and contents."""
    names = (f"{wnid}_{number}.JPEG" for number in range(count))
    return {name: (name.encode() * (size // len(name) + 1))[:size] for name in names}


def tar_of(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@dataclass
class Class:
    """A class and what happens to requests for it."""

    images: dict[str, bytes]
    #: Statuses of the next answers.
    statuses: list[int] = field(default_factory=list)
    #: A status of all answers; 0: none.
    status: int = 0
    #: Numbers of bytes after which the bodies of the next answers break off.
    cuts: list[int] = field(default_factory=list)
    #: Bytes after which each body waits until `Origin.release` is called.
    holds_at: int | None = None

    def __post_init__(self) -> None:
        self.tar = tar_of(self.images)


class Origin:
    """Serves classes from threads, until its context ends."""

    def __init__(self) -> None:
        self.classes: dict[str, Class] = {}
        #: Method, class and range of each request.
        self.requests: list[tuple[str, str, str]] = []
        #: The header `Cookie` of each request, empty where it has none.
        self.cookies: list[str] = []
        #: Bytes a second of each body; `None`: as fast as they are read.
        self.rate: float | None = None
        #: Answers every request with this status; 0: none.
        self.status = 0
        self.bytes_sent = 0
        self._released = threading.Event()
        self._lock = threading.Lock()
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    origin._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Origin":
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def add(self, wnid: str, **images_of_class: int) -> Class:
        added = Class(images(wnid, **images_of_class))
        self.classes[wnid] = added
        return added

    def add_all(self, count: int, **images_of_class: int) -> list[str]:
        """Adds so many classes, and returns their ids."""
        wnids = [f"n{number:08}" for number in range(1, count + 1)]
        for wnid in wnids:
            self.add(wnid, **images_of_class)
        return wnids

    def release(self) -> None:
        """Ends the waits of bodies, now and later."""
        self._released.set()

    def gets(self, wnid: str | None = None) -> int:
        """Number of `GET` requests, for a class or for all."""
        with self._lock:
            return sum(
                method == "GET" and wnid in (None, requested)
                for method, requested, _ in self.requests
            )

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wnid = request.path.removeprefix("/").removesuffix(".tar")
        asked = request.headers.get("Range", "")
        with self._lock:
            self.requests.append((request.command, wnid, asked))
            self.cookies.append(request.headers.get("Cookie", ""))
            found = self.classes.get(wnid)
            status = self.status or (404 if found is None else found.status)
            if found is not None and not status and found.statuses:
                status = found.statuses.pop(0)
            cut = found.cuts.pop(0) if found is not None and not status and found.cuts else None
        if status or found is None:
            body = b"no\n"
            request.send_response(status)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            if request.command == "GET":
                request.wfile.write(body)
            return
        self._send(request, found, asked, f'"{wnid}"', cut)

    def _send(
        self,
        request: http.server.BaseHTTPRequestHandler,
        found: Class,
        asked: str,
        etag: str,
        cut: int | None,
    ) -> None:
        tar = found.tar
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if request.headers.get("If-Range", etag) != etag:
            part = None
        start = int(part[1]) if part else 0
        end = min(int(part[2]) + 1, len(tar)) if part and part[2] else len(tar)
        request.send_response(206 if part else 200)
        request.send_header("Content-Length", str(end - start))
        request.send_header("ETag", etag)
        request.send_header("Accept-Ranges", "bytes")
        if part:
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(tar)}")
        request.end_headers()
        if request.command == "HEAD":
            return
        until = end if cut is None else min(start + cut, end)
        self._write(request, tar, start, until, found.holds_at)
        if until < end:
            request.close_connection = True

    def _write(
        self,
        request: http.server.BaseHTTPRequestHandler,
        tar: bytes,
        start: int,
        end: int,
        holds_at: int | None,
    ) -> None:
        for piece in self._pieces(start, end, holds_at):
            request.wfile.write(tar[piece])
            request.wfile.flush()
            with self._lock:
                self.bytes_sent += piece.stop - piece.start
            if piece.stop == holds_at and not self._released.wait(60):
                return

    def _pieces(self, start: int, end: int, holds_at: int | None) -> Iterator[slice]:
        """The pieces of a body, at most twenty a second where there is a rate."""
        at = start
        while at < end:
            length = end - at if self.rate is None else max(1, int(self.rate / 20))
            until = min(at + length, end)
            if holds_at is not None and at < holds_at < until:
                until = holds_at
            yield slice(at, until)
            at = until
            if self.rate is not None and not self._released.is_set():
                time.sleep(1 / 20)


def main() -> None:
    """An origin as a program, for scripts that start one: writes its URL, and ends with its
    standard input. Arguments: number of classes, and options of `Origin.add` as JSON."""
    with Origin() as origin:
        origin.add_all(int(sys.argv[1]), **json.loads(sys.argv[2] if sys.argv[2:] else "{}"))
        print(origin.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
