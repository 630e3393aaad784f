"""Decides which files of a run may leave the machine: allow-list, safe formats, no secrets or local paths."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import file_digest, sha256
from pathlib import Path

from sovtune.audience import Audience, Statement, audience_problems
from sovtune.errors import DataRefused, GateFailed, UsageError
from sovtune.records import DataReport, EvalReport, FileHash, from_json
from sovtune.secrets import find_private_paths, find_secrets

WEIGHTS = "adapter_model.safetensors"
SUMS = "SHA256SUMS"
FROM_RUN = (
    "README.md", "recipe.lock.yaml", "eval.json", "data.json", "train.json", "plan.json", "report.html",
    "LICENSE*", "NOTICE*",
)  # fmt: skip
"""What is taken from the run folder, by name pattern."""
FROM_ADAPTER = (
    WEIGHTS, "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip
"""What is taken from adapter/, by name; it goes to the root of the repository, where peft looks for it."""
VOCABULARY = frozenset({"tokenizer.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"})
"""Word lists of the base: a token may well be `/home/x`, so local paths are not looked for in them."""
BINARY = frozenset({WEIGHTS, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"})
REQUIRED = {
    "README.md": "sovtune card RECIPE",
    "eval.json": "sovtune eval RECIPE",
    "data.json": "sovtune data RECIPE",
    WEIGHTS: "sovtune train RECIPE",
    "adapter_config.json": "sovtune train RECIPE",
}
"""Files without which nothing is published, and the command that makes each."""
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so")
"""Formats that run code when they are loaded."""
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit for its header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One file to publish, at the root of the repository.

    ``content`` holds the very bytes that were scanned; only weights are left on disk, at ``source``.
    ``origin`` is the path inside the run folder, for messages.
    """

    name: str
    origin: str
    source: Path
    content: bytes | None
    bytes: int
    sha256: str

    def hash(self) -> FileHash:
        """The file as a record."""
        return FileHash(path=self.name, bytes=self.bytes, sha256=self.sha256)


def may_be_published(name: str) -> bool:
    """Whether a name at the root of a repository is on the allow-list."""
    listed = name in FROM_ADAPTER or name == SUMS or any(fnmatchcase(name, pattern) for pattern in FROM_RUN)
    return listed and not name.endswith(UNSAFE_SUFFIXES)


def select(run_dir: Path, *, credentials: Sequence[str] = ()) -> tuple[ReleaseFile, ...]:
    """Choose, check and hash what is published from a run folder; everything else stays home.

    Args:
        run_dir: the run folder.
        credentials: secrets of this process that must not occur in any file, whatever their shape.

    Returns:
        The files sorted by name, with a SHA256SUMS (in the format of ``sha256sum``) over the others.

    Raises:
        UsageError: a required file is missing, a file is unsafe or tells a secret or local path; all at once. Or the
            run trained a whole model.
        GateFailed: the evaluation did not pass its gates.
    """
    if not run_dir.is_dir():
        raise UsageError(
            "there is no such run folder", where=str(run_dir), fix="`sovtune run RECIPE` makes one"
        )
    if (run_dir / "model").is_dir():
        raise UsageError(
            "this run trained a whole model; only adapters are published",
            where=str(run_dir / "model"),
            why="its files, licence terms and card are those of a model, which sovtune does not check yet",
            fix="pass the folder `model` on by hand with the licences of the base, or train an adapter",
        )
    problems: list[str] = []
    files = [
        file
        for name, path in _candidates(run_dir, problems)
        if (file := _take(name, path, run_dir, problems)) is not None
    ]
    _check_complete({file.name for file in files}, run_dir, problems)
    _check_contents(files, run_dir, credentials, problems)
    if problems:
        raise UsageError(
            "this run may not be published as it stands:\n"
            + "\n".join(f"  {problem}" for problem in problems),
            where=str(run_dir),
            why="what is published cannot be taken back",
            fix="correct the files above or make them again, then publish; --dry-run shows the list",
        )
    _check_gates(files, run_dir)
    files.sort(key=lambda file: file.name)
    sums = "".join(f"{file.sha256}  {file.name}\n" for file in files).encode()
    return tuple(sorted((*files, _in_memory(SUMS, SUMS, run_dir / SUMS, sums)), key=lambda file: file.name))


def _in_memory(name: str, origin: str, source: Path, content: bytes) -> ReleaseFile:
    digest = sha256(content).hexdigest()
    return ReleaseFile(
        name=name, origin=origin, source=source, content=content, bytes=len(content), sha256=digest
    )


def _candidates(run_dir: Path, problems: list[str]) -> Iterator[tuple[str, Path]]:
    """Every path whose name is on the allow-list; unsafe formats that a pattern would take are named."""
    for path in sorted(run_dir.iterdir()):
        if any(fnmatchcase(path.name, pattern) for pattern in FROM_RUN):
            if path.name.endswith(UNSAFE_SUFFIXES):
                problems.append(
                    f"{path.name}: files of this kind run code when they are loaded; remove or rename it"
                )
            else:
                yield path.name, path
    adapter = run_dir / "adapter"
    if not adapter.is_dir():
        return
    for name in FROM_ADAPTER:
        if os.path.lexists(adapter / name):
            yield name, adapter / name
    if not os.path.lexists(adapter / WEIGHTS):
        for path in sorted(adapter.glob("adapter_model.*")):
            problems.append(
                f"adapter/{path.name}: only safetensors weights are published, never {path.suffix} files"
            )


def _take(name: str, path: Path, run_dir: Path, problems: list[str]) -> ReleaseFile | None:
    """Read and hash one file; a link out of the run folder or something that is no file is a problem."""
    shown = path.relative_to(run_dir).as_posix()
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(run_dir.resolve()):
            problems.append(f"{shown}: is a link that leads out of the run folder")
            return None
        if not stat.S_ISREG(real.stat().st_mode):
            problems.append(f"{shown}: is not a regular file")
            return None
        if name != WEIGHTS:
            return _in_memory(name, shown, real, real.read_bytes())
        with real.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
        size = real.stat().st_size
        return ReleaseFile(name=name, origin=shown, source=real, content=None, bytes=size, sha256=digest)
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links
        reason = error.strerror if isinstance(error, OSError) else "links lead in a circle"
        problems.append(f"{shown}: cannot be read ({reason})")
        return None


def _check_complete(names: set[str], run_dir: Path, problems: list[str]) -> None:
    refused = " ".join(problems)
    for name, command in REQUIRED.items():
        if name not in names and f"{name}:" not in refused:
            place = f"adapter/{name}" if name in FROM_ADAPTER else name
            problems.append(f"{place}: missing; `{command}` makes it")


def _check_contents(
    files: list[ReleaseFile], run_dir: Path, credentials: Sequence[str], problems: list[str]
) -> None:
    checks: dict[str, Callable[[ReleaseFile, list[str]], None]] = {
        "adapter_config.json": _check_adapter_config,
        "tokenizer_config.json": _check_tokenizer_config,
    }
    users, hosts, folders = _machine(run_dir)
    for file in files:
        text = _text(file, problems)
        if text is None:
            continue
        findings = find_secrets(text, known=credentials)
        if file.name not in VOCABULARY:
            findings += find_private_paths(text, users=users, hosts=hosts, folders=folders)
        problems.extend(f"{file.origin}:{line}: {kind}" for kind, line in findings)
        if file.name in checks:
            checks[file.name](file, problems)


def _machine(run_dir: Path) -> tuple[list[str], list[str], list[str]]:
    """Account, host names and folders of this process that published text must not tell."""
    try:
        users = [getpass.getuser()]
    except (KeyError, OSError):  # a container's numeric user without a passwd entry has no name to tell
        users = []
    folders = {os.path.expanduser("~"), str(Path.cwd()), str(run_dir.resolve().parent)}
    return users, [socket.gethostname()], sorted(folders)


def _text(file: ReleaseFile, problems: list[str]) -> str | None:
    """What is to be scanned: a text file, or the header of the weights; None for other binary files."""
    if file.name == WEIGHTS:
        return _safetensors_header(file, problems)
    if file.name in BINARY or file.content is None:
        return None
    try:
        return file.content.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.append(f"{file.origin}: is not UTF-8 text (byte {error.start})")
        return None


def _safetensors_header(file: ReleaseFile, problems: list[str]) -> str | None:
    """The JSON header, when the file is whole: header and tensors must account for every byte of it."""
    with file.source.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= min(MAX_HEADER_BYTES, file.bytes) else b""
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        problems.append(f"{file.origin}: is not a safetensors file")
        return None
    if not ends or 8 + length + max(ends) != file.bytes:
        problems.append(f"{file.origin}: is cut off or has no tensors; train again or restore it")
        return None
    return header.decode("utf-8")


def _json_object(file: ReleaseFile, problems: list[str]) -> dict[str, object]:
    try:
        value = json.loads(file.content or b"")
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    problems.append(f"{file.origin}: is not a JSON object")
    return {}


def _check_adapter_config(file: ReleaseFile, problems: list[str]) -> None:
    """The base must be named as anyone can find it, and loading must not import code of the publisher."""
    config = _json_object(file, problems)
    if not config:
        return
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not _HUB_ID.fullmatch(base):
        problems.append(f"{file.origin}: base_model_name_or_path must be a Hub id such as ORG/NAME")
    if not isinstance(revision, str) or not revision:
        problems.append(f"{file.origin}: revision must name the revision of the base")
    for key in ("auto_mapping", "auto_map", "megatron_config", "trust_remote_code"):
        if config.get(key):
            problems.append(f"{file.origin}: {key} makes peft import code by name; it must be null")


def _check_tokenizer_config(file: ReleaseFile, problems: list[str]) -> None:
    config = _json_object(file, problems)
    problems.extend(
        f"{file.origin}: {key} makes transformers run code of the repository; remove it"
        for key in ("auto_map", "trust_remote_code")
        if config.get(key)
    )


def check_audience(files: Sequence[ReleaseFile], run_dir: Path, audience: Audience) -> tuple[str, ...]:
    """Hold the target to what the cards of the training data state about who may have it, and where.

    Args:
        files: what would be published, data.json among it.
        run_dir: the run folder.
        audience: where it would go.

    Returns:
        What a person answers for, or the policy advisory let pass; a sentence each.

    Raises:
        DataRefused: the adapter may not go there, and nobody answers for it.
        UsageError: data.json cannot be read.
    """
    content = next(file.content for file in files if file.name == "data.json") or b""
    report = from_json(DataReport, content.decode("utf-8"), where=str(run_dir / "data.json"))
    decided = {(made.refusal, made.question): made for made in report.decisions}
    found = [
        problem
        for entry in report.datasets
        for problem in audience_problems(
            Statement(
                card=entry.card_id,
                sensitivity=entry.sensitivity,
                allowed_regions=entry.allowed_regions,
                export=entry.export,
            ),
            audience,
        )
    ]
    answers = {one: decided.get((one.id, audience.recorded(one.message))) for one in found}  # for this target
    unanswered = [one for one, made in answers.items() if made is None]
    passed = [one for one in unanswered if not one.settled and report.licence_policy == "advisory"]
    refused = [one for one in unanswered if one not in passed]
    if refused:
        raise DataRefused(
            "; ".join(dict.fromkeys(f"{one.message} [{one.id}]" for one in refused)),
            where=str(run_dir / "data.json"),
            why="the data's card says who may have what was trained on it",
            fix="; ".join(dict.fromkeys(one.fix for one in refused))
            + "; an override belongs into the recipe, with this target under publish: (`sovtune check` shows it)",
        )
    answered = [f"{one.id}: {made.name} answers for it" for one, made in answers.items() if made is not None]
    return (*answered, *(f"{one.id} is left open: {one.message}" for one in passed))


def _check_gates(files: list[ReleaseFile], run_dir: Path) -> None:
    content = next(file.content for file in files if file.name == "eval.json") or b""
    report = from_json(EvalReport, content.decode("utf-8"), where=str(run_dir / "eval.json"))
    failed = [gate for gate in report.gates if not gate.passed]
    if failed:
        listed = "; ".join(f"{gate.name}: {gate.measured:g}, limit {gate.limit:g}" for gate in failed)
        raise GateFailed(f"not fit to publish: {listed}", where=str(run_dir / "eval.json"))
