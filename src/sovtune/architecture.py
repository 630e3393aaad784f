"""Shapes of a base, read from config.json and the headers of its *.safetensors: all that the plan needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from sovtune.errors import BaseUnavailable
from sovtune.fastpath import select

_LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors library refuses longer headers too."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_out")
_ROUTERS = ("gate", "router", "wg")
"""Layers of a mixture of experts that choose experts; they are no ``nn.Linear`` and stay unquantised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearShape:
    """One frozen linear layer: module name and the two sides of its weight [outputs, inputs]."""

    name: str
    outputs: int
    inputs: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.outputs * self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """Shapes and counts of a base.

    ``intermediate`` is the width of the feed-forward part that one token goes through (of a mixture of
    experts: all experts a token is sent to). Parameters are split by how they are stored while training:
    ``linears`` can be 4-bit, ``embeddings`` (with the output layer, once when tied) and ``rest`` (norms,
    biases, experts) cannot; ``experts`` is the part of ``rest`` that experts have.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    norms: int
    """Norms over the hidden size in one layer: 2, or 4 where the branches' outputs are normalised too."""
    head_norms: bool
    """Queries and keys are normalised head by head (qwen3)."""
    linears: tuple[LinearShape, ...]
    embeddings: int
    rest: int
    experts: int
    stored_bytes: int
    config_blockers: tuple[str, ...]
    """Why the fast path does not apply to this configuration; empty when it does."""

    @property
    def linear(self) -> int:
        """Parameters of all quantisable linear layers."""
        return sum(shape.parameters for shape in self.linears)

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        return self.linear + self.embeddings + self.rest


class _Attributes:
    """A JSON object whose keys read like attributes, as ``select.blockers`` expects of a configuration."""

    def __init__(self, values: Mapping[str, object]):
        self.__dict__.update(values)


def read_base_facts(folder: Path) -> BaseFacts:
    """Read the shapes of a base; weights themselves are not touched.

    Args:
        folder: holds config.json and *.safetensors (one file or shards).

    Raises:
        BaseUnavailable: a file or key is missing or broken, or the weights are stored quantised already.
    """
    config = _read_config(folder)
    shapes, stored_bytes = _tensor_shapes(folder)
    hidden, heads = _number(config, folder, "hidden_size"), _number(config, folder, "num_attention_heads")
    vocabulary = _number(config, folder, "vocab_size")
    linears: list[LinearShape] = []
    embeddings = rest = experts = norms = 0
    tied = config.get("tie_word_embeddings") is True or not any("lm_head" in name for name in shapes)
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        last = module.rsplit(".", 1)[-1]
        if last in _EMBEDDINGS:
            embeddings += 0 if tied and last in ("lm_head", "embed_out") else prod(shape)
        elif (
            len(shape) == 2 and name.endswith(".weight") and ".experts." not in name and last not in _ROUTERS
        ):
            linears.append(LinearShape(name=module, outputs=shape[0], inputs=shape[1]))
        else:
            rest += prod(shape)
            norms += shape == (hidden,) and "norm" in last
            experts += prod(shape) if ".experts." in name else 0
    layers = _number(config, folder, "num_hidden_layers")
    return BaseFacts(
        model_type=str(config.get("model_type", "")),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_number(config, folder, "num_key_value_heads", default=heads),
        head_size=_number(config, folder, "head_dim", default=hidden // heads),
        intermediate=_intermediate(config, folder),
        vocabulary=vocabulary,
        tied=tied,
        norms=norms // layers,  # the final norm falls off
        head_norms=any(name.endswith("q_norm.weight") for name in shapes),
        linears=tuple(linears),
        embeddings=embeddings,
        rest=rest,
        experts=experts,
        stored_bytes=stored_bytes,
        config_blockers=_config_blockers(config),
    )


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BaseUnavailable("the base has no config.json", where=str(folder)) from error
    except ValueError as error:
        raise BaseUnavailable(
            "config.json of the base is not JSON", where=str(path), why=str(error)
        ) from error
    if not isinstance(config, dict):
        raise BaseUnavailable("config.json of the base is not an object", where=str(path))
    if "quantization_config" in config:
        raise BaseUnavailable(
            "the base is stored quantised already",
            where=str(path),
            why="sovtune quantises itself, from 16 or 32-bit weights",
            fix="name the model's original revision with bf16 weights",
        )
    text = config.get("text_config")  # models that also see images keep the language model's shape here
    return {**config, **text} if isinstance(text, dict) else config


def _number(config: Mapping[str, object], folder: Path, key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BaseUnavailable(
            f"config.json of the base says {key} = {value!r}",
            where=str(folder / "config.json"),
            why="memory and time follow from this whole number",
        )
    return value


def _intermediate(config: Mapping[str, object], folder: Path) -> int:
    if "moe_intermediate_size" not in config or "num_experts_per_tok" not in config:
        return _number(config, folder, "intermediate_size")
    shared = config.get("n_shared_experts") or 0
    chosen = _number(config, folder, "num_experts_per_tok") + (shared if isinstance(shared, int) else 0)
    return chosen * _number(config, folder, "moe_intermediate_size")


def _config_blockers(config: Mapping[str, object]) -> tuple[str, ...]:
    values = dict(config)
    if values.get("use_sliding_window") and not values.get("layer_types"):
        # transformers derives the types of layers from this switch when the file does not list them
        values["layer_types"] = ["sliding_attention"]
    return tuple(select.blockers(_Attributes({"model_type": "", **values}), device="cpu", dropout=0.0))


def _header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The header of a safetensors file: 8 bytes of length, then JSON."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > _LARGEST_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return {name: tuple(int(extent) for extent in tensor["shape"]) for name, tensor in header.items()}


def _tensor_shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """Name -> shape of every tensor, and the bytes all weight files take on disk."""
    shapes: dict[str, tuple[int, ...]] = {}
    stored = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shapes |= _header_shapes(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BaseUnavailable(
                f"{path.name} is no safetensors file",
                where=str(folder),
                why="its header cannot be read; a download may have been cut off",
            ) from error
        stored += path.stat().st_size
    if not shapes:
        raise BaseUnavailable("the base has no *.safetensors", where=str(folder), why="no weights at all")
    return shapes, stored
