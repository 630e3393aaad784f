"""How the frozen weights of a base are stored: the recipe's words as settings of bitsandbytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sovtune.errors import EnvironmentFault
from sovtune.recipe_base import Quantisation


def quantisation_settings(quantisation: Quantisation, unquantised: Sequence[str] = ()) -> dict[str, Any]:
    """Keyword arguments of BitsAndBytesConfig, dtypes as strings; empty when nothing is quantised.

    Args:
        quantisation: the recipe's section.
        unquantised: full names of layers that stay as they are, when there are more than the usual ones.
    """
    if quantisation.kind == "none":
        return {}
    skip = {"llm_int8_skip_modules": list(unquantised)} if unquantised else {}
    if quantisation.kind == "int8":
        return {"load_in_8bit": True, **skip}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": quantisation.kind,
        "bnb_4bit_use_double_quant": quantisation.double,
        "bnb_4bit_compute_dtype": quantisation.compute,
        **skip,
    }


def unquantised_layers(folder: Path, skip: Sequence[str]) -> tuple[str, ...]:
    """Full names of the layers that stay unquantised: those asked for and those that always do.

    transformers leaves out the output layer and what is tied to it only as long as nobody names others, and matches
    names by their last letters (``up_proj`` would take ``gate_up_proj`` with it): whole names avoid both.

    Args:
        folder: the base.
        skip: last parts of names, from the recipe; with none the answer is empty, and transformers decides alone.

    Raises:
        EnvironmentFault: a name fits no linear layer of this base.
    """
    if not skip:
        return ()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_config(config)
    always = get_keys_to_not_convert(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found: list[str] = []
    for wanted in skip:
        matching = [name for name in linears if f".{name}".endswith(f".{wanted}")]
        if not matching:
            ends = sorted({name.rpartition(".")[2] for name in linears})
            raise EnvironmentFault(
                f"{wanted} is no linear layer of this base",
                where="base.quantisation.skip",
                fix=f"layers are called {', '.join(ends)}; `layers.0.mlp.{ends[0]}` would be one of them",
            )
        found += matching
    return tuple(sorted({*found, *always}))


def quiet_int8() -> None:
    """Stop bitsandbytes from saying before every single product that inputs are cast to float16."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
