"""What a teacher finds likely, on disk: measured once for each row of tokens, read by every run that needs it.

A folder of the cache holds what one teacher says under one setting: the ids and log-probabilities of the places with a
label, one after the other, and a list of rows with where theirs begin. Rows are known by their content, so that new
data, another order or more passes cost only what is new. A row is in the list once its numbers are on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sovtune.fastpath.distil_loss import Taught
from sovtune.fastpath.loss import IGNORE
from sovtune.train.rows import FlatCollator, PaddedCollator, Row, digest, mask_first_tokens

LIST, IDS, LOG_PROBS = "rows.jsonl", "ids.bin", "log_probs.bin"
BYTES = 4
"""Of an id and of a log-probability."""


def learnt_places(row: Row) -> list[bool]:
    """Whether each token of a row is one that is predicted."""
    return [label != IGNORE for label in mask_first_tokens(row["labels"], row["lengths"])]


class TaughtStore:
    """A folder as said at the top.

    Args:
        folder: made when it is not there.
        top: tokens kept at each place.
    """

    def __init__(self, folder: Path, top: int):
        self.folder, self.top = folder, top
        self.spans: dict[str, range] = {}
        """Digest of a row -> its places."""
        self.places = 0
        folder.mkdir(parents=True, exist_ok=True)
        for name, count in self._listed():
            self._note(name, count)

    def missing(self, names: Sequence[str]) -> list[int]:
        """Which of the rows are not known yet, each once, in their order; by digest."""
        new: dict[str, int] = {}
        for index, name in enumerate(names):
            if name not in self.spans:
                new.setdefault(name, index)
        return list(new.values())

    def add(
        self, groups: Iterable[Sequence[Row]], measure: Callable[[Sequence[Row]], Taught]
    ) -> Iterator[int]:
        """Measure rows and write them; only one process may do so at a time.

        What a killed process left behind its last whole row is cut off first.

        Args:
            groups: rows that are measured together.
            measure: rows -> the teacher at their learnt places, one row after the other.

        Yields:
            How many rows are written, after each group.
        """
        done = 0
        with (self.folder / IDS).open("ab") as ids, (self.folder / LOG_PROBS).open("ab") as log_probs:
            ids.truncate(self.places * self.top * BYTES)
            log_probs.truncate(self.places * (self.top + 1) * BYTES)
            self._rewrite_list()
            with (self.folder / LIST).open("a", encoding="utf-8") as listed:
                for group in groups:
                    found = measure(group)
                    ids.write(found.ids.to(torch.int32).cpu().numpy().tobytes())
                    log_probs.write(found.log_probs.float().cpu().numpy().tobytes())
                    ids.flush()
                    log_probs.flush()
                    for row in group:
                        name, count = digest(row), sum(learnt_places(row))
                        listed.write(_line(name, count))
                        self._note(name, count)
                    listed.flush()
                    done += len(group)
                    yield done

    def _note(self, name: str, count: int) -> None:
        self.spans[name] = range(self.places, self.places + count)
        self.places += count

    def at(self, places: Sequence[int]) -> Taught:
        """The teacher at some places of the store."""
        ids = self._read(IDS, torch.int32, self.top, places)
        return Taught(ids.long(), self._read(LOG_PROBS, torch.float32, self.top + 1, places))

    def covered(self, names: Sequence[str]) -> float:
        """Mean probability that the teacher gives to the tokens kept, over the learnt places of rows by digest."""
        total, count = 0.0, 0
        for name in names:
            left = self.at(self.spans[name]).log_probs[:, -1].double().exp()
            total += float((1 - left).sum())
            count += len(left)
        return total / max(count, 1)

    def _read(self, name: str, dtype: torch.dtype, width: int, places: Sequence[int]) -> Tensor:
        """Lines of a file. Mapped into memory, all that was ever read would count as this process's."""
        parts = [torch.empty(0, width, dtype=dtype)]
        with (self.folder / name).open("rb") as stream:
            for run in _runs(places):
                stream.seek(run.start * width * BYTES)
                held = bytearray(stream.read(len(run) * width * BYTES))
                parts.append(torch.frombuffer(held, dtype=dtype).view(-1, width))
        return torch.cat(parts)

    def _listed(self) -> Iterator[tuple[str, int]]:
        """Rows whose numbers are on disk. A last line that a kill cut in half is left out."""
        path = self.folder / LIST
        if not path.is_file():
            return
        room = min(
            _size(self.folder / IDS) // (self.top * BYTES),
            _size(self.folder / LOG_PROBS) // ((self.top + 1) * BYTES),
        )
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                return
            room -= entry["places"]
            if room < 0:  # the machine went down before the numbers reached the disk
                return
            yield entry["row"], entry["places"]

    def _rewrite_list(self) -> None:
        """The list with what is known and nothing else."""
        part = self.folder / f"{LIST}.part"
        part.write_text(
            "".join(_line(name, len(span)) for name, span in self.spans.items()), encoding="utf-8"
        )
        os.replace(part, self.folder / LIST)


def _runs(places: Sequence[int]) -> Iterator[range]:
    """Places that follow on each other, together."""
    run = range(0)
    for place in places:
        if run and place == run.stop:
            run = range(run.start, place + 1)
            continue
        if run:
            yield run
        run = range(place, place + 1)
    if run:
        yield run


def _line(name: str, places: int) -> str:
    return json.dumps({"row": name, "places": places}) + "\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class TaughtRows(Dataset[Mapping[str, Any]]):
    """The rows of a run in training order, each with ``taught``: for each token its place in the store, or -1."""

    def __init__(self, rows: Sequence[Row], store: TaughtStore):
        self.rows, self.store = rows, store

    def __len__(self) -> int:
        """Rows of all steps."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """A row."""
        row = self.rows[index]
        place = self.store.spans[digest(row)].start
        taught = []
        for learnt in learnt_places(row):
            taught.append(place if learnt else -1)
            place += learnt
        return {**row, "taught": taught}


class TaughtCollator:
    """Rows of ``TaughtRows`` -> a batch of the engine's collator, with ``taught_ids`` and ``taught_log_probs``."""

    def __init__(self, inner: FlatCollator | PaddedCollator, store: TaughtStore):
        self.inner, self.store = inner, store

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Both are of the places with a label, in the order of rows and their tokens."""
        places = [place for row in rows for place in row["taught"] if place >= 0]
        taught = self.store.at(places)
        batch: dict[str, Any] = dict(self.inner(rows))
        return {**batch, "taught_ids": taught.ids, "taught_log_probs": taught.log_probs}
