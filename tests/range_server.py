"""A web server that answers ranges and notes every request; a process of its own, since rasterio opens without letting go.

Run as `python range_server.py FOLDER LOG`; prints its port.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        with open(LOG, "a") as log:
            print(self.command, self.path, asked, file=log)
        file = FOLDER / self.path.partition("?")[0].lstrip("/")
        content = file.read_bytes() if file.is_file() else b""
        first, last = 0, len(content) - 1
        if asked and content:
            first, last = (int(n or last) for n in re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups())
        part = content[first : last + 1]
        self.send_response((206 if asked else 200) if content else 404)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    FOLDER, LOG = map(Path, sys.argv[1:])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
