"""Which rows of the vocabulary an adapter trains: names of tokens -> rows of this base, or the whole matrices."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sovtune.errors import UsageError

_WHERE = "adapter.vocabulary"


def token_rows(tokenizer_file: Path, names: tuple[str, ...]) -> list[int]:
    """The row of each token, sorted.

    A name is a token as the vocabulary writes it (``<|im_start|>``), or a text that is exactly one token.

    Raises:
        UsageError: a name is several tokens or none, with the nearest tokens there are; or two names are one token.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = {name: _row(tokenizer, name) for name in names}
    for name, row in rows.items():
        twin = next(other for other, its in rows.items() if its == row)
        if twin != name:
            raise UsageError(f"{twin!r} and {name!r} are the same token", where=_WHERE, fix="name it once")
    return sorted(rows.values())


def _row(tokenizer: Any, name: str) -> int:
    row: int | None = tokenizer.token_to_id(name)
    if row is not None:
        return row
    encoding = tokenizer.encode(name, add_special_tokens=False)
    unknown = getattr(tokenizer.model, "unk_token", None)
    if len(encoding.ids) == 1 and encoding.tokens != [unknown]:
        only: int = encoding.ids[0]
        return only
    near = _nearest(tokenizer, name)
    shown = " ".join(encoding.tokens[:8]) + (" ..." if len(encoding.ids) > 8 else "")
    raise UsageError(
        f"{name!r} is no token of this base",
        where=_WHERE,
        why=f"it is written with {len(encoding.ids)} tokens: {shown}; only a token has a row to train",
        fix=(f"did you mean {', '.join(near)}? " if near else "")
        + "A new token must first be added to the vocabulary",
    )


def _nearest(tokenizer: Any, name: str) -> list[str]:
    """Tokens that look alike, added ones first: they are what people name, and a vocabulary has 100,000 others."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    near = get_close_matches(name, added, n=3, cutoff=0.5)
    if near:
        return near
    alike = [token for token in tokenizer.get_vocab() if abs(len(token) - len(name)) <= 2]
    return get_close_matches(name, alike[:50_000], n=3, cutoff=0.6)


def vocabulary_settings(model: Any, vocabulary: str | tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Keyword arguments of LoraConfig that make rows of embedding and output trainable.

    With tied matrices PEFT trains one set of rows for both.

    Raises:
        UsageError: see ``token_rows``.
    """
    if vocabulary == "frozen":
        return {}
    tied = bool(model.config.tie_word_embeddings)
    names = [_name_of(model, model.get_input_embeddings())]
    if not tied:
        names.append(_name_of(model, model.get_output_embeddings()))
    if vocabulary == "all":
        return {"modules_to_save": names, "ensure_weight_tying": tied}
    rows = token_rows(folder / "tokenizer.json", tuple(vocabulary))
    return {"trainable_token_indices": {name: list(rows) for name in names}}


def _name_of(model: Any, wanted: Any) -> str:
    name: str = next(name for name, module in model.named_modules() if module is wanted)
    return name


def cast_at_borders(model: Any) -> None:
    """Let trained fp32 copies of embedding and output layer work in a model of another dtype.

    The embedding's output goes on in the model's dtype; the output layer takes its input in its own. Hooks sit on the
    trained copies only, so that the adapter switched off is the base as ever.
    """
    import torch
    from peft.utils.other import ModulesToSaveWrapper

    def cast_output(_: Any, __: Any, output: Any) -> Any:
        return output.to(model.dtype)

    def cast_input(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].to(module.weight.dtype), *inputs[1:])

    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for trained in wrapper.modules_to_save.values():
                if isinstance(trained, torch.nn.Embedding):
                    trained.register_forward_hook(cast_output)
                else:
                    trained.register_forward_pre_hook(cast_input)
