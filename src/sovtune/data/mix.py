"""The mixture: which documents are taken so that sources and languages have the shares asked for, in tokens.

Arithmetic on lengths only. Where shares by source and by language are both asked for, the shares of the cells (source,
language) come from iterative proportional fitting (Deming and Stephan 1940), which keeps as near to what there is as
the two sets of shares allow.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sovtune.data.pack import Integers, Lengths
from sovtune.data.scripts import primary
from sovtune.errors import DataRefused
from sovtune.recipe import Mix, Recipe
from sovtune.recipe_train import Train

Table = npt.NDArray[np.float64]
"""By source and language, shape (sources, languages); one column when no shares by language are asked for."""

TOLERANCE = float(Mix.model_fields["tolerance"].default)
MOST_REPEATS, MOST_TOLERANCE = 100, 0.5
"""What the recipe's schema allows as ``repeat`` and ``tolerance``."""
_ROUNDS = 2000
_FITTED = 1e-9
_CONTRADICTION = 5e-3
"""Shares that cannot be fitted better than this contradict each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a recipe asks of the mixture; ``languages`` is empty when it names no shares by language."""

    names: tuple[str, ...]
    sources: tuple[float, ...] | None
    repeats: tuple[int, ...]
    languages: dict[str, float]
    tolerance: float
    train: Train
    seed: int

    @property
    def anything(self) -> bool:
        """Whether there are shares at all; without them everything is taken once."""
        return self.sources is not None or bool(self.languages)


def asked_of(recipe: Recipe, names: Sequence[str]) -> Asked:
    """The recipe's wishes; ``names`` are the ids of its data cards, in order."""
    shares = [source.share for source in recipe.data]
    given = tuple(share for share in shares if share is not None)
    return Asked(
        names=tuple(names),
        sources=given if len(given) == len(shares) else None,
        repeats=tuple(source.repeat for source in recipe.data),
        languages=dict(recipe.mix.languages) if recipe.mix else {},
        tolerance=recipe.mix.tolerance if recipe.mix else TOLERANCE,
        train=recipe.train,
        seed=recipe.seed,
    )


def language_group(tag: str, languages: Sequence[str]) -> int:
    """Place of a measured language among those of the mixture, -1 when it is none of them.

    ``zh`` takes ``zh-Hans`` too; ``ko`` is taken for ``ko-KR`` when no other Korean is asked for.
    """
    if tag in languages:
        return languages.index(tag)
    wider = [place for place, name in enumerate(languages) if tag.startswith(f"{name}-")]
    if wider:
        return max(wider, key=lambda place: len(languages[place]))
    own = [place for place, name in enumerate(languages) if primary(name) == primary(tag)]
    return own[0] if len(own) == 1 and tag == primary(tag) else -1


def choose(
    asked: Asked, lengths: Lengths, sources: npt.NDArray[np.int16], groups: npt.NDArray[np.int16]
) -> Integers:
    """The documents of the mixture, in an order given by the seed; one that is seen again stands again.

    The mixture is as large as one pass over the scarcest cell allows. Where the run is longer than that (it states
    ``tokens`` or ``steps``), it is as large as the run. With ``epochs`` the language with the largest share is passed
    once (without shares by language: the source).

    Args:
        asked: shares and limits.
        lengths: tokens of each document.
        sources: place of its source.
        groups: place of its language among ``asked.languages``; -1 for none of them, which is not taken. All 0 when
            there are no shares by language.

    Returns:
        Indices of documents, sources in order.

    Raises:
        DataRefused: a share cannot be filled within ``repeat`` passes, or the shares contradict each other.
    """
    if not asked.anything:
        return np.arange(len(lengths))
    columns = max(1, len(asked.languages))
    cell_of = np.where(groups < 0, -1, sources.astype(np.int64) * columns + groups)
    taken = cell_of >= 0
    shape = (len(asked.names), columns)
    cells = shape[0] * columns
    tokens = np.bincount(cell_of[taken], weights=lengths[taken], minlength=cells)
    documents = np.bincount(cell_of[taken], minlength=cells).reshape(shape).astype(np.float64)
    wanted = plan_cells(asked, tokens.astype(np.float64).reshape(shape), documents)
    parts = []
    for cell, share in enumerate(wanted.ravel().tolist()):
        if share > 0:
            source, column = divmod(cell, columns)
            tag = list(asked.languages)[column] if asked.languages else ""
            order = array("q", np.flatnonzero(cell_of == cell).tobytes())
            # An order, not a secret; the random module's shuffle is the same in every version of Python.
            random.Random(f"{asked.seed} {source} {tag}".rstrip()).shuffle(order)  # noqa: S311
            parts.append(take(np.frombuffer(order, dtype=np.int64), lengths, share))
    return np.concatenate(parts)


def plan_cells(asked: Asked, tokens: Table, documents: Table) -> Table:
    """Tokens to take from each cell.

    Args:
        asked: shares and limits.
        tokens: what each cell holds.
        documents: in how many documents.

    Raises:
        DataRefused: see ``choose``.
    """
    shares = _shares(asked, tokens)
    held = shares > 0
    # The size of a mixture in which a cell is passed once.
    once = np.divide(tokens, shares, out=np.full_like(tokens, np.inf), where=held)
    stated = stated_tokens(asked.train, shares, tokens, documents)
    if stated is None:
        sums = shares.sum(axis=0 if asked.languages else 1, keepdims=True)
        largest = sums >= sums.max() - _FITTED  # of equal shares the one with the least text
        size = float(once[np.broadcast_to(largest, shares.shape)].min())
    else:
        size = max(float(once.min()), stated)
    limits = once * np.array(asked.repeats, dtype=np.float64)[:, None]
    if size > limits.min() * (1 + _FITTED):
        raise _too_scarce(asked, tokens, shares, size, stated)
    return shares * size


def stated_tokens(train: Train, shares: Table, tokens: Table, documents: Table) -> float | None:
    """The most tokens that the run reads when it states its size; None with ``epochs``.

    Without packing a row is a document, whose mean length follows from the shares.
    """
    if train.epochs is not None:
        return None
    if train.tokens is not None:
        return float(train.tokens)
    row = float(train.rows.max_length)
    if not train.rows.packing:
        held = shares > 0
        row = 1 / float((shares[held] * documents[held] / tokens[held]).sum())
    return (train.steps or 0) * (train.batch_tokens // train.rows.max_length) * row


def proportions(tokens: Table, sources: Sequence[float] | None, languages: Sequence[float] | None) -> Table:
    """Shares of cells whose sums by row and by column come as near as can be to those asked for.

    Args:
        tokens: what each cell holds; where there is nothing the share stays 0.
        sources: wanted sum of each row, or None for any.
        languages: wanted sum of each column, or None for any.
    """
    table: Table = tokens / tokens.sum()
    for _ in range(_ROUNDS):
        before = table
        for axis, wanted in ((1, sources), (0, languages)):
            if wanted is not None:
                sums = table.sum(axis=axis, keepdims=True)
                goal = np.array(wanted, dtype=np.float64).reshape(sums.shape)
                table = table * np.divide(goal, sums, out=np.zeros_like(sums), where=sums > 0)
        if np.abs(table - before).max() < _FITTED:
            break
    return table


def _shares(asked: Asked, tokens: Table) -> Table:
    """``proportions``, or a refusal that names what is missing or contradicts."""
    tags = list(asked.languages)
    wanted = list(asked.languages.values()) or None
    by_source, by_language = tokens.sum(axis=1), tokens.sum(axis=0)
    for name, held in zip(asked.names, by_source.tolist(), strict=True):
        if asked.sources is not None and not held:
            if not tags:
                raise DataRefused(f"no document of {name} is left to train on", where="data")
            raise DataRefused(
                f"no document of {name} is in a language of mix.languages ({', '.join(tags)})",
                where="mix.languages",
                fix="name its language there, or leave the source out of the recipe",
            )
    for tag, held in zip(tags, by_language.tolist(), strict=False):
        if not held:
            raise DataRefused(
                f"no document is in {tag}, which is to be {_percent(asked.languages[tag])} of the mixture",
                where="mix.languages",
                why="a document counts for the language that most of its letters are in",
                fix="add a source in this language, or take it out of mix.languages",
            )
    shares = proportions(tokens, asked.sources, wanted)
    pairs = [*zip(asked.names, asked.sources or (), shares.sum(axis=1).tolist(), strict=False)]
    pairs += zip(tags, wanted or (), shares.sum(axis=0).tolist(), strict=False)
    if any(abs(share - got) > _CONTRADICTION for _, share, got in pairs):
        raise DataRefused(
            "the shares by source and the shares by language cannot both be had",
            where="mix.languages",
            why="the nearest is " + ", ".join(f"{name} {_percent(got)}" for name, _, got in pairs),
            fix="change data[].share or mix.languages so that each source can hold the languages it is to bring",
        )
    return shares


def take(order: Integers, lengths: Lengths, tokens: float) -> Integers:
    """Documents in turn, again from the start if need be, while each brings the sum nearer to ``tokens``.

    Args:
        order: indices of documents.
        lengths: tokens of all documents.
        tokens: what to come near to.
    """
    own = np.asarray(lengths[order], dtype=np.int64)
    total = int(own.sum())
    whole = int(tokens // total)
    past_middle = np.cumsum(own) - own / 2 > tokens - whole * total
    rest = int(np.argmax(past_middle)) if past_middle.any() else len(order)
    return np.concatenate([np.tile(order, whole), order[:rest]])


def _too_scarce(asked: Asked, tokens: Table, shares: Table, size: float, stated: float | None) -> DataRefused:
    """The refusal of cells that would be seen more often than allowed, the worst one first."""
    repeats = np.array(asked.repeats, dtype=np.float64)[:, None]
    passes = np.divide(shares * size, tokens, out=np.zeros_like(tokens), where=tokens > 0)
    ratio = passes / repeats
    cells = [divmod(int(cell), tokens.shape[1]) for cell in np.argsort(-ratio, axis=None)]
    worst = [cell for cell in cells if ratio[cell] > 1 + _FITTED]
    source = worst[0][0]
    tags = [f" in {tag}" for tag in asked.languages] or [""]
    lines = [
        f"{asked.names[row]} has {tokens[row, at]:,.0f} tokens{tags[at]}; {_percent(shares[row, at])} of "
        f"{size:,.0f} are {shares[row, at] * size:,.0f}, which is {passes[row, at]:.1f} passes"
        for row, at in worst
    ]
    needed = math.ceil(max(passes[cell] for cell in worst if cell[0] == source) - 1e-6)
    most = math.floor(float(np.divide(tokens * repeats, shares, out=np.full_like(tokens, np.inf),
                                      where=shares > 0).min()))  # fmt: skip
    ways = [f"`repeat: {needed}` beside {asked.names[source]}"] if needed <= MOST_REPEATS else []
    if stated is None:
        ways.append(f"`tokens: {most}` in the place of epochs under train")
        head = "the source with the largest share is passed once an epoch, and others cannot keep up with it"
    else:
        ways.append(f"a run of at most {most} tokens")
        head = f"the run is to have {stated:,.0f} tokens"
    allowed = asked.repeats[source]
    return DataRefused(
        lines[0],
        where=f"data.{source}",
        why=f"{head}; `repeat` allows {allowed} pass{'es' if allowed > 1 else ''} over this source"
        + "".join(f"\n        also: {line}" for line in lines[1:]),
        fix=", or ".join([*ways, "a smaller share", "more text"]),
    )


def check_reached(asked: Asked, sources: Integers, languages: Integers, longest: int) -> None:
    """Hold the packed rows to the shares asked for.

    Args:
        asked: shares and tolerance.
        sources: tokens of each source in the rows.
        languages: tokens of each language of ``asked.languages`` in the rows.
        longest: tokens of the longest document.

    Raises:
        DataRefused: a share is further off than the tolerance.
    """
    pairs: list[tuple[str, float, int]] = []
    if asked.sources is not None:
        pairs += zip(asked.names, asked.sources, sources.tolist(), strict=True)
    if asked.languages:
        pairs += zip(asked.languages, asked.languages.values(), languages.tolist(), strict=True)
    total = int(sources.sum())
    off = [(abs(tokens / total - share), name, share, tokens / total) for name, share, tokens in pairs]
    worst = max(off, default=(0.0, "", 0.0, 0.0))
    if worst[0] <= asked.tolerance + _FITTED:
        return
    nearest = _rounded_up(worst[0])
    reached = ", ".join(f"{name} {_percent(got)} (asked {_percent(share)})" for _, name, share, got in off)
    raise DataRefused(
        f"{worst[1]} is {_percent(worst[3])} of the packed tokens, asked were {_percent(worst[2])}",
        where="mix.tolerance",
        why=f"documents are taken whole (the longest has {longest:,} of {total:,} tokens), and this is as near as "
        f"they come; the tolerance is {_percent(asked.tolerance)}. Reached: {reached}",
        fix="more documents, or shorter ones"
        + (f"; or accept it with `mix: {{tolerance: {nearest:g}}}`" if nearest <= MOST_TOLERANCE else ""),
    )


def _rounded_up(share: float) -> float:
    return math.ceil(share * 100 - _FITTED) / 100


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
