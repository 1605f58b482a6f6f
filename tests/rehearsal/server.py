"""A server on this machine that has the archives: one file, and one dataset as the Hugging Face Hub has it."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for one file, for the list of a dataset's files, and for each of them."""

    served: Path
    revision: str

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/") and "/tree/" in path:
            return self.answer(json.dumps(self.tree()).encode(), "application/json")
        if "/resolve/" in path:  # datasets/OWNER/NAME/resolve/REVISION/FILE
            file = self.served / "hub" / path.split("/resolve/", 1)[1].partition("/")[2]
        else:
            file = self.served / path.removeprefix("/")
        if not file.is_file():
            return self.send_error(404)
        headers = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": self.revision}
        return self.answer(file.read_bytes(), "application/octet-stream", headers)

    do_HEAD = do_GET

    def tree(self) -> list[dict]:
        hub = self.served / "hub"
        files = sorted(path for path in hub.rglob("*") if path.is_file())
        return [
            {
                "type": "file",
                "path": str(path.relative_to(hub)),
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
                "lfs": {"oid": digest(path), "size": path.stat().st_size, "pointerSize": 130},
            }
            for path in files
        ]

    def answer(self, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def serve(folder: Path, revision: str) -> Iterator[str]:
    """Serve the archives in a folder for as long as the context lasts; yields the address."""
    handler = type("Served", (Handler,), {"served": folder, "revision": revision})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
