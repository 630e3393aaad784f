"""What was trained, in words and in loading code: what differs in card and report from one kind to the next."""

from __future__ import annotations

import json

from sovtune.evidence import Evidence
from sovtune.recipe import Recipe
from sovtune.recipe_base import Quantisation

KINDS = {"qlora": "QLoRA adapter for", "lora": "LoRA adapter for", "full": "Fully fine-tuned version of"}
STARTS = {
    "pissa": "A and B start at the principal singular vectors (PiSSA)",
    "loftq": "A and B start at what quantisation lost (LoftQ)",
}


def settings(recipe: Recipe) -> str:
    """The settings of the adapter in one line: those that are always told, then those that are not usual."""
    adapter = recipe.adapter
    if adapter.kind == "full":
        return "none: all weights were trained, in fp32"
    told = [
        f"{adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}",
        "weight-decomposed (DoRA)" if adapter.dora else "",
        "scaled by the square root of the rank (rsLoRA)" if adapter.rslora else "",
        STARTS.get(adapter.init, ""),
        f"layers {', '.join(map(str, adapter.layers))} only" if adapter.layers is not None else "",
        "; ".join(f"rank {rank} for {name}" for name, rank in adapter.rank_pattern.items()),
        _rows(adapter.vocabulary),
    ]
    return ", ".join(part for part in told if part)


def _rows(vocabulary: str | tuple[str, ...]) -> str:
    if vocabulary == "frozen":
        return ""
    if vocabulary == "all":
        return "all rows of embedding and output trained"
    return f"rows of {len(vocabulary)} tokens trained: {' '.join(vocabulary)}"


def optimizer(recipe: Recipe) -> str:
    """The optimizer with whatever of ``train.finer`` is not as usual."""
    finer = recipe.train.finer
    told = [
        "paged 8-bit AdamW" if finer.optimizer == "adamw8bit" else "AdamW",
        f"B at {finer.lora_plus:g} times the rate (LoRA+)" if finer.lora_plus is not None else "",
        f"label smoothing {finer.label_smoothing:g}" if finer.label_smoothing else "",
        f"z-loss {finer.z_loss:g}" if finer.z_loss else "",
        f"noise on embeddings of size {finer.neftune:g} (NEFTune)" if finer.neftune is not None else "",
    ]
    return ", ".join(part for part in told if part)


def notes(evidence: Evidence) -> list[str]:
    """What whoever loads the result should know about its kind; one sentence each."""
    recipe, found = evidence.recipe, []
    if recipe.adapter.init == "pissa":
        found.append(
            "The saved adapter is a plain LoRA of twice the rank for the unchanged base: what PiSSA started from is "
            "subtracted in it."
        )
    if recipe.adapter.init == "loftq":
        kind = recipe.base.quantisation.kind
        found.append(
            f"The adapter makes up for what {kind} quantisation lost: load the base in {kind}, as below; on an "
            "unquantised base it would add that a second time."
        )
    if evidence.train.continued_from:
        hashes = ", ".join(f"{file.path} sha256 {file.sha256}" for file in evidence.train.continued_from)
        found.append(f"Training went on from an earlier adapter: {hashes}.")
    return found


def quantisation_code(quantisation: Quantisation) -> list[str]:
    """Lines of Python that quantise as for training, in a variable called as the kind; none without quantisation."""
    if quantisation.kind == "none":
        return []
    lines = [f"{quantisation.kind} = BitsAndBytesConfig("]
    if quantisation.kind == "int8":
        lines.append("    load_in_8bit=True,")
    else:
        lines += [
            "    load_in_4bit=True,",
            f"    bnb_4bit_quant_type={json.dumps(quantisation.kind)},",
            f"    bnb_4bit_use_double_quant={quantisation.double},",
            f"    bnb_4bit_compute_dtype=torch.{quantisation.compute},",
        ]
    if quantisation.skip:  # naming any layer drops transformers' own exception, the output layer
        names = [*quantisation.skip, "lm_head"]
        lines.append(f"    llm_int8_skip_modules={json.dumps(names, ensure_ascii=False)},")
    return [*lines, ")"]
