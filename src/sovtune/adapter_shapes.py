"""What a recipe trains, counted from shapes: adapted layers with their ranks, rows of the vocabulary, all weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sovtune.architecture import BaseFacts, LinearShape
from sovtune.families import family
from sovtune.recipe_adapter import Adapter

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is trained.

    ``layers`` are the adapted linear layers with the rank of each; ``parameters`` numbers in fp32 with a gradient;
    ``frozen_copies`` numbers in fp32 that belong to the adapter and never change (the start of PiSSA).
    """

    layers: tuple[tuple[LinearShape, int], ...]
    parameters: int
    frozen_copies: int


def adapted_linears(facts: BaseFacts, adapter: Adapter) -> tuple[LinearShape, ...]:
    """The layers that get an adapter: PEFT's rule, a name equals a target or ends with ``.target``.

    Raises:
        EnvironmentFault: ``targets: auto`` on a model type without verified targets.
    """
    exclude: str | None = None
    if adapter.targets == "auto":
        known = family(facts.model_type)
        targets, exclude = known.targets, known.exclude
    else:
        targets = adapter.targets
    ends = tuple(f".{target}" for target in targets)
    return tuple(
        shape
        for shape in facts.linears
        if (shape.name in targets or shape.name.endswith(ends))
        and not (exclude and re.fullmatch(exclude, shape.name))
        and (adapter.layers is None or _layer_of(shape.name) in adapter.layers)
    )


def _layer_of(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def rank_of(name: str, adapter: Adapter) -> int:
    """Rank of one layer; PEFT's rule: a pattern is the end of the name, from a dot on, and the first one counts."""
    for pattern, rank in adapter.rank_pattern.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return rank
    return adapter.rank


def matrix_numbers(shape: LinearShape, rank: int) -> int:
    """A layer gets A [r, inputs] and B [outputs, r]."""
    return rank * (shape.inputs + shape.outputs)


def trained(facts: BaseFacts, adapter: Adapter) -> Trained:
    """Count what is trained.

    DoRA adds a magnitude for each output; rows of the vocabulary are trained in the embedding and, where it has
    weights of its own, in the output layer.

    Raises:
        EnvironmentFault: see ``adapted_linears``.
    """
    if adapter.kind == "full":
        return Trained(layers=(), parameters=facts.parameters, frozen_copies=0)
    layers = tuple((shape, rank_of(shape.name, adapter)) for shape in adapted_linears(facts, adapter))
    matrices = sum(matrix_numbers(shape, rank) for shape, rank in layers)
    magnitudes = sum(shape.outputs for shape, _ in layers) if adapter.dora else 0
    return Trained(
        layers=layers,
        parameters=matrices + magnitudes + _vocabulary(facts, adapter),
        frozen_copies=matrices if adapter.init == "pissa" else 0,
    )


def _vocabulary(facts: BaseFacts, adapter: Adapter) -> int:
    if adapter.vocabulary == "frozen":
        return 0
    if adapter.vocabulary == "all":
        return facts.embeddings
    return len(adapter.vocabulary) * facts.hidden * (1 if facts.tied else 2)
