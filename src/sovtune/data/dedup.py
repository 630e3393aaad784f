"""Exact and near-duplicates: fingerprints, MinHash signatures, bands, and which row of a cluster is kept.

Everything here is a pure function of its arguments, so that the index on disk (``duplicate_index.py``) and a
shuffle by band on many machines give the same answer:

1. ``sketch_all(texts)`` where the texts are;
2. every row goes to the buckets ``bucket_keys(sketch)``; inside a bucket ``pairs_in_bucket`` names the pairs
   to compare and ``same_text`` compares them;
3. ``merge_clusters(pairs)`` joins them, ``keep_best(members)`` decides per cluster.

What counts as a near-duplicate. Two texts whose sets of character 5-grams (after NFC and case folding,
without white space and punctuation) overlap by an estimated Jaccard index of ``THRESHOLD`` or more; in a text
of fewer than 70 such 5-grams, where one changed word may bring the index below that, correspondingly less
(``required_similarity``). A text shorter than ``MIN_CHARACTERS`` has no signature and is only ever an exact
duplicate: in a short chat turn one word is the message ("when does the bank open?", "when does the shop
open?"). Texts made from one template are near-duplicates when the template is about 82 % of each of them or
more; they are kept when what fills the template is longer than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from sovtune.data.matching import (
    BARRIER,
    Codes,
    Index,
    batches,
    categories,
    joined_nfc,
    nfc,
)
from sovtune.data.scripts import codes_of

THRESHOLD = 0.7
"""Estimated Jaccard index from which two texts are near-duplicates; scripts/bench_dedup.py measures it."""
PERMUTATIONS = 128
WIDTH = PERMUTATIONS + 1
"""Hashes per signature, and uint32 per signature: the last is the number of shingles. The standard error of
the estimate at 0.7 is sqrt(0.7 * 0.3 / 128) = 0.04."""
SHINGLE = 5
"""Characters per shingle."""
MIN_CHARACTERS = 44
"""Letters and digits from which a text has a signature: 40 shingles, of which a changed word of eight letters
leaves more than half of the union in common, the least the bands can find."""
ONE_WORD = SHINGLE - 1 + 8
"""Shingles that may differ in a short text: a word of eight letters and what overlaps it."""
BANDS, BAND_ROWS = 25, 5
"""Two texts meet in a bucket with probability 1 - (1 - J^5)^25: 0.99 at J = 0.7, 0.55 at 0.5, 0.06 at 0.3."""
CROWDED = 256
"""Members up to which every pair of a bucket is compared."""
NEIGHBOURS = 32
"""In a crowded bucket: how many of the first and of the preceding members each one is compared with."""
MAX_LEADERS = 4096
"""Kept rows of one cluster that a further member is compared with (exact duplicates are always found)."""
BLOCK_MEMBERS = 1024
"""Members of a crowded bucket whose pairs are named at once."""
SEED = 42
ALGORITHM = f"rensa2-squeeze1-{SHINGLE}-{PERMUTATIONS}-{BANDS}x{BAND_ROWS}-{MIN_CHARACTERS}-{ONE_WORD}"
"""Part of every cache key: signatures of different algorithms must not be compared."""

Keys = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]
Reason = Literal[
    "exact_duplicate", "near_duplicate", "exact_duplicate_of_heldout", "near_duplicate_of_heldout"
]

_LETTER, _DIGIT, _WHITE, _SIGN, _MINUS = range(5)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: the usual multiplicative hash
_SHIFT = np.uint64(29)


class Sketch(NamedTuple):
    """All that comparing needs of one text; a tuple, since one is made for every row.

    ``fingerprint`` is 16 bytes. ``signature`` is 129 little-endian uint32 (516 bytes), the MinHash of the
    shingles and their number, or None for a short text. ``length`` counts characters but no white space.
    """

    fingerprint: bytes
    signature: bytes | None
    length: int


class Member(NamedTuple):
    """One row of a cluster. ``row`` is the row's place in the whole input, however that was sharded."""

    row: int
    sketch: Sketch
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row to drop, the row kept in its stead, why, and how alike they are (1.0 for exact duplicates)."""

    row: int
    kept: int
    reason: Reason
    similarity: float


@cache
def _classes() -> npt.NDArray[np.uint8]:
    table = np.full(BARRIER + 1, _LETTER, dtype=np.uint8)
    for code, category in enumerate(categories()):
        if category[0] == "P":
            table[code] = _SIGN
        elif category[0] == "Z" or category in ("Cc", "Cf"):
            table[code] = _WHITE
        elif category == "Nd":
            table[code] = _DIGIT
    table[0xE0000:0xE0080] = _WHITE  # tag characters, invisible
    table[ord("-")] = _MINUS
    return table


def _squeeze(codes: Codes) -> tuple[Codes, Index]:
    """Letters, marks, digits and symbols only, and per joined text its count of characters not white space.

    Numbers stay what they are: a gap between two digits leaves one space (3.5 is not 35, "1 23" is not "12
    3") and a minus before a digit stays.
    """
    classes = _classes()[codes]
    digit = classes == _DIGIT
    keep = digit | (classes == _LETTER)
    keep[:-1] |= (classes[:-1] == _MINUS) & digit[1:]
    kept = np.flatnonzero(keep)
    gap = (np.diff(kept) > 1) & digit[kept[:-1]] & digit[kept[1:]]
    spaces = kept[1:][gap] - 1
    keep[spaces] = True
    codes = codes.copy()
    codes[spaces] = 0x20
    visible = np.cumsum(classes != _WHITE)[codes == BARRIER]
    return codes[keep], np.diff(visible, prepend=0) - 1


def _shingle_hashes(codes: Codes) -> Keys:
    hashes = codes[: -SHINGLE + 1].astype(np.uint64)
    for offset in range(1, SHINGLE):
        hashes *= _MULTIPLIER
        hashes ^= hashes >> _SHIFT
        hashes += codes[offset : len(codes) - SHINGLE + 1 + offset]
    hashes *= _MULTIPLIER
    hashes ^= hashes >> _SHIFT
    return hashes


def _signatures(codes: Codes, starts: Index, ends: Index) -> Signatures:
    """Signatures, ``[texts, 129]``, of the texts ``codes[start:end]``, each of five characters or more."""
    counts = ends - starts - SHINGLE + 1
    inside = np.zeros(len(codes) + 1, dtype=np.int8)
    inside[starts] += 1
    inside[starts + counts] -= 1
    hashes = _shingle_hashes(codes)[np.cumsum(inside[: len(codes) - SHINGLE + 1]) > 0]
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, SEED)
    rows = np.empty((len(starts), WIDTH), dtype="<u4")
    numbers = chain.from_iterable(matrix.to_rows())
    rows[:, :PERMUTATIONS] = np.fromiter(numbers, "<u4", rows.shape[0] * PERMUTATIONS).reshape(len(rows), -1)
    rows[:, PERMUTATIONS] = counts
    return rows


def _sketch_batch(texts: Sequence[str]) -> list[Sketch]:
    codes, lengths = _squeeze(codes_of(joined_nfc(texts).casefold()))
    ends = np.flatnonzero(codes == BARRIER)
    starts = np.concatenate(([0], ends + 1))[:-1]
    signed = np.flatnonzero(ends - starts >= MIN_CHARACTERS)
    signatures: dict[int, bytes] = {}
    if len(signed):
        rows = _signatures(codes, starts[signed], ends[signed]).tobytes()
        size = 4 * WIDTH
        signatures = {at: rows[n * size : (n + 1) * size] for n, at in enumerate(signed.tolist())}
    data = codes.tobytes()
    sketches = []
    for at, (start, end, length) in enumerate(
        zip(starts.tolist(), ends.tolist(), lengths.tolist(), strict=True)
    ):
        content = data[4 * start : 4 * end]
        if not content:  # "?!" is not "...": a text of punctuation alone is compared as it stands
            content = b"\0" + "".join(nfc(texts[at]).split()).encode("utf-8", "surrogatepass")
        fingerprint = blake2b(content, digest_size=16).digest()
        sketches.append(Sketch(fingerprint, signatures.get(at), length))
    return sketches


def sketch_all(texts: Sequence[str]) -> list[Sketch]:
    """Sketch many texts at once, several times as fast as one by one; the result per text is the same.

    Args:
        texts: whole documents (a dialogue: the contents of its messages, one per line). Needs about 40 bytes
            of memory per character of a batch; a batch has ``BATCH_CHARACTERS`` or one longer text.
    """
    return [sketch for batch in batches(texts) for sketch in _sketch_batch(batch)]


def fingerprint(text: str) -> bytes:
    """16 bytes, equal for texts that differ only in Unicode composition, case, white space or punctuation."""
    return sketch_all([text])[0].fingerprint


def signature(text: str) -> bytes | None:
    """MinHash signature (see ``Sketch``), None when the text is shorter than ``MIN_CHARACTERS``."""
    return sketch_all([text])[0].signature


def as_matrix(signatures: Sequence[bytes]) -> Signatures:
    """Signatures as one array, ``[texts, 129]``: hashes and, last, the number of shingles."""
    return np.frombuffer(b"".join(signatures), dtype="<u4").reshape(-1, WIDTH)


def required_similarity(shingles: npt.NDArray[np.generic], threshold: float) -> npt.NDArray[np.float64]:
    """The Jaccard index that makes near-duplicates of two texts, the shorter of which has so many shingles.

    The threshold, but in a text so short that ``ONE_WORD`` changed shingles alone bring the index below
    ``THRESHOLD``, less in the same proportion: 0.54 of 0.7 at 40 shingles, 0.67 at 60, all from 68 on.
    """
    count = shingles.astype(np.float64)
    return threshold * np.minimum(1.0, (count - ONE_WORD) / (count + ONE_WORD) / THRESHOLD)


def compare(
    first: Signatures, second: Signatures, threshold: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Estimated Jaccard index of signatures (share of equal hashes), and whether it makes near-duplicates.

    Args:
        first: ``[texts, 129]``.
        second: the same, or ``[1, 129]`` to compare one text with all of ``first``.
        threshold: see ``THRESHOLD``.
    """
    alike = (first[:, :PERMUTATIONS] == second[:, :PERMUTATIONS]).mean(axis=1)
    shingles = np.minimum(first[:, PERMUTATIONS], second[:, PERMUTATIONS])
    return alike, alike >= required_similarity(shingles, threshold)


def same_text(first: Sketch, second: Sketch, threshold: float = THRESHOLD) -> bool:
    """Whether two texts are exact or near-duplicates."""
    if first.fingerprint == second.fingerprint:
        return True
    if first.signature is None or second.signature is None:
        return False
    return bool(compare(as_matrix([first.signature]), as_matrix([second.signature]), threshold)[1][0])


def band_matrix(signatures: Signatures) -> Keys:
    """Bucket keys, ``[texts, BANDS]``; those of different bands differ: one shuffle serves all bands."""
    columns = signatures[:, : BANDS * BAND_ROWS].reshape(-1, BANDS, BAND_ROWS).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), columns.shape[:2]).copy()
    for place in range(BAND_ROWS):
        keys ^= columns[:, :, place]
        keys *= _MULTIPLIER
        keys ^= keys >> _SHIFT
    return keys


def band_keys(signature: bytes) -> list[int]:
    """The 25 bucket keys (64 bits) of one signature."""
    keys: list[int] = band_matrix(as_matrix([signature]))[0].tolist()
    return keys


def exact_key(fingerprint: bytes) -> int:
    """The bucket key (64 bits) under which equal fingerprints meet."""
    return int.from_bytes(fingerprint[:8], "little")


def bucket_keys(sketch: Sketch) -> list[int]:
    """Every bucket a row goes to: one for exact duplicates, 25 more when it has a signature."""
    bands = band_keys(sketch.signature) if sketch.signature is not None else []
    return [exact_key(sketch.fingerprint), *bands]


@cache
def _every_pair() -> tuple[Index, Index]:
    """The pairs of 0 .. CROWDED - 1, ordered by the larger: those of n members come first, n (n - 1) / 2 of them."""
    larger, smaller = np.tril_indices(CROWDED, -1)
    return smaller, larger


def pairs_in_bucket(rows: Index) -> Iterator[tuple[Index, Index]]:
    """Pairs of rows to compare, in blocks of two arrays.

    Args:
        rows: the rows of one bucket in the order of the input, ``[members]``, or of several buckets of one
            size, ``[buckets, members]``. Up to ``CROWDED`` members every pair is named. Beyond that each
            meets the first and the preceding ``NEIGHBOURS``, so that text shared by a million rows costs a
            million steps, not their square; rows that are alike usually meet in other bands as well.
    """
    size = rows.shape[-1]
    if size <= CROWDED:
        first, second = (places[: size * (size - 1) // 2] for places in _every_pair())
        yield rows[..., first].ravel(), rows[..., second].ravel()
        return
    heads = np.arange(NEIGHBOURS)[:, None]
    for start in range(1, size, BLOCK_MEMBERS):
        later = np.arange(start, min(start + BLOCK_MEMBERS, size))
        # The first member against all comes first: once they are joined the other pairs need no comparing.
        others = np.vstack((np.broadcast_to(heads, (NEIGHBOURS, len(later))), later - NEIGHBOURS + heads))
        later = np.broadcast_to(later, others.shape)
        earlier = (others >= 0) & (others < later)
        yield rows[..., others[earlier]].ravel(), rows[..., later[earlier]].ravel()


def merge_clusters(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Union-find: every row named in a pair -> the smallest row of its cluster, in any order of pairs."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (above := parent.setdefault(row, row)) != row:
            parent[row] = parent[above]
            row = above
        return row

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return {row: root(row) for row in parent}


def priority(member: Member) -> tuple[bool, int, int]:
    """Sort key, best first: held-out rows, then the longest, then the first in the input."""
    return (not member.held_out, -member.sketch.length, member.row)


def _reason(kind: Literal["exact", "near"], kept: Member) -> Reason:
    if kind == "exact":
        return "exact_duplicate_of_heldout" if kept.held_out else "exact_duplicate"
    return "near_duplicate_of_heldout" if kept.held_out else "near_duplicate"


def keep_best(members: Iterable[Member], threshold: float = THRESHOLD) -> Iterator[Duplicate]:
    """Which rows of one cluster go, and for which kept row.

    A cluster is a chain: its ends may have little in common. So members are taken best first, and one goes
    only when it is itself a duplicate of a row already kept. Held-out rows are never dropped.

    Args:
        members: the cluster, sorted by ``priority``; may be read lazily.
        threshold: see ``THRESHOLD``.
    """
    exact: dict[bytes, Member] = {}
    leaders: list[Member] = []
    matrix = np.empty((16, WIDTH), dtype=np.uint32)
    for member in members:
        sketch = member.sketch
        own = as_matrix([sketch.signature]) if sketch.signature is not None else None
        if not member.held_out:
            twin = exact.get(sketch.fingerprint)
            if twin is not None:
                yield Duplicate(member.row, twin.row, _reason("exact", twin), 1.0)
                continue
            if own is not None and leaders:
                alike, near = compare(matrix[: len(leaders)], own, threshold)
                matches = np.flatnonzero(near)
                if len(matches):
                    first = int(matches[0])  # the best by priority: a held-out row before any training row
                    kept = leaders[first]
                    yield Duplicate(member.row, kept.row, _reason("near", kept), float(alike[first]))
                    continue
        exact.setdefault(sketch.fingerprint, member)
        if own is not None and len(leaders) < MAX_LEADERS:
            if len(leaders) == len(matrix):
                matrix = np.concatenate((matrix, np.empty_like(matrix)))
            matrix[len(leaders)] = own
            leaders.append(member)
