"""A small server with the part of the Hub's API that uploads use; it can inject failures."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_" + "QwErTyUiOpAsDfGh"  # of ann
CUT = 0  # a fault that is no status: the connection ends without an answer


class FakeHub(ThreadingHTTPServer):
    """The server: repositories by name, with their files."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.commits: list[str] = []  # what each says
        self.faults: list[tuple[str, int]] = []  # part of a path, status: each for one request
        self.asked: list[str] = []
        self.hold = threading.Event()  # until it is set, nothing is answered
        self.hold.set()

    def fault(self, path: str) -> int | None:
        """Return the fault of this request, if it is to have one."""
        for each in self.faults:
            if each[0] in path:
                self.faults.remove(each)
                return each[1]
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were cut."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer requests about the user and repositories."""
        self.handle_request()

    def do_POST(self) -> None:
        """Answer everything else."""
        self.handle_request()

    def do_PUT(self) -> None:
        """Take a large file."""
        self.handle_request()

    def handle_request(self) -> None:
        """Answer, or fail."""
        self.server.hold.wait(30)
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        fault = self.server.fault(path)
        if fault == CUT:
            self.connection.close()
            self.close_connection = True
            return
        body = self.read_body()
        if fault is not None:
            self.answer(fault, {"error": "as told"})
        elif path.startswith("/lfs/"):
            self.server.blobs[path.removeprefix("/lfs/")] = body
            self.answer(200, {})
        elif self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        else:
            self.answer(*self.route(path, body))

    def read_body(self) -> bytes:
        """Read the body, however long it is said to be."""
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, value: Any) -> None:
        """Send JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def route(self, path: str, body: bytes) -> tuple[int, Any]:
        """Return the answer to a request of ann."""
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "ann"}
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return validate(json.loads(body)["content"])
        repo = next((name for name in self.server.repos if f"/{name}" in path), None)
        if repo is None:
            return 404, {"error": "Repository not found"}
        return self.route_in(repo, path, body)

    def route_in(self, repo: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the answer to a request about a repository."""
        if path == f"/api/models/{repo}":
            return 200, {"id": repo, "private": repo not in self.server.public}
        if not repo.startswith("ann/"):
            return 403, {"error": "You don't have the rights"}
        if path == f"/api/models/{repo}/preupload/main":
            return 200, {"files": [mode(each["path"]) for each in json.loads(body)["files"]]}
        if path == f"/{repo}.git/info/lfs/objects/batch":
            return 200, {"objects": [self.upload(o) for o in json.loads(body)["objects"]]}
        assert path == f"/api/models/{repo}/commit/main", path
        return self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """Make a repository."""
        owner = asked["organization"] or "ann"
        name = f"{owner}/{asked['name']}"
        if name in self.server.repos:
            return 409, {"error": "You already created this model repo", "url": name}
        if owner != "ann":
            return 403, {"error": "You don't have the rights to create a model there"}
        self.server.repos[name] = {}
        if not (asked.get("private") or asked.get("visibility") == "private"):
            self.server.public.add(name)
        return 200, {"url": f"{self.server.url}/{name}"}

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Return upload addresses of large files; existing files need none."""
        if wanted["oid"] in self.server.blobs:
            return wanted
        return wanted | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        """Take all files at once."""
        files = self.server.repos[repo]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                blob = self.server.blobs[value["oid"]]
                assert hashlib.sha256(blob).hexdigest() == value["oid"]
                files[value["path"]] = blob
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.server.commits.append(lines[0]["value"]["summary"])
        oid = f"{len(self.server.commits):040x}"
        return 200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid}


def mode(path: str) -> dict[str, Any]:
    """Return how a file is uploaded."""
    large = path.endswith((".safetensors", ".bin"))
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


def validate(content: str) -> tuple[int, Any]:
    """Check a card's metadata, as far as the Hub is known to."""
    metadata = yaml.safe_load(content.split("---\n")[1])
    errors = []
    languages = metadata.get("language") or []
    if not all(isinstance(each, str) and 2 <= len(each) <= 3 for each in languages):
        errors.append("language must be ISO 639 codes")
    if "/" not in (metadata.get("base_model") or "a/b"):
        errors.append("base_model must be a repository")
    if metadata.get("license") == "other" and not metadata.get("license_name"):
        errors.append("license other needs a license_name")
    named = [{"message": error} for error in errors]
    return (400 if errors else 200), {"errors": named, "warnings": []}


@contextmanager
def running() -> Iterator[FakeHub]:
    """Run a server while the body does."""
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
