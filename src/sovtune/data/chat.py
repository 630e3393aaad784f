"""Render dialogues with the base's chat template and mask them: loss on assistant turns and their stop token only.

Pure: strings in, strings and ids out. The template runs in Jinja's sandbox with the same settings that
transformers uses, so that training sees exactly what `apply_chat_template` produces when the model is served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from sovtune.data.document import Document, Message
from sovtune.errors import DataRefused

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from tokenizers import Tokenizer

IGNORE = -100
"""Label of a token without loss (the convention of torch's cross entropy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A document as tokens: ``input_ids`` and ``labels`` have the same length; label -100 = no loss.

    A comparison is two dialogues one behind the other, which stay together: ``parts`` are their lengths, that of the
    chosen answer first. ``good`` is the verdict on a judged answer.
    """

    input_ids: list[int]
    labels: list[int]
    where: str
    parts: tuple[int, ...] = ()
    good: bool | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each dialogue or text in it; attention does not cross from one to the next."""
        return self.parts or (len(self.input_ids),)

    @property
    def supervised(self) -> int:
        """Tokens that carry loss (the first token of a row is never predicted)."""
        return sum(label != IGNORE for label in self.labels[1:])


class ChatTemplate:
    """A compiled chat template with the special tokens it may name.

    Args:
        source: Jinja text of the template.
        special_tokens: values for ``bos_token``, ``eos_token`` and so on inside the template.
        stop_token: text of the token that ends an assistant turn and must be learnt.

    Raises:
        DataRefused: the template is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: dict[str, str], stop_token: str):
        self.stop_token = stop_token
        self.special_tokens = special_tokens
        self._template = _compile(source)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The dialogue as one text.

        Raises:
            DataRefused: the template itself refuses this dialogue (for example two user turns in a row).
        """
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=add_generation_prompt, **self.special_tokens
            )
        except TemplateError as error:
            raise DataRefused(f"the chat template refuses this dialogue: {error}") from error

    def spans(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The rendered dialogue and the character spans that carry loss: each answer with its stop token.

        An answer begins where the template's generation prompt ends, so the model is trained on exactly what it
        will have to write; it ends after the first stop token behind the answer's text.

        Raises:
            DataRefused: the template rewrites earlier turns (then spans cannot be found), or closes a turn
                without the stop token.
        """
        full = self.render(messages)
        found: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self.render(messages[:index], add_generation_prompt=True)
            through = self.render(messages[: index + 1])
            if not (full.startswith(through) and through.startswith(prompt)):
                raise DataRefused(
                    f"the chat template renders turn {index + 1} differently when turns follow it",
                    why="the part that carries loss cannot be told from the prompt",
                    fix="use rows with one answer each, or a training template that keeps earlier turns as they were",
                )
            answer_end = through.rfind(self.stop_token)
            if answer_end < len(prompt):
                raise DataRefused(
                    f"the chat template does not end an answer with {self.stop_token!r}",
                    why="a model that never sees its stop token in the loss does not learn to stop",
                    fix="name the token that ends a turn, or use a template that writes it",
                )
            found.append((len(prompt), answer_end + len(self.stop_token)))
        return full, found


def _compile(source: str) -> Template:
    """Compile with the settings of transformers' `render_jinja_template` (trimmed blocks, loop controls, tojson)."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_tag()]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise DataRefused(
            f"the chat template is not valid Jinja: {error.message}", where=f"line {error.lineno}"
        ) from error


def _generation_tag() -> type[Extension]:
    """`{% generation %}...{% endgeneration %}` marks answers for other trainers; sovtune finds them itself."""
    from jinja2.ext import Extension

    class GenerationTag(Extension):
        tags = {"generation"}  # noqa: RUF012 - the base class declares it as an instance variable

        def parse(self, parser: Parser) -> list[Node]:
            parser.stream.skip()
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationTag


def render_chat(
    document: Document, template: ChatTemplate, tokenizer: Tokenizer, *, last_answer: bool = False
) -> Rendered:
    """A dialogue as ids and labels.

    The whole text is tokenised once; a token carries loss when it lies inside an answer's span (with ``last_answer``
    only inside that of the last one). A token that straddles the beginning of a span does not carry loss.

    Raises:
        DataRefused: no answer, an answer without text, a double BOS, or nothing left that carries loss.
    """
    _check_turns(document, template)
    text, spans = template.spans(document.messages)
    spans = spans[-1:] if last_answer else spans
    encoded = tokenizer.encode(text, add_special_tokens=False)
    ids, offsets = encoded.ids, encoded.offsets
    labels = [IGNORE] * len(ids)
    span = iter(spans)
    begin, end = next(span)
    for index, (left, right) in enumerate(offsets):
        while left >= end:
            begin, end = next(span, (len(text) + 1, len(text) + 2))
        if begin <= left and right <= end and right > left:
            labels[index] = ids[index]
    rendered = Rendered(input_ids=ids, labels=labels, where=document.where)
    _check_rendered(rendered, template, tokenizer)
    return rendered


def _check_turns(document: Document, template: ChatTemplate) -> None:
    for message in document.messages:
        if template.stop_token in message.content:
            raise DataRefused(
                f"the text of a turn contains {template.stop_token!r}",
                where=document.where,
                why="it would end the turn in the middle; text must not carry control tokens",
                fix="remove it from the data, or set on_bad_row: drop",
            )
    answers = [message for message in document.messages if message.role == "assistant"]
    if not answers:
        raise DataRefused(
            "the dialogue has no assistant turn",
            where=document.where,
            why="there is nothing to learn from it",
        )
    if any(not message.content.strip() for message in answers):
        raise DataRefused(
            "an assistant turn is empty", where=document.where, why="the model would learn to answer nothing"
        )


def _check_rendered(rendered: Rendered, template: ChatTemplate, tokenizer: Tokenizer) -> None:
    stop = tokenizer.token_to_id(template.stop_token)
    if rendered.supervised == 0:
        raise DataRefused("no token of this dialogue carries loss", where=rendered.where)
    if stop is None or stop not in rendered.labels:
        raise DataRefused(
            f"the stop token {template.stop_token!r} is not a token of this tokenizer, or carries no loss",
            where=rendered.where,
            why="the model would not learn to stop",
        )
    bos = template.special_tokens.get("bos_token")
    bos_id = tokenizer.token_to_id(bos) if bos else None
    if bos_id is not None and rendered.input_ids[:2] == [bos_id, bos_id]:
        raise DataRefused(
            f"the text begins with {bos!r} twice", where=rendered.where, why="the template adds it itself"
        )


def render_text(document: Document, tokenizer: Tokenizer, *, bos: int | None, eos: int | None) -> Rendered:
    """Running text as ids that all carry loss, between BOS (if the tokenizer has one) and EOS.

    Raises:
        DataRefused: the text is empty.
    """
    ids = tokenizer.encode(document.text or "", add_special_tokens=False).ids
    if not ids:
        raise DataRefused("the text is empty", where=document.where)
    head = [bos] if bos is not None else []
    tail = [eos] if eos is not None else []
    full = head + ids + tail
    return Rendered(input_ids=full, labels=list(full), where=document.where)


Render = Callable[[Document], Rendered]
