"""Publishes a run to a folder or a Hub: one version, whole or not at all, read back before it is tagged."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sovtune.audience import Audience
from sovtune.errors import EnvironmentFault, PublishFailed, UsageError
from sovtune.network import endpoint_host
from sovtune.publish_folder import publish_to_folder
from sovtune.publish_line import Line, explain, open_line
from sovtune.records import PublishReceipt, to_json
from sovtune.release import ReleaseFile, check_audience, may_be_published, select
from sovtune.runs import RECORD_FILES, write_atomic

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

Say = Callable[[str], None]
Files = Sequence[ReleaseFile]
MAIN = "main"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
TAG = re.compile(r"\w[\w.-]*", re.ASCII)
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Target:
    kind: str
    place: str
    endpoint: str
    tag: str
    private: bool
    token_env: str
    token: str | None = field(repr=False)

    @property
    def address(self) -> str:
        """Where a reader finds the repository."""
        return f"{self.endpoint}/{self.place}"


@dataclass(frozen=True, slots=True)
class _Outcome:
    private: bool
    notes: tuple[str, ...]
    commit: str | None = None


def publish(
    run_dir: Path,
    to: str,
    *,
    endpoint: str | None = None,
    tag: str = "v1.0.0",
    private: bool = True,
    token_env: str = "SOVTUNE_HUB_TOKEN",  # noqa: S107 - the name of a variable, not a token
    dry_run: bool = False,
    say: Say = lambda _: None,
) -> PublishReceipt:
    """Publish a finished run as one version and prove it by reading every file back.

    The same call again repairs an interrupted one, and otherwise finds nothing to do.

    Args:
        run_dir: the run folder.
        to: ``dir:PATH`` (the version goes to PATH/<run folder's name>/<tag>) or ``hub:ORG/NAME``.
        endpoint: address of the Hub; required for a hub target.
        tag: name of the version; a tag never moves.
        private: create the repository as private, and refuse one that is public already.
        token_env: name of the environment variable that holds the token.
        dry_run: only choose, check and hash the files; the target is not contacted.
        say: gets one line per step.

    Returns:
        The receipt; for a real publish it is saved as receipt.json in the run folder too.

    Raises:
        UsageError: the run, the target or the tag cannot be published as it stands.
        EnvironmentFault: the token is missing or malformed.
        DataRefused: what the adapter was trained on may not go there.
        GateFailed: the evaluation did not pass its gates.
        PublishFailed: the target failed; under the tag it holds the whole version or nothing.
    """
    target = _read_target(to, endpoint, tag, private, token_env)
    files = select(run_dir, credentials=[target.token] if target.token else ())
    for line in check_audience(files, run_dir, Audience(to=to, endpoint=endpoint, private=private)):
        say(line)
    if dry_run:
        outcome = _dry_run(target)
    elif target.kind == "dir":
        folder = Path(target.place).expanduser() / run_dir.resolve().name / tag
        notes = [publish_to_folder(files, folder, say), "the folder's permissions decide who may read it"]
        if endpoint is not None:
            notes.append("the endpoint was not used: it is for hub: targets")
        outcome = _Outcome(False, tuple(notes))
    else:
        outcome = _publish_to_hub(target, files, say)
    receipt = _receipt(target, files, outcome, dry_run)
    if not dry_run:
        write_atomic(run_dir / RECORD_FILES["publish"], to_json(receipt))
    return receipt


def _receipt(target: _Target, files: Files, outcome: _Outcome, dry_run: bool) -> PublishReceipt:
    return PublishReceipt(
        target=f"{target.kind}:{target.place}",
        repo_id=target.place if target.kind == "hub" else None,
        tag=target.tag,
        commit=outcome.commit,
        private=outcome.private,
        dry_run=dry_run,
        files=tuple(file.hash() for file in files),
        verified=not dry_run,
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=outcome.notes,
    )


def _read_target(to: str, endpoint: str | None, tag: str, private: bool, token_env: str) -> _Target:
    kind, _, place = to.partition(":")
    if kind not in ("dir", "hub") or not place or (kind == "hub" and not HUB_ID.fullmatch(place)):
        raise UsageError(f"{to!r} is no target", where="--to", fix="write dir:PATH or hub:ORG/NAME")
    if not TAG.fullmatch(tag) or tag == MAIN or tag.endswith(".lock"):
        raise UsageError(f"{tag!r} is no name for a version", where="--tag", fix="write a tag such as v1.0.0")
    if kind == "dir":
        return _Target(kind, place, "", tag, private, token_env, None)
    if endpoint is None:
        raise UsageError(
            "a hub: target needs the address of the Hub",
            where="--endpoint",
            why="sovtune contacts only hosts that were named",
            fix="add --endpoint https://hub.example.org (or https://huggingface.co)",
        )
    endpoint_host(endpoint)  # refuses what is no endpoint
    token = os.environ.get(token_env)
    if token is not None and not TOKEN.fullmatch(token):
        raise EnvironmentFault(
            f"the environment variable {token_env} holds no token",
            why="it is empty or has spaces, line breaks or other characters that no token has",
            fix=f"set {token_env} again, without quotes or a line break inside",
        )
    return _Target(kind, place, endpoint.rstrip("/"), tag, private, token_env, token)


def _dry_run(target: _Target) -> _Outcome:
    notes = ["dry run: nothing was sent and the target was not contacted"]
    if target.kind == "hub" and target.token is None:
        notes.append(f"the environment variable {target.token_env} is not set; publishing will need it")
    return _Outcome(target.private if target.kind == "hub" else False, tuple(notes))


def _publish_to_hub(target: _Target, files: Files, say: Say) -> _Outcome:
    import httpx2

    if target.token is None:
        raise EnvironmentFault(
            f"the environment variable {target.token_env} is not set",
            why="the token for the endpoint is read from it and from nowhere else",
            fix=f"set {target.token_env} to a token that may write to {target.place}, then publish again",
        )
    with open_line(target.endpoint) as line:
        remote = _Remote(target, target.token, line, say)
        try:
            return remote.bring(files)
        # ValueError and KeyError: answers the client cannot read; RuntimeError: its wrapper around an upload.
        except (httpx2.HTTPError, PublishFailed, OSError, ValueError, KeyError, RuntimeError) as error:
            # Without the chain: messages of the server are only shown after the token is taken out.
            raise explain(error, target.address, remote.state, (target.token_env, target.token)) from None


class _Remote:
    """One repository during one publish; ``state`` says what a failure leaves behind."""

    def __init__(self, target: _Target, token: str, line: Line, say: Say):
        self.target, self.line, self.say = target, line, say
        self.token = token
        self.api = _make_api(target.endpoint, token)
        self.state = "nothing was changed in the repository"
        self.notes = [f"endpoint {target.endpoint}"]

    def bring(self, files: Files) -> _Outcome:
        """Bring the repository to the version: commit, read back, tag; each only when it is needed."""
        tag = self.target.tag
        private = self._open_repository()
        commit = self._commit_named(tag)
        if commit is not None:
            different = self._differences(commit, files)
            if different:
                raise UsageError(
                    f"the tag {tag} exists with other content: {', '.join(different)}",
                    where=self.target.address,
                    why="tags do not move; somebody may rely on this one",
                    fix="choose another --tag",
                )
            self.notes.append(f"nothing to do: {tag} is there already, with the same content")
            self.say(self.notes[-1])
            return self._outcome(commit, private)
        head = self._commit_named(MAIN)
        if head is not None and not self._differences(head, files):
            commit = head
        else:
            commit = self._commit(files, head)
            different = self._differences(commit, files)
            if different:
                raise PublishFailed(
                    f"these files read back differently: {', '.join(different)}",
                    where=self.target.address,
                    why="the run folder changed, or the Hub ignores or alters files; no tag was set",
                )
        self.state = f"{MAIN} holds the whole version, but the tag {tag} is not set"
        self._set_tag(commit, files)
        return self._outcome(commit, private)

    def _outcome(self, commit: str, private: bool) -> _Outcome:
        if self.target.endpoint.startswith("http://"):
            self.notes.append("the endpoint is not encrypted (http): the token travelled in the clear")
        if self.line.storage_hosts:
            self.notes.append(
                f"the endpoint had files stored at {', '.join(sorted(self.line.storage_hosts))}"
            )
        return _Outcome(private, tuple(self.notes), commit)

    def _open_repository(self) -> bool:
        """Create the repository when it is missing; returns whether it is private."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        repo_id, private = self.target.place, self.target.private
        try:
            info = self._info(None)
        except RepositoryNotFoundError:
            self.say(f"creating {repo_id}{' (private)' if private else ''}")
            try:
                self.line.again(lambda: self.api.create_repo(repo_id, private=private))
            except HfHubHTTPError as error:
                if error.response.status_code != 409:  # 409: it was created, only the answer got lost
                    raise
            self.state = "the repository was created, nothing else was changed in it"
            info = self._info(None)
        if private and info.private is False:
            raise UsageError(
                f"{repo_id} is public, but a private publish was asked for",
                where=self.target.address,
                fix="make the repository private, choose another one, or write `private: false`",
            )
        if info.private is None:
            self.notes.append("the endpoint does not say whether the repository is private")
        return private if info.private is None else info.private

    def _info(self, revision: str | None) -> ModelInfo:
        return self.line.again(lambda: self.api.model_info(self.target.place, revision=revision))

    def _commit_named(self, revision: str) -> str | None:
        """The commit a tag or branch points at; None when there is no such tag or branch."""
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        try:
            return self._info(revision).sha
        except RepositoryNotFoundError:
            raise
        except HfHubHTTPError as error:
            if error.response.status_code == 404:
                return None
            raise

    def _listed(self, commit: str) -> dict[str, int]:
        """Path -> bytes of all files at a commit."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.line.again(
            lambda: list(self.api.list_repo_tree(self.target.place, recursive=True, revision=commit))
        )
        return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}

    def _differences(self, commit: str, files: Files) -> list[str]:
        """Names missing, extra (of the allow-list), or with other bytes; reads back only when sizes agree."""
        sizes = {path: size for path, size in self._listed(commit).items() if may_be_published(path)}
        wanted = {file.name: file.bytes for file in files}
        different = {name for name in sizes.keys() | wanted.keys() if sizes.get(name) != wanted.get(name)}
        if not different:
            self.say(f"reading back {len(files)} files")
            different = {file.name for file in files if self._remote_sha256(commit, file.name) != file.sha256}
        return sorted(different)

    def _remote_sha256(self, commit: str, name: str) -> str:
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status

        url = hf_hub_url(self.target.place, name, revision=commit, endpoint=self.target.endpoint)
        headers = {"authorization": f"Bearer {self.token}", "accept-encoding": "identity"}

        def read() -> str:
            digest = sha256()
            with get_session().stream("GET", url, headers=headers) as response:
                hf_raise_for_status(response)
                for piece in response.iter_bytes(1 << 20):
                    digest.update(piece)
            return digest.hexdigest()

        return self.line.again(read)

    def _commit(self, files: Files, head: str | None) -> str:
        """One commit on top of ``head``; when its answer gets lost, the repository is looked at."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        present = self._listed(head) if head is not None else {}
        stale = sorted({name for name in present if may_be_published(name)} - {file.name for file in files})
        foreign = [name for name in present if not may_be_published(name) and name != ".gitattributes"]
        if foreign:
            self.notes.append(f"left alone in the repository: {', '.join(sorted(foreign))}")
        while True:
            self.say(f"sending {len(files)} files")
            try:
                return self._send(files, stale, head)
            except httpx2.TransportError as error:
                self.line.spend(error)
                refused = False
            except HfHubHTTPError as error:
                if error.response.status_code != 412:  # 412: the head is not what it was
                    raise
                refused = True
            now = self._commit_named(MAIN)
            if now is not None and now != head and not self._differences(now, files):
                return now
            if refused or now != head:
                raise PublishFailed(
                    f"{MAIN} was changed by somebody else during the publish",
                    where=self.target.address,
                    why="nothing was overwritten and no tag was set",
                    fix="look at what changed there, then run the same publish command again",
                )

    def _send(self, files: Files, stale: Sequence[str], head: str | None) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repo_id = self.target.place
        with ExitStack() as opened:
            additions = []
            for file in files:
                # A stream, unlike a path or bytes, is never handed to Xet, whatever the settings are.
                stream: BinaryIO = file.source.open("rb") if file.content is None else BytesIO(file.content)
                opened.enter_context(stream)
                additions.append(CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=stream))
            self.api.preupload_lfs_files(repo_id, additions, revision=MAIN, free_memory=False)
            self.state = f"the commit may have arrived; the tag {self.target.tag} is not set"
            info = self.api.create_commit(
                repo_id,
                [*(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in stale), *additions],
                commit_message=f"Publish {self.target.tag}",
                parent_commit=head,
                revision=MAIN,
            )
        return info.oid

    def _set_tag(self, commit: str, files: Files) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        tag = self.target.tag
        self.say(f"setting the tag {tag}")
        try:
            self.line.again(lambda: self.api.create_tag(self.target.place, tag=tag, revision=commit))
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # 409: it was set, by us or by somebody else
                raise
        now = self._commit_named(tag)
        if now != commit and (now is None or self._differences(now, files)):
            raise PublishFailed(
                f"the tag {tag} does not point at this version",
                where=self.target.address,
                why=f"somebody else set it meanwhile; {MAIN} holds the whole version",
                fix="choose another --tag",
            )


def _make_api(endpoint: str, token: str) -> HfApi:
    from huggingface_hub import HfApi

    class Api(HfApi):
        """The client without the card check, which many self-hosted Hubs lack; the card is linted offline."""

        def _validate_yaml(
            self, content: str, *, repo_type: str | None = None, token: bool | str | None = None
        ) -> None:
            """Nothing is sent."""

    return Api(endpoint=endpoint, token=token, library_name="sovtune")
