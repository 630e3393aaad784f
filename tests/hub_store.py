"""The state behind ``hub_server``: repositories and blobs in a folder, and the faults planted by a test."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHASES = (
    "create", "preupload", "lfs-batch", "put", "verify",
    "commit-before", "commit-after-store", "tag", "tag-after-store", "readback",
)  # fmt: skip
"""``put`` is cut in the middle of the body; ``*-after-store`` means: done, but the reply is lost."""


class Cut(Exception):
    """The connection ends here without an answer."""


class Reply(Exception):
    """An answer, raised so that helpers can end a request."""

    def __init__(self, status: int, body: Any = None, *, code: str | None = None, message: str | None = None):
        super().__init__(status)
        self.status, self.body, self.code, self.message = status, body, code, message


@dataclass
class Request:
    """One logged request; ``body`` holds at most the first MiB."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    phase: str = ""
    status: int = 0


@dataclass
class Fault:
    """What happens at a phase, or from the N-th request on (counted from 1); ``times`` < 0 means for ever.

    The connection is cut, unless ``status`` names an answer or ``act`` is something to do before going on.
    """

    phase: str | None = None
    request: int | None = None
    times: int = 1
    status: int | None = None
    act: Callable[[], None] | None = None

    def strikes(self, phase: str | None, number: int | None) -> bool:
        """Whether it happens now."""
        by_phase = self.phase is not None and self.phase == phase
        by_number = self.request is not None and number is not None and number >= self.request
        return self.times != 0 and (by_phase or by_number)


class Faults:
    """The planted faults of one server."""

    def __init__(self) -> None:
        self._planted: list[Fault] = []
        self._lock = threading.Lock()

    def plant(self, phase: str | None = None, **how: Any) -> None:
        """Add a fault (see ``Fault``)."""
        if phase is not None and phase not in PHASES:
            raise ValueError(f"no such phase: {phase}")
        self._planted.append(Fault(phase, **how))

    def heal(self) -> None:
        """Remove all faults."""
        self._planted.clear()

    def strike(self, phase: str | None, number: int | None = None) -> None:
        """Let a matching fault happen."""
        with self._lock:
            hit = next((fault for fault in self._planted if fault.strikes(phase, number)), None)
            if hit is None:
                return
            hit.times -= 1
        if hit.act is not None:
            hit.act()
        elif hit.status is not None:
            raise Reply(hit.status, {"error": "planted fault"})
        else:
            raise Cut


@dataclass
class Store:
    """Repositories in a folder: state.json under a lock, blobs and unfinished uploads as files."""

    root: Path
    blobs: Path = field(init=False)
    uploads: Path = field(init=False)

    def __post_init__(self) -> None:
        self.blobs, self.uploads = self.root / "blobs", self.root / "uploads"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.uploads.mkdir(exist_ok=True)

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        """The whole state, written back when the block ends without an exception."""
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.root / "state.json"
            state = json.loads(path.read_text()) if path.exists() else {"repos": {}}
            yield state
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(state, indent=1))
            os.replace(temporary, path)

    def repos(self) -> dict[str, Any]:
        """All repositories as they are now."""
        path = self.root / "state.json"  # replaced as a whole, so a reader needs no lock
        repos: dict[str, Any] = json.loads(path.read_text())["repos"] if path.exists() else {}
        return repos

    def files_at(self, repo_id: str, revision: str) -> dict[str, str] | None:
        """Path -> SHA-256 at a revision, without .gitattributes; None when there is no such revision."""
        repo = self.repos().get(repo_id)
        sha = find_commit(repo, revision) if repo else None
        if repo is None or sha is None:
            return None
        files = repo["commits"][sha]["files"]
        return {path: entry["oid"] for path, entry in files.items() if path != ".gitattributes"}

    def add_blob(self, content: bytes) -> str:
        """Keep bytes under their SHA-256."""
        oid = hashlib.sha256(content).hexdigest()
        (self.blobs / oid).write_bytes(content)
        return oid

    def entry(self, oid: str, *, lfs: bool) -> dict[str, Any]:
        """A file of a commit; ``sha1`` is its git blob id."""
        content = (self.blobs / oid).read_bytes()
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return {"oid": oid, "size": len(content), "lfs": lfs, "sha1": sha1}

    def new_commit(self, repo: dict[str, Any], branch: str, files: dict[str, Any], message: str) -> str:
        """Append a commit to a branch and return its id."""
        parent = repo["branches"].get(branch)
        seed = json.dumps([parent, files, message, time.time_ns()], sort_keys=True)
        sha = hashlib.sha1(seed.encode(), usedforsecurity=False).hexdigest()
        repo["commits"][sha] = {"parent": parent, "message": message, "files": files}
        repo["branches"][branch] = sha
        return sha

    def announce(self, wanted: dict[str, Any]) -> str:
        """Note an upload to come; its key cannot be guessed because the bytes are sent without a token."""
        key = secrets.token_hex(16)
        (self.uploads / f"{key}.json").write_text(json.dumps(wanted))
        return key

    def receive(self, key: str, part: str | None, content: bytes) -> None:
        """Keep the bytes of an announced upload, or one part of them."""
        if not (self.uploads / f"{key}.json").exists():
            raise Reply(404, {"error": "no such upload"})
        if part is None:
            self.finish_upload(key, content)
        else:
            (self.uploads / f"{key}.{int(part)}").write_bytes(content)

    def join_parts(self, key: str, parts: list[dict[str, Any]]) -> None:
        """End an upload in parts; each part's ETag must be the one that was handed out."""
        pieces = [(self.uploads / f"{key}.{part['partNumber']}").read_bytes() for part in parts]
        etags = [f'"{hashlib.md5(piece).hexdigest()}"' for piece in pieces]
        if etags != [part["etag"] for part in parts]:
            raise Reply(422, {"error": "a part changed on its way"})
        self.finish_upload(key, b"".join(pieces))

    def commit(self, repo: dict[str, Any], branch: str, lines: list[tuple[str, dict[str, Any]]]) -> str:
        """Apply a commit's lines, the header first; a parent that is not the head is refused."""
        if branch not in repo["branches"]:
            raise Reply(404, {"error": "not a branch"}, code="RevisionNotFound")
        head, header = repo["branches"][branch], lines[0][1]
        if not head.startswith(header.get("parentCommit") or ""):
            raise Reply(412, {"error": "the branch has moved"}, message="A commit has happened since")
        files = dict(repo["commits"][head]["files"])
        for key, value in lines[1:]:
            self.apply(files, key, value)
        return self.new_commit(repo, branch, files, header["summary"])

    def finish_upload(self, key: str, content: bytes) -> None:
        """Keep an upload when its bytes are the announced ones."""
        wanted = json.loads((self.uploads / f"{key}.json").read_text())
        if hashlib.sha256(content).hexdigest() != wanted["oid"] or len(content) != wanted["size"]:
            raise Reply(
                422, {"error": "the bytes do not have the announced SHA-256"}, message="wrong SHA-256"
            )
        self.add_blob(content)

    def apply(self, files: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        """One line of a commit: add, replace or delete files."""
        path = value["path"]
        if key == "file":
            files[path] = self.entry(self.add_blob(base64.b64decode(value["content"])), lfs=False)
        elif key == "lfsFile":
            if not (self.blobs / value["oid"]).exists():
                raise Reply(400, {"error": f"{path}: its LFS object was never uploaded"})
            files[path] = self.entry(value["oid"], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise Reply(404, {"error": "A file with this name doesn't exist"}, code="EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Reply(400, {"error": f"unknown operation {key}"})


def find_commit(repo: dict[str, Any], revision: str) -> str | None:
    """The commit a branch, tag or commit id names."""
    name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
    found = repo["branches"].get(name) or repo["tags"].get(name)
    return found or (revision if revision in repo["commits"] else None)
