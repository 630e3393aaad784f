"""Writes one version into a folder (a share, a medium to carry): whole under its name or not there at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from hashlib import file_digest
from pathlib import Path
from secrets import token_hex

from sovtune.errors import PublishFailed, UsageError
from sovtune.release import ReleaseFile


def publish_to_folder(files: Sequence[ReleaseFile], version: Path, say: Callable[[str], None]) -> str:
    """Write the files to the folder ``version``, read them back, then give the folder its name.

    Args:
        files: what to publish.
        version: ``PATH/<repository name>/<tag>``; must not exist with other content.
        say: gets one line per step.

    Returns:
        A sentence for the receipt.

    Raises:
        UsageError: the version exists with other content.
        PublishFailed: the folder cannot be written, or reads back differently.
    """
    try:
        if _exists_already(files, version):
            said = "nothing to do: this version is there already, with the same content"
            say(said)
            return said
        temporary = version.with_name(f".{version.name}.{token_hex(4)}.tmp")
        say(f"writing {len(files)} files to {version}")
        try:
            _write_version(files, temporary)
            temporary.rename(version)
            _sync_folder(version.parent)
        except OSError:
            # Another process may have given the same version its name in the meantime.
            if version.is_dir() and _exists_already(files, version):
                return "nothing to do: the same version was written by another process meanwhile"
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PublishFailed(
            f"cannot write the version: {error.strerror or error}",
            where=str(error.filename or version),
            why="nothing was published; what was half written is removed",
            fix="free space or correct the rights, then publish again",
        ) from error
    return "every file was read back and compared"


def _exists_already(files: Sequence[ReleaseFile], version: Path) -> bool:
    """Whether the same version is there; another one under this name is refused."""
    if not os.path.lexists(version):
        return False
    different = _differences(files, version)
    if different:
        raise UsageError(
            f"the version exists with other content: {', '.join(different)}",
            where=str(version),
            why="tags do not move; somebody may rely on this one",
            fix="choose another --tag",
        )
    return True


def _differences(files: Sequence[ReleaseFile], folder: Path) -> list[str]:
    """Names that are missing, extra, or have other bytes than the files to publish."""
    there = {path.name for path in folder.iterdir()}
    different = there ^ {file.name for file in files}
    for file in files:
        if file.name in there:
            with (folder / file.name).open("rb") as stream:
                if file_digest(stream, "sha256").hexdigest() != file.sha256:
                    different.add(file.name)
    return sorted(different)


def _write_version(files: Sequence[ReleaseFile], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        if file.content is not None:
            _write(folder / file.name, file.content)
        else:
            with file.source.open("rb") as source, (folder / file.name).open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
    _sync_folder(folder)
    different = _differences(files, folder)
    if different:
        raise PublishFailed(
            f"read back differently: {', '.join(different)}",
            where=str(folder.parent),
            why="the run folder changed meanwhile, or the medium is faulty; nothing was published",
        )


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
