"""What a base says about its chat format: template, special tokens, the token that ends a turn."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovtune.data.chat import ChatTemplate
from sovtune.data.document import Message
from sovtune.errors import BaseUnavailable, DataRefused

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PROBE = (Message("user", "probe question"), Message("assistant", "probe answer"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFormat:
    """Tokenizer and chat format of one base.

    ``template`` is None for a base without one (then only running text can be trained); ``bos`` and ``eos`` are ids.
    """

    tokenizer: Tokenizer
    tokenizer_sha256: str
    template: ChatTemplate | None
    template_sha256: str
    template_source: str
    bos: int | None
    eos: int | None
    stop_token: str


def read_format(folder: Path) -> TextFormat:
    """Read tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json of a base.

    Raises:
        BaseUnavailable: the tokenizer cannot be read.
        DataRefused: the template never writes any of the base's stop tokens.
    """
    from tokenizers import Tokenizer

    raw = (folder / "tokenizer.json").read_bytes()
    try:
        tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BaseUnavailable(
            "the tokenizer cannot be read", where="tokenizer.json", why=str(error)
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(folder / "tokenizer_config.json")
    special = {
        name: text
        for name, value in config.items()
        if name.endswith("_token") and (text := _token_text(value))
    }
    source = _template_text(folder, config)
    candidates = _stop_candidates(folder, tokenizer, special)
    stop = ""
    template = None
    if source is not None:
        template, stop = _with_stop(source, special, candidates)
    eos = special.get("eos_token")
    bos = special.get("bos_token")
    return TextFormat(
        tokenizer=tokenizer,
        tokenizer_sha256=hashlib.sha256(raw).hexdigest(),
        template=template,
        template_sha256=hashlib.sha256((source or "").encode()).hexdigest(),
        template_source="base" if source is not None else "none",
        bos=tokenizer.token_to_id(bos) if bos and config.get("add_bos_token") else None,
        eos=tokenizer.token_to_id(eos) if eos else None,
        stop_token=stop or eos or "",
    )


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values


def _token_text(value: object) -> str | None:
    """A special token is written as text or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _template_text(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    inline = config.get("chat_template")
    if isinstance(inline, list):  # several named templates; "default" is the one for dialogues
        inline = next((entry["template"] for entry in inline if entry.get("name") == "default"), None)
    return inline if isinstance(inline, str) else None


def _stop_candidates(folder: Path, tokenizer: Tokenizer, special: dict[str, str]) -> list[str]:
    """Tokens at which generation stops: those of generation_config.json, then the tokenizer's end-of-text token."""
    ids = _json(folder / "generation_config.json").get("eos_token_id", [])
    tokens = [tokenizer.id_to_token(token) for token in (ids if isinstance(ids, list) else [ids])]
    return [token for token in dict.fromkeys([*tokens, special.get("eos_token")]) if token]


def _with_stop(source: str, special: dict[str, str], candidates: list[str]) -> tuple[ChatTemplate, str]:
    for stop in candidates:
        template = ChatTemplate(source, special, stop)
        answer = template.render(_PROBE).rpartition(_PROBE[1].content)[2]
        if stop in answer:
            return template, stop
    raise DataRefused(
        "the base's chat template does not end an answer with any of its stop tokens",
        where="chat_template.jinja",
        why=f"stop tokens of this base: {', '.join(candidates) or 'none'}",
        fix="use a base whose template writes its stop token; otherwise the model would not learn to stop",
    )
