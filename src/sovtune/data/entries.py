"""What an entry of a card's ``files`` stands for: a file, a folder of Markdown, a Hub snapshot."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sovtune.data.card_schema import HUB_PREFIX, DataCard, DataFile
from sovtune.data.files import LocalFile, hash_file, hash_many, markdown_in, named_faults
from sovtune.data.formats import count_rows
from sovtune.errors import DataRefused, EnvironmentFault
from sovtune.records import FileHash

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An entry as it is on disk: size and hash, and the rows when they were counted."""

    hash: FileHash
    rows: int


def files_of(card: DataCard, entry: DataFile, folder: Path) -> tuple[LocalFile, ...]:
    """The files to read for one entry, in order.

    Args:
        card: the card.
        entry: one of its files.
        folder: the card's folder; paths are relative to it.

    Raises:
        DataRefused: a folder without Markdown, or a Hub data set without such a split or configuration.
        EnvironmentFault: the Hub data set is neither in the cache nor to be had from the endpoint.
    """
    languages = tuple(language.tag for language in card.languages)
    if entry.path.startswith(HUB_PREFIX):
        return _from_hub(entry, languages)
    path = folder / entry.path
    file = LocalFile(path=path, shown=shown_path(entry), languages=languages)
    with named_faults(file):
        path.stat()
    return markdown_in(path, file.shown, languages) if path.is_dir() else (file,)


def shown_path(entry: DataFile) -> str:
    """The entry's path; of a path from the root only the last part, for it ends up in what is published."""
    return Path(entry.path).name if entry.path.startswith("/") else entry.path


def measure(card: DataCard, entry: DataFile, folder: Path) -> Figures:
    """Hash the entry's files and count their rows.

    Raises:
        DataRefused: a file cannot be read or is broken.
        EnvironmentFault: see ``files_of``.
    """
    files = files_of(card, entry, folder)
    return Figures(hash=hash_entry(entry, files), rows=sum(count_rows(file, card.format) for file in files))


def hash_entry(entry: DataFile, files: tuple[LocalFile, ...]) -> FileHash:
    """Size and hash of an entry: of the file itself, or over all files of a folder or snapshot."""
    if len(files) == 1 and files[0].shown == shown_path(entry):
        return hash_file(files[0])
    return hash_many(files, shown_path(entry))


def _from_hub(entry: DataFile, languages: tuple[str, ...]) -> tuple[LocalFile, ...]:
    """The cached snapshot when it is the one the card means, else a fresh download."""
    if _COMMIT.fullmatch(str(entry.revision)):
        cached = _snapshot(entry, local_only=True)
        if cached is not None:
            files = hub_split(entry, cached, languages)
            if hash_entry(entry, files).sha256 == entry.sha256:
                return files
    fetched = _snapshot(entry, local_only=False)
    if fetched is None:
        raise EnvironmentFault(
            f"the data set {entry.path} at {entry.revision} is not in the cache and cannot be fetched",
            where=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            fix="set HF_ENDPOINT to a Hub that this machine can reach and that has it (and SOVTUNE_HUB_TOKEN "
            "when it is private), or copy its files here and name them in the card",
        )
    return hub_split(entry, fetched, languages)


def _snapshot(entry: DataFile, *, local_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            entry.path.removeprefix(HUB_PREFIX),
            repo_type="dataset",
            revision=entry.revision,
            endpoint=os.environ.get("HF_ENDPOINT"),
            cache_dir=os.environ.get("HF_HUB_CACHE"),
            token=os.environ.get("SOVTUNE_HUB_TOKEN") or False,
            local_files_only=local_only,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError):
        return None
    return Path(folder)


def hub_split(entry: DataFile, snapshot: Path, languages: tuple[str, ...]) -> tuple[LocalFile, ...]:
    """The files of one split, as `datasets` finds them by the data set's README or its file names.

    Args:
        entry: the card's entry; ``config`` and ``split`` choose.
        snapshot: folder with the data set's files.
        languages: the card's language tags.

    Raises:
        DataRefused: no such configuration or split, or several and none named.
    """
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(str(snapshot), name=entry.config).config.data_files or {}
    except (ValueError, FileNotFoundError) as error:
        raise DataRefused(
            f"`datasets` finds no such data in it: {error}",
            where=entry.path,
            fix="name `config` and `split` in the card, or the files themselves",
        ) from error
    splits = {str(name): [Path(str(path)) for path in paths] for name, paths in found.items()}
    name = entry.split or (next(iter(splits)) if len(splits) == 1 else None)
    if name is None or name not in splits:
        what = f"no split named {name}" if name else "several splits, and the card names none"
        raise DataRefused(
            what, where=entry.path, fix=f"write `split:` with one of {', '.join(sorted(splits))}"
        )
    root = snapshot.resolve()
    return tuple(
        LocalFile(path=path, shown=f"{entry.path}/{_below(path, snapshot, root)}", languages=languages)
        for path in sorted(splits[name])
    )


def _below(path: Path, *roots: Path) -> str:
    """The path below the first root that holds it; `datasets` may or may not have resolved links."""
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.name
