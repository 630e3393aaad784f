"""A loopback Hub server for tests and for trying `sovtune publish` by hand.

    python tests/hub_server.py --port 0 --root DIR --token T     prints its URL and serves until interrupted

It speaks the part of the Hub API that huggingface_hub 2.x uses with Xet off. State lives in a folder, so
that several processes may share it. Faults can be planted by request number or phase (``hub_store.PHASES``).
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import tempfile
import threading
from contextlib import suppress
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Cut, Faults, Reply, Request, Store, find_commit

LFS_SUFFIXES = (".safetensors", ".bin", ".model", ".gguf")
LFS_FROM_BYTES = 10 * 1024 * 1024


class HubServer:
    """The server with its users, organisations, faults and request log.

    Args:
        root: folder of the state; a temporary one when absent.
        tokens: token -> user name.
        orgs: organisations every user of this server belongs to.
        chunk_size: LFS objects larger than this are uploaded in parts of this many bytes.
        validate_yaml: whether the card-check route exists; many self-hosted hubs lack it.
        echo_token: repeat the Authorization header in error messages, as a careless server would.
    """

    def __init__(
        self, root: Path | None = None, *, tokens: dict[str, str], orgs: tuple[str, ...] = ("org",),
        port: int = 0, chunk_size: int = 1 << 23, validate_yaml: bool = False, echo_token: bool = False,
    ):  # fmt: skip
        self._temporary = tempfile.TemporaryDirectory() if root is None else None
        self.store = Store(root if root is not None else Path(self._temporary.name))  # type: ignore[union-attr]
        self.tokens, self.orgs, self.chunk_size = tokens, orgs, chunk_size
        self.validate_yaml, self.echo_token = validate_yaml, echo_token
        self.log: list[Request] = []
        self.faults = Faults()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def serve_forever(self) -> None:
        """Serve in this thread."""
        self._http.serve_forever(poll_interval=0.02)

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        if self._temporary is not None:
            self._temporary.cleanup()


ID = r"(?P<id>[^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, str, str], ...] = (
    ("POST", r"/api/repos/create", "create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml", ""),
    ("POST", rf"/api/models/{ID}/preupload/(?P<rev>[^/]+)", "preupload", "preupload"),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", "lfs_batch", "lfs-batch"),
    ("PUT", r"/lfs/(?P<key>\w+)(/(?P<part>\d+))?", "lfs_put", ""),
    ("POST", r"/lfs/(?P<key>\w+)", "lfs_complete", ""),
    ("POST", rf"/{ID}\.git/info/lfs/verify", "lfs_verify", "verify"),
    ("POST", rf"/api/models/{ID}/commit/(?P<rev>[^/]+)", "commit", "commit-before"),
    ("POST", rf"/api/models/{ID}/tag/(?P<rev>[^/]+)", "tag", "tag"),
    ("POST", rf"/api/models/{ID}/branch/(?P<rev>[^/]+)", "branch", ""),
    ("PUT", rf"/api/models/{ID}/settings", "settings", ""),
    ("GET", rf"/api/models/{ID}/refs", "refs", ""),
    ("GET", rf"/api/models/{ID}(/revision/(?P<rev>[^/]+))?", "info", ""),
    ("GET", rf"/api/models/{ID}/tree/(?P<rev>[^/]+)", "tree", ""),
    ("(GET|HEAD)", rf"/{ID}/resolve/(?P<rev>[^/]+)/(?P<file>.+)", "resolve", "readback"),
)


class Handler(BaseHTTPRequestHandler):
    """One connection; ``hub`` is bound by the server."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body leave together: apart, each answer waits 40 ms
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the log is ``hub.log``."""

    def handle_one(self) -> None:
        """Route a request, log it, answer it; a planted cut closes the socket instead."""
        logged = Request(self.command, self.path, dict(self.headers.items()))
        self.hub.log.append(logged)
        self.logged, self._body = logged, b""
        self._rest = int(self.headers.get("Content-Length") or 0)
        self.url = urlsplit(self.path)
        try:
            self._route(logged)
        except Cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        except Reply as reply:
            self.read_body()
            headers = {"X-Error-Code": reply.code} if reply.code else {}
            if reply.message:
                echo = f" ({self.headers.get('Authorization')})" if self.hub.echo_token else ""
                headers["X-Error-Message"] = reply.message + echo
            self.answer(reply.status, reply.body, headers)

    def _route(self, logged: Request) -> None:
        self.hub.faults.strike(None, len(self.hub.log))
        for method, pattern, name, phase in ROUTES:
            match = re.fullmatch(pattern, self.url.path)
            if match and re.fullmatch(method, self.command):
                logged.phase = phase
                if phase != "readback" or self.command == "GET":
                    self.hub.faults.strike(phase or None)
                groups = {k: unquote(v) for k, v in match.groupdict().items() if v is not None}
                getattr(self, name)(**groups)
                return
        raise Reply(404, "<html>not found</html>")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def read_body(self, *, cut_at_phase: str | None = None) -> bytes:
        """The body, read once; with ``cut_at_phase`` a planted fault strikes in its middle."""
        if self.headers.get("Transfer-Encoding") == "chunked" and not self._body:
            self._body = self._read_chunked()
        if cut_at_phase is not None:
            half = self.rfile.read(self._rest // 2)
            self._rest -= len(half)
            self._body += half
            self.hub.faults.strike(cut_at_phase)
        self._body += self.rfile.read(self._rest)
        self._rest = 0
        self.logged.body = self._body[: 1024 * 1024]
        return self._body

    def _read_chunked(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """Send JSON (a ``str`` is sent as an HTML page)."""
        kind, content = "application/json", b"" if body is None else json.dumps(body).encode()
        if isinstance(body, str):
            kind, content = "text/html", body.encode()
        self.send(status, content, {"Content-Type": kind, **(headers or {})})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send bytes; HEAD gets the headers only."""
        self.logged.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- who may do what

    def user(self) -> str | None:
        """The caller's name; None for an anonymous one."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        name = self.hub.tokens.get(header.removeprefix("Bearer "))
        if name is None:
            raise Reply(401, {"error": "denied"}, message="Invalid credentials in Authorization header")
        return name

    def repo(
        self, state: dict[str, Any], repo_id: str, *, write: bool = False, content: bool = False
    ) -> dict[str, Any]:
        """The repository, when the caller may read (or write) it."""
        user, repo = self.user(), state["repos"].get(repo_id)
        member = user is not None and repo_id.partition("/")[0] in (user, *self.hub.orgs)
        if repo is None or (repo["private"] and not member):
            raise Reply(404 if user else 401, {"error": "Repository not found"}, code="RepoNotFound")
        if write and not member:
            raise Reply(403 if user else 401, {"error": "no write access"}, message="no write access")
        if content and repo["gated"] and not member:
            raise Reply(403 if user else 401, {"error": "gated"}, code="GatedRepo", message="Access is gated")
        return repo  # type: ignore[no-any-return]

    def commit_of(self, repo: dict[str, Any], revision: str) -> str:
        """The commit a revision names."""
        sha = find_commit(repo, revision)
        if sha is None:
            raise Reply(404, {"error": "Invalid rev id"}, code="RevisionNotFound", message="Invalid rev id")
        return sha

    def json(self) -> Any:
        """The JSON body."""
        return json.loads(self.read_body() or b"null")

    # --- repositories

    def create(self) -> None:
        body, user = self.json(), self.user()
        owner = body.get("organization") or user
        if user is None or owner not in (user, *self.hub.orgs):
            raise Reply(403 if user else 401, {"error": "no rights here"}, message="no rights here")
        repo_id = f"{owner}/{body['name']}"
        with self.hub.store.edit() as state:
            if repo_id in state["repos"]:
                raise Reply(409, {"error": "exists already", "url": f"{self.hub.url}/{repo_id}"})
            private = body.get("visibility") == "private" or bool(body.get("private"))
            repo: dict[str, Any] = {
                "private": private,
                "gated": False,
                "branches": {},
                "tags": {},
                "commits": {},
            }
            state["repos"][repo_id] = repo
            attributes = self.hub.store.add_blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
            files = {".gitattributes": self.hub.store.entry(attributes, lfs=False)}
            self.hub.store.new_commit(repo, "main", files, "initial commit")
        self.answer(200, {"url": f"{self.hub.url}/{repo_id}", "name": repo_id})

    def settings(self, id: str) -> None:
        body = self.json()
        with self.hub.store.edit() as state:
            repo = self.repo(state, id, write=True)
            repo["gated"] = body.get("gated", repo["gated"])
            repo["private"] = body.get("visibility", "private" if repo["private"] else "public") == "private"
        self.answer(200, {"private": repo["private"], "gated": repo["gated"]})

    def validate_yaml(self) -> None:
        if not self.hub.validate_yaml:
            raise Reply(404, "<html>not found</html>")
        if not self.json()["content"].startswith("---\n"):
            raise Reply(400, {"errors": [{"message": "the card has no header"}], "warnings": []})
        self.answer(200, {"errors": [], "warnings": []})

    def refs(self, id: str) -> None:
        repo = self.repo({"repos": self.hub.store.repos()}, id)
        kinds = (("branches", "refs/heads"), ("tags", "refs/tags"))
        shown: dict[str, Any] = {"converts": []}
        for kind, where in kinds:
            rows = [{"name": n, "ref": f"{where}/{n}", "targetCommit": sha} for n, sha in repo[kind].items()]
            shown[kind] = rows
        self.answer(200, shown)

    def info(self, id: str, rev: str = "main") -> None:
        repo = self.repo({"repos": self.hub.store.repos()}, id)
        sha = self.commit_of(repo, rev)
        shown = {"id": id, "sha": sha, "private": repo["private"], "gated": repo["gated"]}
        self.answer(
            200, shown | {"siblings": [{"rfilename": p} for p in sorted(repo["commits"][sha]["files"])]}
        )

    def tree(self, id: str, rev: str) -> None:
        repo = self.repo({"repos": self.hub.store.repos()}, id, content=True)
        rows = []
        for path, entry in sorted(repo["commits"][self.commit_of(repo, rev)]["files"].items()):
            rows.append({"type": "file", "path": path, "size": entry["size"], "oid": entry["sha1"]})
            if entry["lfs"]:
                rows[-1]["lfs"] = {"oid": entry["oid"], "size": entry["size"], "pointerSize": 130}
        self.answer(200, rows)

    def resolve(self, id: str, rev: str, file: str) -> None:
        repo = self.repo({"repos": self.hub.store.repos()}, id, content=True)
        sha = self.commit_of(repo, rev)
        entry = repo["commits"][sha]["files"].get(file)
        if entry is None:
            raise Reply(404, {"error": "Entry not found"}, code="EntryNotFound", message="Entry not found")
        content = (self.hub.store.blobs / entry["oid"]).read_bytes()
        etag = entry["oid"] if entry["lfs"] else entry["sha1"]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.send(200, content, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if start > end:
            self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.send(206, content[start : end + 1], headers)

    # --- writing

    def preupload(self, id: str, rev: str) -> None:
        files = self.json()["files"]
        with self.hub.store.edit() as state:
            repo = self.repo(state, id, write=True)
            present = repo["commits"][self.commit_of(repo, rev)]["files"]
        answers = []
        for file in files:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_FROM_BYTES
            mode = "lfs" if lfs else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            if (old := present.get(file["path"])) is not None:
                answers[-1]["oid"] = old["oid"] if lfs else old["sha1"]
        self.answer(200, {"files": answers})

    def lfs_batch(self, id: str) -> None:
        objects = self.json()["objects"]
        self.repo({"repos": self.hub.store.repos()}, id, write=True)
        answers, kind = [], "basic"
        for wanted in objects:
            answers.append({"oid": wanted["oid"], "size": wanted["size"]})
            if (self.hub.store.blobs / wanted["oid"]).exists():
                continue
            href = f"{self.hub.url}/lfs/{self.hub.store.announce(wanted)}"
            upload: dict[str, Any] = {"href": href, "header": {}}
            if wanted["size"] > self.hub.chunk_size:
                kind = "multipart"
                count = -(-wanted["size"] // self.hub.chunk_size)
                upload["header"] = {f"{n:05d}": f"{href}/{n}" for n in range(1, count + 1)}
                upload["header"]["chunk_size"] = str(self.hub.chunk_size)
            verify = {"href": f"{self.hub.url}/{id}.git/info/lfs/verify"}
            answers[-1]["actions"] = {"upload": upload, "verify": verify}
        self.answer(200, {"transfer": kind, "objects": answers})

    def lfs_put(self, key: str, part: str | None = None) -> None:
        self.logged.phase = "put"
        content = self.read_body(cut_at_phase="put")
        self.hub.store.receive(key, part, content)
        self.answer(200, None, {"ETag": f'"{md5(content).hexdigest()}"'})

    def lfs_complete(self, key: str) -> None:
        self.hub.store.join_parts(key, self.json()["parts"])
        self.answer(200, {})

    def lfs_verify(self, id: str) -> None:
        body = self.json()
        self.repo({"repos": self.hub.store.repos()}, id, write=True)
        blob = self.hub.store.blobs / body["oid"]
        if not blob.exists() or blob.stat().st_size != body["size"]:
            raise Reply(404, {"error": "object was not uploaded"})
        self.answer(200, {})

    def commit(self, id: str, rev: str) -> None:
        lines = [json.loads(line) for line in self.read_body().splitlines() if line.strip()]
        if "create_pr" in parse_qs(self.url.query):
            raise Reply(501, {"error": "this hub has no pull requests"})
        with self.hub.store.edit() as state:
            repo = self.repo(state, id, write=True)
            sha = self.hub.store.commit(repo, rev, [(line["key"], line["value"]) for line in lines])
        self.hub.faults.strike("commit-after-store")
        url = f"{self.hub.url}/{id}/commit/{sha}"
        self.answer(200, {"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def _new_ref(self, id: str, kind: str, name: str, rev: str) -> None:
        with self.hub.store.edit() as state:
            repo = self.repo(state, id, write=True)
            if name in repo[kind]:
                raise Reply(409, {"error": f"{name} exists already"}, message="Reference exists already")
            repo[kind][name] = self.commit_of(repo, rev)

    def tag(self, id: str, rev: str) -> None:
        self._new_ref(id, "tags", self.json()["tag"], rev)
        self.hub.faults.strike("tag-after-store")
        self.answer(200, {})

    def branch(self, id: str, rev: str) -> None:
        self._new_ref(id, "branches", rev, (self.json() or {}).get("startingPoint") or "main")
        self.answer(200, {})


def main() -> None:
    """Serve by hand."""
    parser = argparse.ArgumentParser(description="A loopback Hub server for trying `sovtune publish`.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--root", type=Path, required=True, help="folder of the state")
    parser.add_argument("--token", required=True, help="the token that may write")
    parser.add_argument("--user", default="tester", help="the user the token belongs to")
    parser.add_argument(
        "--org", action="append", default=[], help="an organisation of that user (repeatable)"
    )
    arguments = parser.parse_args()
    orgs = tuple(arguments.org) or ("org",)
    hub = HubServer(arguments.root, tokens={arguments.token: arguments.user}, orgs=orgs, port=arguments.port)
    print(hub.url, flush=True)
    with suppress(KeyboardInterrupt):
        hub.serve_forever()


if __name__ == "__main__":
    main()
