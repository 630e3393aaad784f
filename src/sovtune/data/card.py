"""Data cards: read one, hold its files to the figures in it, and refuse data that may not be trained on."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sovtune.data.card_questions import open_questions
from sovtune.data.card_rights import rights_problems
from sovtune.data.card_schema import HUB_PREFIX, DataCard, DataFile
from sovtune.data.entries import Figures, measure
from sovtune.data.files import LocalFile, hash_file
from sovtune.errors import CardError, DataRefused, LicenceRefused, Problem
from sovtune.explain import check, place_of
from sovtune.records import FileHash
from sovtune.yaml_file import KeyPath, YamlFile, dotted, read_yaml

__all__ = [
    "DataCard",
    "LoadedCard",
    "check_card",
    "check_loaded",
    "chosen_files",
    "load_card",
    "verify_documents",
    "verify_files",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCard:
    """A card, where it lies, and where each of its values stands."""

    card: DataCard
    path: Path
    yaml: YamlFile

    @property
    def folder(self) -> Path:
        """The card's folder; paths in the card are relative to it."""
        return self.path.parent

    def where(self, *path: str | int) -> str:
        """``file:line:column`` of a value, for example ``where("files", 0, "sha256")``."""
        place = place_of(self.yaml.marks, path)
        return f"{place.file}:{place.line}:{place.column}"


def load_card(path: Path) -> LoadedCard:
    """Read and check a data card; its data files are not touched.

    Raises:
        CardError: with every mistake and its line; a question of a drafted card that nobody has answered is one.
    """
    file = read_yaml(path)
    card = check(DataCard, file.values, file.marks, (*file.problems, *open_questions(file)))
    if isinstance(card, list):
        raise CardError(card)
    return LoadedCard(card=card, path=path, yaml=file)


def check_card(path: Path, *, for_training: bool = True) -> list[Problem]:
    """Everything wrong with a card that can be found without reading its data: fast, and it raises nothing.

    Args:
        path: the card.
        for_training: the data is to be trained on, so the card must allow it.
    """
    try:
        return check_loaded(load_card(path), for_training=for_training)
    except CardError as error:
        return error.problems


def check_loaded(loaded: LoadedCard, *, for_training: bool = True) -> list[Problem]:
    """``check_card`` for a card that has been read."""
    found = list(_missing_files(loaded))
    if for_training:
        found += [(problem.at, problem.message) for problem in rights_problems(loaded.card)]
    problems = []
    for at, message in found:
        place = place_of(loaded.yaml.marks, at)
        problems.append(
            Problem(file=place.file, line=place.line, column=place.column, path=dotted(at), message=message)
        )
    return sorted(problems, key=lambda problem: (problem.line, problem.column))


def chosen_files(loaded: LoadedCard, split: str | None) -> tuple[tuple[int, DataFile], ...]:
    """The card's files of one split, each with its index in the card.

    Args:
        loaded: the card.
        split: which split; None for all files of a card without splits, or with a single one.

    Raises:
        DataRefused: there is no such split, or there are several and none is named.
    """
    files = tuple(enumerate(loaded.card.files))
    splits = sorted({file.split for _, file in files if file.split is not None})
    listed = ", ".join(splits)
    if split is None:
        if len(splits) > 1:
            raise DataRefused(
                f"the card has several splits ({listed}) and none is named",
                where=loaded.where("files"),
                fix=f"write `split: {splits[0]}` beside `card:` in the recipe",
            )
        return files
    chosen = tuple((index, file) for index, file in files if file.split == split)
    if not chosen:
        near = difflib.get_close_matches(split, splits, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise DataRefused(
            f"the card has no split `{split}` (it has {listed or 'none'}){hint}",
            where=loaded.where("files"),
            fix="correct `split:` in the recipe",
        )
    return chosen


def verify_files(
    loaded: LoadedCard,
    split: str | None,
    *,
    for_training: bool = True,
    overruled: Collection[str] = (),
) -> tuple[FileHash, ...]:
    """Hold the files of a split to the card: they are there, unchanged, and may be trained on.

    Args:
        loaded: the card.
        split: see ``chosen_files``.
        for_training: False for held-out text, which is only measured and needs no right to train.
        overruled: ids of refusals that a person answers for (see ``data.permission``).

    Raises:
        LicenceRefused: ``rights.training`` is not yes, or the right has expired.
        DataRefused: a file is missing or broken; its bytes, SHA-256 or rows are not the card's; no
            such split.
        EnvironmentFault: a Hub data set cannot be had.
    """
    chosen = chosen_files(loaded, split)
    if for_training:
        for problem in rights_problems(loaded.card):
            if problem.id not in overruled:
                raise LicenceRefused(
                    problem.message,
                    where=loaded.where(*problem.at),
                    why="sovtune trains only on data whose card says that it may",
                    fix=problem.fix,
                )
    verify_documents(loaded)
    hashes = []
    for index, entry in chosen:
        figures = measure(loaded.card, entry, loaded.folder)
        differing = differences(entry, figures)
        if differing:
            raise DataRefused(
                f"{entry.path} is not what the card describes: {'; '.join(differing)}",
                where=loaded.where("files", index),
                why="the card speaks for other bytes than these",
                fix="put the right file back; only if the change was meant: "
                f"`python scripts/hash_card.py {loaded.yaml.file} --write`, and give the card a new version",
            )
        hashes.append(figures.hash)
    return tuple(hashes)


def differences(entry: DataFile, figures: Figures) -> list[str]:
    """Where the figures of an entry are not those on disk, one phrase each."""
    pairs = (
        ("bytes", entry.bytes, figures.hash.bytes),
        ("rows", entry.rows, figures.rows),
        ("sha256", entry.sha256, figures.hash.sha256),
    )
    return [
        f"{name} {found}, expected {expected}"
        for name, expected, found in pairs
        if expected is not None and expected != found
    ]


def _missing_files(loaded: LoadedCard) -> list[tuple[KeyPath, str]]:
    """Files the card names that are not there, or not of the size it gives."""
    found: list[tuple[KeyPath, str]] = []
    for index, entry in enumerate(loaded.card.files):
        path = loaded.folder / entry.path
        if entry.path.startswith(HUB_PREFIX):
            continue
        try:
            size = None if path.is_dir() else path.stat().st_size
        except OSError as error:
            found.append((("files", index, "path"), f"cannot read {entry.path}: {error.strerror}"))
            continue
        if None not in (size, entry.bytes) and size != entry.bytes:
            message = f"the file has {size} bytes, the card says {entry.bytes}"
            found.append((("files", index, "bytes"), message))
    for at, name, _ in _documents(loaded):
        if not os.path.isfile(loaded.folder / name):  # Path's may raise
            found.append((at, f"there is no file {name}"))
    return found


def _documents(loaded: LoadedCard) -> list[tuple[KeyPath, str, str | None]]:
    """The texts that the rights in the card were read from: where the card names each, its path, its hash there.

    A permission is a letter, so its file must be there; under another basis `agreement` may be a file number.
    """
    licence, rights = loaded.card.licence, loaded.card.rights
    found: list[tuple[KeyPath, str, str | None]] = []
    if licence.evidence is not None:
        found.append((("licence", "evidence"), licence.evidence, licence.sha256))
    letter = rights.agreement
    if letter is not None and (
        rights.basis == "permission" or rights.agreement_sha256 or os.path.isfile(loaded.folder / letter)
    ):
        found.append((("rights", "agreement"), letter, rights.agreement_sha256))
    return found


def verify_documents(loaded: LoadedCard) -> dict[str, FileHash]:
    """Hash the licence's evidence and the letter, and hold them to the card.

    Returns:
        ``evidence`` and ``agreement``, as far as the card names a file.

    Raises:
        DataRefused: one is missing, or is not what the card's hash says.
    """
    hashes = {}
    for at, name, expected in _documents(loaded):
        shown = Path(name).name if name.startswith("/") else name  # it ends up in what is published
        found = hash_file(LocalFile(path=loaded.folder / name, shown=shown))
        if expected not in (None, found.sha256):
            what = "licence's evidence" if at[-1] == "evidence" else "agreement"
            key = "sha256" if at[-1] == "evidence" else "agreement_sha256"
            raise DataRefused(
                f"the {what} has changed: sha256 {found.sha256}, expected {expected}",
                where=loaded.where(at[0], key),
                why="the rights in this card were read from another text",
                fix="read the new text, then correct the rights and the hash in the card",
            )
        hashes[str(at[-1])] = found
    return hashes
