"""`sovtune data scan`: loose files through the data gate, with everything it writes put in place at the end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from sovtune.base import cache_home
from sovtune.data.files import LocalFile, markdown_in
from sovtune.data.gate import Curated, curate
from sovtune.data.gate_ray_cluster import RayCluster
from sovtune.data.gate_read import GateSource
from sovtune.data.gate_report import DataGateReport
from sovtune.data.gate_settings import GateSettings, Percentiles, PersonalDataPolicy, SecretsPolicy
from sovtune.data.quality import Thresholds
from sovtune.data.scripts import primary
from sovtune.errors import EnvironmentFault, UsageError
from sovtune.figures import known_languages, size

if TYPE_CHECKING:
    from sovtune.progress import Reporter

W = TypeVar("W", bound=str)
_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_PERSONAL_DATA: dict[str, PersonalDataPolicy] = {"report": "report", "mask": "mask", "drop": "drop"}
_SECRETS: dict[str, SecretsPolicy] = {"mask": "mask", "drop": "drop"}
_ENGINES = {"local": "local", "ray": "ray"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What the command line asked for; words are not checked yet."""

    files: tuple[Path, ...]
    language: str
    candidates: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    against: tuple[Path, ...] = ()
    personal_data: str = "mask"
    secrets: str = "mask"
    quality: str = "fixed"
    out: Path | None = None
    decisions: Path | None = None
    report: Path | None = None
    engine: str = "local"
    ray_address: str | None = None
    workers: int | None = None
    work: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that will be written."""
        return tuple(path for path in (self.out, self.decisions, self.report) if path is not None)


def scan_files(request: ScanRequest, progress: Reporter) -> DataGateReport:
    """Scan, then write what was asked for; on any error nothing that was there before is touched.

    Raises:
        UsageError: a word of the command line is wrong, or an output would overwrite an input.
        DataRefused: a file is broken (see ``curate``).
        EnvironmentFault: something cannot be written.
    """
    settings = settings_of(request)
    cluster = _cluster(request)
    sources = sources_of(request.files, settings.languages)
    held_out = sources_of(request.against, settings.languages, any_fields=True)
    _check_outputs(request, [*sources, *held_out])
    progress.stage("scan")
    begun = time.monotonic()

    def tick(rows: int, read: int) -> None:
        pace = size(read / max(time.monotonic() - begun, 1e-9))
        progress.say(f"{rows:,} rows, {size(read)} of text, {pace}/s")

    with (
        _work_folder(request, settings) as folder,
        curate(
            sources,
            settings,
            folder,
            held_out=held_out,
            workers=request.workers,
            cluster=cluster,
            progress=tick,
        ) as curated,
    ):
        _write(request, curated)
        return curated.report


def settings_of(request: ScanRequest) -> GateSettings:
    """The gate's settings.

    Raises:
        UsageError: an unknown language or word.
    """
    check_tags((request.language, *request.candidates, *request.accepted))
    return GateSettings(
        language=request.language,
        candidates=request.candidates,
        accepted=request.accepted,
        quality=_quality(request.quality),
        personal_data=_one_of("--pii", request.personal_data, _PERSONAL_DATA),
        secrets=_one_of("--secrets", request.secrets, _SECRETS),
    )


def _cluster(request: ScanRequest) -> RayCluster | None:
    if _one_of("--engine", request.engine, _ENGINES) == "ray":
        return RayCluster(address=request.ray_address)
    if request.ray_address is not None:
        raise UsageError(
            "--ray-address is read only with --engine ray", fix="add --engine ray, or leave it out"
        )
    return None


def check_tags(tags: Sequence[str]) -> None:
    """Refuse what is no language tag.

    Raises:
        UsageError: a tag's language is not in ISO 639.
    """
    for tag in tags:
        if not _TAG.fullmatch(tag) or primary(tag) not in known_languages():
            raise UsageError(f"`{tag}` is no language tag", fix="write tags such as ko, ar or zh-Hant")


def _one_of(option: str, word: str, known: Mapping[str, W]) -> W:
    if word not in known:
        raise UsageError(f"{option} {word}: expected {' or '.join(known)}")
    return known[word]


def _quality(word: str) -> Thresholds | Percentiles | None:
    if word in ("fixed", "off"):
        return Thresholds() if word == "fixed" else None
    try:
        low, high = (float(part) for part in word.split(","))
    except ValueError:
        raise UsageError(
            f"--quality {word}: expected fixed, off, or two percentiles such as 0.5,99.5"
        ) from None
    if not 0 <= low <= 50 <= high <= 100:
        raise UsageError(f"--quality {word}: the first is 0 to 50, the second 50 to 100")
    return Percentiles(low=low, high=high)


def sources_of(
    paths: Sequence[Path], languages: tuple[str, ...], *, any_fields: bool = False
) -> list[GateSource]:
    """The files behind the words of a command line; a folder stands for its Markdown files.

    Raises:
        UsageError: there is no such file.
        DataRefused: a folder without Markdown.
    """
    sources = []
    for path in paths:
        if _is_absent(path):
            raise UsageError("there is no such file", where=str(path), fix="check the path")
        file = LocalFile(path=path, shown=str(path), languages=languages)
        files = markdown_in(path, str(path), languages) if os.path.isdir(path) else (file,)
        sources += [GateSource(file=one, any_fields=any_fields) for one in files]
    return sources


def _is_absent(path: Path) -> bool:
    """Whether nothing has this name; what cannot be looked at has its own error when it is opened."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _check_outputs(request: ScanRequest, sources: Sequence[GateSource]) -> None:
    inputs = {os.path.realpath(source.file.path) for source in sources}
    outputs = [os.path.realpath(path) for path in request.outputs]
    if len(set(outputs)) < len(outputs):
        raise UsageError("two outputs have the same name")
    for path, real in zip(request.outputs, outputs, strict=True):
        if real in inputs:
            raise UsageError("this output is one of the inputs", where=str(path), fix="give it another name")
        if path.is_dir():
            raise UsageError("this output is a folder", where=str(path), fix="name a file")
        if not path.parent.is_dir():
            raise UsageError("there is no such folder", where=str(path.parent), fix=f"mkdir -p {path.parent}")


@contextmanager
def _work_folder(request: ScanRequest, settings: GateSettings) -> Iterator[Path]:
    """The folder of finished parts: the user's, or one in the cache that goes when the scan is done."""
    if request.work is not None:
        yield request.work
        return
    paths = [os.path.realpath(path) for path in (*request.files, *request.against)]
    name = hashlib.sha256(json.dumps([paths, asdict(settings)], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_home() / "gate" / name
    yield folder
    shutil.rmtree(
        folder, ignore_errors=True
    )  # after success only: a repeated scan goes on from what is there


def _write(request: ScanRequest, curated: Curated) -> None:
    with _in_place(request.outputs) as streams:
        clean, decisions, page = (
            streams.get(path) if path is not None else None
            for path in (request.out, request.decisions, request.report)
        )
        if clean is not None or decisions is not None:
            for row in curated.rows():
                if decisions is not None:
                    decisions.write(json.dumps(row.decision(), ensure_ascii=False) + "\n")
                if clean is not None and row.document is not None:
                    clean.write(json.dumps(row.document.as_row(), ensure_ascii=False) + "\n")
        if page is not None:
            from sovtune.data_view import gate_page

            page.write(gate_page(curated.report))


@contextmanager
def _in_place(paths: Sequence[Path]) -> Iterator[dict[Path, TextIO]]:
    """Files to write, put in place together when all are complete; on an error none of them appears.

    Raises:
        EnvironmentFault: a file cannot be written, for example because the disk is full.
    """
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in paths}
    streams: dict[Path, TextIO] = {}
    try:
        for path, part in parts.items():
            streams[path] = part.open("w", encoding="utf-8")
        yield streams
        for stream in streams.values():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write: {error.strerror or error}",
            where=", ".join(str(path) for path in paths),
            why="nothing was put in place; finished parts of the scan are kept",
            fix="free disk space there or name another folder, then repeat the command",
        ) from error
    finally:
        for stream in streams.values():
            try:
                stream.close()
            except OSError:  # a full disk was named above; closing writes the rest again
                continue
        for part in parts.values():
            part.unlink(missing_ok=True)
