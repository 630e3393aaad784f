"""Duplicates by LSH band through Ray Data shuffles; which pairs meet and which rows stay is decided in ``dedup``.

Every row goes to the buckets of its bands. Ray Data brings the rows of a bucket to one worker, pairs are compared
there, and this machine joins what is alike by union-find, 4 bytes a row. A second shuffle brings the rows of a
cluster together for ``keep_best``, and a sort puts the rows to drop in the order of the input. Signatures do not
travel: a worker reads those it compares from the shards.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from sovtune.data.dedup import (
    BANDS,
    WIDTH,
    Duplicate,
    Member,
    Reason,
    Signatures,
    Sketch,
    as_matrix,
    band_matrix,
    compare,
    exact_key,
    keep_best,
    pairs_in_bucket,
)
from sovtune.data.duplicate_index import Forest, join_alike
from sovtune.data.gate_duplicates import HELD_OUT, Search
from sovtune.data.gate_ray_cluster import Box
from sovtune.data.gate_shard import FEATURE, FEATURES, SIGNATURE_BYTES, SIGNATURES
from sovtune.data.matching import Index
from sovtune.data.record_file import RecordFile, groups
from sovtune.errors import EnvironmentFault

PARTITION_RECORDS = 1 << 19
"""Records (a row in a bucket) that one worker is given at once: about 50 bytes each while they are sorted."""
_AT_ONCE = 4096  # rows made into records, or results read, together
_SIGNATURE = np.dtype(("<u4", (WIDTH,)))
_ALONE = np.uint32(0xFFFFFFFF)  # in the place of a root
_SHORT, _SIGNED = 0, 1  # bands of equal fingerprints, without and with signature; those of MinHash come after
_REASONS: tuple[Reason, ...] = get_args(Reason)

Columns = dict[str, npt.NDArray[Any]]


def shuffled_duplicates(search: Search, workers: int, mark: Path) -> Iterator[Duplicate]:
    """Rows to drop, in the order of the input: those that ``local_duplicates`` finds.

    Args:
        search: shards, held-out sketches, limits.
        workers: processors that Ray Data may use at a time.
        mark: see ``Box``.
    """
    yield from _Search(search, workers, mark).duplicates()


class _Search:
    """The part on this machine: two shuffles are described, and what comes back is joined."""

    def __init__(self, search: Search, workers: int, mark: Path):
        self.search, self.workers = search, workers
        self.box = Box(search, mark)
        self.numbers = [HELD_OUT, *range(len(search.shards))]
        records = sum(_num_records(search, number) for number in self.numbers)
        self.partitions = max(workers, -(-records // PARTITION_RECORDS))
        self.before = len(search.held_out)  # held-out rows are negative: the place of a row is row + before
        last = search.shards[-1] if search.shards else None
        self.forest = Forest(self.before + (last.base + last.rows if last else 0))

    def duplicates(self) -> Iterator[Duplicate]:
        """See ``shuffled_duplicates``."""
        alike = self._shuffled([{"shard": number} for number in self.numbers], bucket_records, join_buckets)
        for batch in alike.iter_batches(batch_size=_AT_ONCE, batch_format="numpy"):
            for row, other in zip(batch["row"].tolist(), batch["other"].tolist(), strict=True):
                self.forest.join(row + self.before, other + self.before)
        self.forest.flatten()
        clustered = list(self._clustered())
        if not clustered:
            return
        gone = self._shuffled(clustered, cluster_records, decide_clusters).sort("row")
        for batch in gone.iter_batches(batch_size=_AT_ONCE, batch_format="numpy"):
            columns = (batch[name].tolist() for name in ("row", "kept", "reason", "similarity"))
            for row, kept, reason, similarity in zip(*columns, strict=True):
                yield Duplicate(row, kept, _REASONS[reason], similarity)

    def _clustered(self) -> Iterator[dict[str, object]]:
        """Shards that have rows in clusters, with the root of each of their rows, or ``_ALONE``."""
        view = self.forest.view
        has_others = np.zeros(len(view), dtype=np.bool_)
        blocks = [(number, *_places(self.search, number)) for number in self.numbers]
        for _, start, end in blocks:
            tops = view[start:end]
            has_others[tops[tops != np.arange(start, end)]] = True
        for number, start, end in blocks:
            roots = np.where(has_others[view[start:end]], view[start:end], _ALONE)
            if np.any(roots != _ALONE):
                yield {"shard": number, "roots": roots.tobytes()}

    def _shuffled(self, items: Sequence[Mapping[str, object]], split: Any, gather: Any) -> Any:
        """A data set: shards are split into records, records of one partition are gathered into results."""
        from ray.data import DataContext, ExecutionOptions, ExecutionResources, from_items
        from ray.data.context import ShuffleStrategy

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        # Tasks only: what a killed worker held is made again, while an actor's share would be lost.
        context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
        context.execution_options = ExecutionOptions(
            resource_limits=ExecutionResources.for_limits(cpu=self.workers), preserve_order=True
        )
        with DataContext.current(context):
            shards = from_items(list(items), override_num_blocks=min(len(items), self.partitions))
            records = shards.map_batches(
                split, batch_size=None, fn_kwargs={"box": self.box, "partitions": self.partitions}
            )
            return records.groupby("partition").map_groups(
                gather, batch_format="numpy", fn_kwargs={"box": self.box}
            )


def _places(search: Search, number: int) -> tuple[int, int]:
    """Where the rows of a shard begin and end among all, held-out texts first."""
    before = len(search.held_out)
    if number == HELD_OUT:
        return 0, before
    shard = search.shards[number]
    return before + shard.base, before + shard.base + shard.rows


def _num_records(search: Search, number: int) -> int:
    if number == HELD_OUT:
        return (1 + BANDS) * len(search.held_out)
    folder = search.shards[number].folder
    signed = (folder / SIGNATURES).stat().st_size // SIGNATURE_BYTES
    return (folder / FEATURES).stat().st_size // FEATURE.itemsize + BANDS * signed


# In the workers


def bucket_records(batch: Columns, box: Box[Search], partitions: int) -> Iterator[Columns]:
    """Shards -> a record for every bucket of every row.

    A record has the ``band`` and the ``key`` of the bucket, the ``row``, and in ``place`` what comparing needs: the
    place of the row's signature in its shard's file, or the second half of a short text's fingerprint.
    """
    search = box.open()
    for number in batch["shard"].tolist():
        members = search.members(number)
        while chunk := list(islice(members, _AT_ONCE)):
            short = [member for _, member in chunk if member.sketch.signature is None]
            if short:
                halves = b"".join(member.sketch.fingerprint[8:] for member in short)
                yield _records(
                    _SHORT, _exact_keys(short), short, np.frombuffer(halves, dtype="<i8"), partitions
                )
            signatures = [
                member.sketch.signature for _, member in chunk if member.sketch.signature is not None
            ]
            if not signatures:
                continue
            signed = [member for _, member in chunk if member.sketch.signature is not None]
            places = np.array(
                [at for at, member in chunk if member.sketch.signature is not None], dtype=np.int64
            )
            bands = (_exact_keys(signed), *band_matrix(as_matrix(signatures)).T)
            for band, keys in enumerate(bands, _SIGNED):
                yield _records(band, keys, signed, places, partitions)


def _exact_keys(members: Sequence[Member]) -> npt.NDArray[np.uint64]:
    return np.array([exact_key(member.sketch.fingerprint) for member in members], dtype=np.uint64)


def _records(
    band: int, keys: npt.NDArray[np.uint64], members: Sequence[Member], places: Index, partitions: int
) -> Columns:
    return {
        "partition": (keys % np.uint64(partitions)).astype(np.int64),
        "band": np.full(len(keys), band, dtype=np.int64),
        "key": keys,
        "row": np.array([member.row for member in members], dtype=np.int64),
        "place": places,
    }


def join_buckets(batch: Columns, box: Box[Search]) -> Columns:
    """The buckets of a partition -> pairs of a ``row`` and the first ``other`` it is joined with."""
    search = box.open()
    rows, first, at = np.unique(batch["row"], return_index=True, return_inverse=True)
    places = batch["place"][first]
    blocks = list(_buckets(batch, at))
    signed = [block.ravel() for band, block in blocks if band != _SHORT]
    needed = np.unique(np.concatenate(signed)) if signed else np.empty(0, dtype=np.int64)
    forest = Forest(len(rows))
    with fetched(search, rows[needed], places[needed]) as signatures:

        def near(one: Index, other: Index) -> npt.NDArray[np.bool_]:
            first, second = (signatures.gather(np.searchsorted(needed, pick)) for pick in (one, other))
            return compare(first, second, search.threshold)[1]

        def same(one: Index, other: Index) -> npt.NDArray[np.bool_]:
            equal: npt.NDArray[np.bool_] = places[one] == places[other]
            return equal

        for band, block in blocks:
            for one, other in pairs_in_bucket(block):
                join_alike(forest, one, other, same if band == _SHORT else near)
    forest.flatten()
    joined = np.flatnonzero(forest.view != np.arange(len(rows)))
    return {"row": rows[joined], "other": rows[forest.view[joined]]}


def _buckets(batch: Columns, at: Index) -> Iterator[tuple[int, Index]]:
    """Buckets with two rows or more, in blocks (see ``groups``), their rows in the order of the input."""
    for band in np.unique(batch["band"]).tolist():
        mine = np.flatnonzero(batch["band"] == band)
        mine = mine[np.argsort(at[mine])]
        for block in groups(batch["key"][mine], at[mine]):
            yield band, block


def cluster_records(batch: Columns, box: Box[Search], partitions: int) -> Iterator[Columns]:
    """Shards and the roots of their rows -> a record for every row in a cluster: a ``Member`` without signature."""
    search = box.open()
    for number, packed in zip(batch["shard"].tolist(), batch["roots"].tolist(), strict=True):
        roots = np.frombuffer(packed, dtype=np.uint32)
        first = _places(search, number)[0] - len(search.held_out)
        clustered = (
            (at, member) for at, member in search.members(number) if roots[member.row - first] != _ALONE
        )
        while chunk := list(islice(clustered, _AT_ONCE)):
            members = [member for _, member in chunk]
            rows = np.array([member.row for member in members], dtype=np.int64)
            fingerprints = np.frombuffer(
                b"".join(member.sketch.fingerprint for member in members), dtype="<u8"
            )
            yield {
                "partition": roots[rows - first].astype(np.int64) % partitions,
                "root": roots[rows - first].astype(np.int64),
                "row": rows,
                "place": np.array([at for at, _ in chunk], dtype=np.int64),
                "length": np.array([member.sketch.length for member in members], dtype=np.int64),
                "held_out": np.array([member.held_out for member in members]),
                "signed": np.array([member.sketch.signature is not None for member in members]),
                "low": fingerprints[0::2],
                "high": fingerprints[1::2],
            }


def decide_clusters(batch: Columns, box: Box[Search]) -> Columns:
    """The clusters of a partition -> the rows to drop, each with the row ``kept`` in its stead and why."""
    search = box.open()
    order = np.lexsort((batch["row"], -batch["length"], ~batch["held_out"], batch["root"]))  # dedup.priority
    signed = np.flatnonzero(batch["signed"])
    signed = signed[np.argsort(batch["row"][signed])]
    gone: list[Duplicate] = []
    with fetched(search, batch["row"][signed], batch["place"][signed]) as signatures:
        places = np.searchsorted(batch["row"][signed], batch["row"])
        ends = np.flatnonzero(np.diff(batch["root"][order])) + 1
        for cluster in np.split(order, ends):
            gone += keep_best(_members(batch, cluster, places, signatures), search.threshold)
    return {
        "row": np.array([one.row for one in gone], dtype=np.int64),
        "kept": np.array([one.kept for one in gone], dtype=np.int64),
        "reason": np.array([_REASONS.index(one.reason) for one in gone], dtype=np.int64),
        "similarity": np.array([one.similarity for one in gone], dtype=np.float64),
    }


def _members(
    batch: Columns, cluster: Index, places: Index, signatures: RecordFile[np.uint32]
) -> Iterator[Member]:
    """The rows of a cluster in the given order; their signatures are read one at a time."""
    for at in cluster.tolist():
        signature = signatures.read(int(places[at])).tobytes() if batch["signed"][at] else None
        fingerprint = batch["low"][at].tobytes() + batch["high"][at].tobytes()
        sketch = Sketch(fingerprint, signature, int(batch["length"][at]))
        yield Member(int(batch["row"][at]), sketch, bool(batch["held_out"][at]))


@contextmanager
def fetched(search: Search, rows: Index, places: Index) -> Iterator[RecordFile[np.uint32]]:
    """Signatures of rows, copied from their shards into a file of this machine: record i belongs to ``rows[i]``.

    Args:
        search: the shards.
        rows: ascending.
        places: of their signatures in the files of their shards.

    Raises:
        EnvironmentFault: a shard cannot be read, or the file cannot be written.
    """
    bases = np.array([shard.base for shard in search.shards], dtype=np.int64)
    owners = np.searchsorted(bases, rows, side="right") - 1  # held-out rows are before the first: HELD_OUT
    try:
        with TemporaryDirectory(prefix="sovtune-signatures-") as folder:
            file: RecordFile[np.uint32] = RecordFile(Path(folder) / "signatures", _SIGNATURE)
        try:  # the file has lost its name already: nothing of it is left when this worker is killed
            for owner in np.unique(owners).tolist():
                own = places[owners == owner]
                for start in range(0, len(own), _AT_ONCE):
                    file.append(_signatures(search, owner, own[start : start + _AT_ONCE]))
            yield file
        finally:
            file.remove()
    except OSError as error:
        raise EnvironmentFault(
            f"the Ray worker on {socket.gethostname()} cannot read or keep signatures: {error.strerror or error}",
            where=error.filename,
            fix="free disk space there, or let TMPDIR name a larger disk before Ray is started",
        ) from error


def _signatures(search: Search, number: int, places: Index) -> Signatures:
    if number == HELD_OUT:
        sketches = (search.held_out[place] for place in places.tolist())
        return as_matrix([sketch.signature for sketch in sketches if sketch.signature is not None])
    with (search.shards[number].folder / SIGNATURES).open("rb", buffering=0) as stream:
        read = (
            os.pread(stream.fileno(), SIGNATURE_BYTES, place * SIGNATURE_BYTES) for place in places.tolist()
        )
        return as_matrix(list(read))
