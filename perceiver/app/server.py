"""Serves the page, its models, and what it asks them: `perceiver app FOLDER...`.

    GET  /            the page
    GET  /models      descriptions of the playgrounds, JSON
    POST /run/INDEX   values of the fields as JSON -> outputs, a line of JSON each, as they come

An error is an output, too: {"kind": "error", "text": why}. The last one is {"kind": "end"}. A page that hangs up stops
what it asked for.

It listens on the loopback address unless told otherwise, and there only answers who calls it by that name and sends
JSON: pages of other hosts, open in the same browser, can do neither.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from perceiver.app.playground import Playground, open_playground

PAGE = Path(__file__).with_name("page.html")
FAILURES = (ValueError, OSError, RuntimeError, TypeError, LookupError)
# The page holds its styles and scripts, and pictures and sounds come as data: nothing is loaded from anywhere.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "media-src data:"
)


class AppServer(ThreadingHTTPServer):
    """The server.

    Args:
        address: Host and port. Port 0: any that is free.
        playgrounds: What it serves.
        max_bytes: Largest request.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], playgrounds: Sequence[Playground], max_bytes: int):
        super().__init__(address, Handler)
        self.playgrounds = playgrounds
        self.max_bytes = max_bytes
        self.at_work = threading.Lock()  # one model runs at a time

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    @property
    def is_local(self) -> bool:
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback


class Handler(BaseHTTPRequestHandler):
    """A request."""

    server: AppServer
    timeout = 60  # seconds that a request may stand still

    def do_GET(self) -> None:
        if not self._is_meant():
            return
        if self.path == "/":
            self._send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/models":
            models = [playground.description() for playground in self.server.playgrounds]
            self._send(200, json.dumps(models).encode(), "application/json")
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        if not self._is_meant():
            return
        number = self.path.removeprefix("/run/")
        if not (number.isdecimal() and int(number) < len(self.server.playgrounds)):
            return self._refuse(404, "there is no such model")
        if self.headers.get_content_type() != "application/json":
            return self._refuse(415, "the values must be JSON")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self._refuse(411, "the request does not say how long it is")
        if int(length) > self.server.max_bytes:
            return self._refuse(413, f"{int(length):,} bytes are more than {self.server.max_bytes:,}")
        content = self.rfile.read(int(length))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        try:
            self._run(self.server.playgrounds[int(number)], content)
        except (ConnectionError, TimeoutError):
            pass  # the page hung up: the generator is closed, which stops the model

    def _run(self, playground: Playground, content: bytes) -> None:
        try:
            values = json.loads(content)
            if not isinstance(values, dict):
                raise ValueError("the values must be a JSON object")
            if not self.server.at_work.acquire(blocking=False):
                self._write({"kind": "progress", "text": "waiting for another request"})
                self.server.at_work.acquire()
            outputs = None
            try:
                outputs = playground.run(**playground.read(values))
                for output in outputs:
                    self._write(output)
            finally:
                if outputs is not None:
                    outputs.close()
                self.server.at_work.release()
        except (ConnectionError, TimeoutError):
            raise
        except FAILURES as error:
            self._write({"kind": "error", "text": str(error) or type(error).__name__})
        self._write({"kind": "end"})

    def _write(self, output: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(output).encode() + b"\n")
        self.wfile.flush()

    def _is_meant(self) -> bool:
        """Whether the request calls this server by its name: a name of others may lead here, too."""
        host = (self.headers.get("Host") or "").rpartition(":")[0].strip("[]")
        if self.server.is_local and host not in ("localhost", str(self.server.server_address[0])):
            self._refuse(403, "this server answers on the loopback address only")
            return False
        return True

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True
        self._send(status, json.dumps({"kind": "error", "text": reason}).encode() + b"\n", "application/json")

    def _send(self, status: int, content: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: texts are nobody's business."""


def parser() -> argparse.ArgumentParser:
    """The arguments of `perceiver app`."""
    result = argparse.ArgumentParser(
        prog="perceiver app", description="A local page to play with converted models.", allow_abbrev=False
    )
    result.add_argument("folders", nargs="+", metavar="FOLDER", help="folder or hub id of a converted model")
    result.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, which only this machine reaches)"
    )
    result.add_argument("--port", type=int, default=7860, help="port, 0 for any that is free (default: 7860)")
    result.add_argument(
        "--max-megabytes", type=int, default=32, metavar="N", help="largest request, uploads included (default: 32)"
    )
    return result


def main(args: Sequence[str]) -> int:
    """Runs the command line `args` until it is interrupted, and returns the exit code."""
    arguments = parser().parse_args(args)
    if arguments.max_megabytes < 1:
        parser().error(f"--max-megabytes={arguments.max_megabytes} must be at least 1")
    try:
        ipaddress.ip_address(arguments.host)
        playgrounds = [open_playground(folder) for folder in arguments.folders]
        server = AppServer((arguments.host, arguments.port), playgrounds, arguments.max_megabytes * 2**20)
    except (OSError, ValueError, OverflowError) as error:
        print(f"perceiver: error: {error}", file=sys.stderr)
        return 1
    with server:
        models = "1 model" if len(playgrounds) == 1 else f"{len(playgrounds)} models"
        print(f"{models} at {server.url}, stop with Ctrl+C", flush=True)
        if not server.is_local:
            print("anyone who reaches this address can use it: there is no password", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
