"""The model card: README.md from the records of one run and nothing else."""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import socket
import string
import textwrap
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sovtune import __version__, figures, findings, trained_words
from sovtune.card_header import header_text, make_header
from sovtune.card_lint import lint
from sovtune.errors import LicenceRefused, UsageError
from sovtune.evidence import HUB_PREFIX, Evidence, read_evidence
from sovtune.licences import licence_keys, licence_link, parse_expression
from sovtune.recipe import Recipe
from sovtune.records import CardReport
from sovtune.runs import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

CARD = "README.md"
REPORT = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")
_LINE_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPECIAL = frozenset("\\`*[]<>|~$&")
"""Characters that mean something in Markdown, in a table or in HTML, wherever they stand."""
_OUTER_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""An underscore that is not inside a word; only such a one can be emphasis."""
_BLOCK_START = re.compile(r"#{1,6}(?=\s|$)|[-+](?=\s|$)|[-=]+$|-{3,}|={3,}|\d{1,9}[.)](?=\s|$)")
"""What makes a list, a heading or a rule of a line that begins with it."""


def _entities(text: str, special: Collection[str]) -> str:
    plain = "".join(f"&#{ord(char)};" if char in special else char for char in figures.visible(text))
    return _OUTER_UNDERSCORE.sub("&#95;", plain)


def _safe(text: str) -> Markup:
    """Mark text whose parts were all escaped, or written by us, as ready for the card."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def inline(value: object) -> Markup:
    """Any text as plain words on one line of Markdown: nothing in it opens a block, cell, tag or link."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    text = " ".join(_LINE_BREAKS.sub(" ", str(value)).split())
    start = match.end() if (match := _BLOCK_START.match(text)) else 0
    return _safe(_entities(text[:start], string.punctuation) + _entities(text[start:], _SPECIAL))


def block(value: str) -> Markup:
    """Text of several lines inside an HTML element: line breaks become ``<br>``, special characters entities.

    An HTML block of Markdown ends at the first blank line, so that no line break may be left.
    """
    lines = _LINE_BREAKS.split(value.strip())
    return _safe("<br>".join(_entities(line, _SPECIAL) for line in lines))


def code(value: object) -> Markup:
    """Any text as code; where a code span could be broken out of, as an HTML element."""
    text = " ".join(figures.visible(str(value)).split())
    if not text or set(text) & set("`|<"):
        return _safe(f"<code>{inline(text)}</code>")
    return _safe(f"`{text}`")


def _lang(text: str, tag: str) -> Markup:
    """A ``lang`` attribute where the text is in that language's script."""
    spoken = figures.spoken_in(text, tag)
    return _safe(f' lang="{inline(spoken)}"' if spoken else "")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=inline,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(figures.FILTERS, code=code, block=block)
    return environment


def _literal(text: str) -> str:
    """A Python string literal on one line (a JSON string is one)."""
    return json.dumps(text, ensure_ascii=False)


def _question(recipe: Recipe) -> list[str]:
    """Lines that ask one question: the recipe's first prompt where it is plain enough for an example."""
    prompt = recipe.evaluate.prompts[0] if recipe.evaluate.prompts else ""
    plain = prompt.isprintable() and not set(prompt) & set("/\\`@")
    prompt = prompt if prompt and plain else "..."
    if recipe.method == "cpt":
        return [f'inputs = tokenizer({_literal(prompt)}, return_tensors="pt")']
    return [
        f'messages = [{{"role": "user", "content": {_literal(prompt)}}}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
    ]


def load_snippet(evidence: Evidence) -> str:
    """Python that loads base and adapter as they were trained and asks one question.

    Every value stands as a Python literal, so that none can break out of the code.
    """
    recipe, quantisation = evidence.recipe, evidence.recipe.base.quantisation
    quantised = trained_words.quantisation_code(quantisation)
    if recipe.adapter.kind == "full":
        return "\n".join([*_load_whole(quantisation.compute), *_ask(recipe)])
    adapter, revision, note = ".", "", "  # the folder this file is in"
    if recipe.publish is not None and recipe.publish.to.startswith(HUB_PREFIX):
        adapter, note = recipe.publish.to.removeprefix(HUB_PREFIX), ""
        revision = f", revision={_literal(recipe.publish.tag)}"
    classes = ["AutoModelForCausalLM", "AutoTokenizer", *(["BitsAndBytesConfig"] if quantised else [])]
    base = f"base_id, revision={_literal(evidence.base.revision)}"
    own_tokenizer = any(file.path == "tokenizer.json" for file in evidence.train.adapter_files)
    return "\n".join(
        [
            "import torch",
            "from peft import PeftModel",
            f"from transformers import {', '.join(classes)}",
            "",
            f"base_id = {_literal(evidence.base.model)}",
            f"adapter = {_literal(adapter)}{note}",
            *quantised,
            "base = AutoModelForCausalLM.from_pretrained(",
            f"    {base},",
            f"    dtype=torch.{quantisation.compute},",
            *([f"    quantization_config={quantisation.kind},"] if quantised else []),
            ")",
            f"model = PeftModel.from_pretrained(base, adapter{revision}).eval()",
            f"tokenizer = AutoTokenizer.from_pretrained({f'adapter{revision}' if own_tokenizer else base})",
            *_ask(recipe),
        ]
    )


def _load_whole(compute: str) -> list[str]:
    """Lines that load a fully trained model from its folder in the run."""
    return [
        "import torch",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "model"  # beside this file',
        f"model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.{compute}).eval()",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
    ]


def _ask(recipe: Recipe) -> list[str]:
    """Lines that ask the loaded model one question."""
    return [
        *_question(recipe),
        f"length = {recipe.evaluate.max_new_tokens}",
        "output = model.generate(**inputs.to(model.device), max_new_tokens=length, do_sample=False)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def render_card(evidence: Evidence) -> str:
    """The whole README.md: header and body.

    Raises:
        ValueError: the licence cannot stand in a header.
    """
    recipe = evidence.recipe
    header = make_header(evidence)
    keys = licence_keys(recipe.card.licence)
    body = (
        _environment()
        .get_template("card.md.jinja")
        .render(
            **{
                name: getattr(evidence, name)
                for name in ("recipe", "base", "data", "train", "evaluation", "plan")
            },
            evidence=evidence,
            header=header,
            trained_kind=trained_words.KINDS[recipe.adapter.kind],
            trained_settings=trained_words.settings(recipe),
            trained_notes=trained_words.notes(evidence),
            optimizer=trained_words.optimizer(recipe),
            title=recipe.card.title or evidence.name,
            snippet=_safe(load_snippet(evidence)),
            scores=evidence.evaluation.scores,
            verdict=[findings.score_sentence(score) for score in evidence.evaluation.scores],
            gate_sentence=findings.gate_sentence(evidence),
            method=findings.METHODS[recipe.method],
            objective=findings.objective(recipe),
            teacher=findings.teacher_sentence(evidence.train.teacher),
            rewards=findings.reward_sentence(evidence.steps),
            loss_unit=findings.loss_unit(recipe),
            compared=[findings.pair_sentence(score) for score in evidence.evaluation.pairs],
            limitations=[*recipe.card.limitations, *findings.limitations(evidence)],
            obligations=findings.result_obligations(evidence),
            licence=parse_expression(recipe.card.licence),
            licence_links={key: licence_link(key) or header.license_link for key in keys},
            origin=findings.origin(evidence.base),
            pinned=_COMMIT.fullmatch(evidence.base.revision) is not None,
            lang=_lang,
            not_measured=figures.NOT_MEASURED,
            version=__version__,
        )
    )
    return header_text(header) + "\n" + body


def _machine_names() -> list[str]:
    """Account and host name, which no card may tell."""
    names = [socket.gethostname()]
    try:
        names.append(getpass.getuser())
    except (KeyError, OSError):  # an account without a name, as in some containers
        return names
    return names


def _refuse(evidence: Evidence) -> None:
    """Stop at a licence that promises too much.

    Raises:
        LicenceRefused: all such promises at once.
    """
    broken = findings.refused_promises(evidence)
    if broken:
        raise LicenceRefused(
            f"card.licence {evidence.recipe.card.licence} promises more than base and data allow",
            where="card.licence",
            why="; ".join(f"{problem.message} [{problem.id}]" for problem in broken),
            fix="; ".join(dict.fromkeys(problem.fix for problem in broken))
            + "; `sovtune check RECIPE` shows how a person can answer for it",
        )


def _checked(text: str, evidence: Evidence, forbidden: Sequence[str]) -> str:
    found = lint(text, forbidden=forbidden, evaluation=evidence.evaluation)
    if found:
        raise UsageError(
            f"the card would have {len(found)} fault{'s' if len(found) > 1 else ''}",
            where=CARD,
            why="; ".join(found),
            fix="correct the texts under card: and evaluate.prompts of the recipe, or of the data cards",
        )
    return text


def write_card(run_dir: Path, recipe: Recipe) -> CardReport:
    """Write README.md into the run folder, atomically, and only when it passes its own lint.

    Args:
        run_dir: run folder with the records of all stages and ``report.html``.
        recipe: the effective recipe of the run.

    Returns:
        Hashes of card and report, the licence, the obligations as sentences.

    Raises:
        LicenceRefused: the recipe's licence promises more than base and data allow.
        UsageError: a stage or the report is missing, or the card would leak or contradict the records.
    """
    evidence = read_evidence(run_dir, recipe)
    report = run_dir / REPORT
    if not report.is_file():
        raise UsageError(
            "the report is not written yet",
            where=str(report),
            why="the card's record holds its hash",
            fix="`sovtune run RECIPE` does all stages that are missing",
        )
    _refuse(evidence)
    try:
        text = render_card(evidence)
    except ValueError as error:
        raise UsageError(
            textwrap.shorten(str(error), 300),
            where="card.licence",
            why="the card's header could not be written",
        ) from error
    write_atomic(run_dir / CARD, _checked(text, evidence, _machine_names()))
    return CardReport(
        readme_sha256=hashlib.sha256(text.encode()).hexdigest(),
        report_sha256=hashlib.sha256(report.read_bytes()).hexdigest(),
        licence=parse_expression(recipe.card.licence),
        obligations=tuple(str(item) for item in findings.result_obligations(evidence)),
    )
