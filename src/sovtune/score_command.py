"""`sovtune eval --base --text`: bits per byte of any local model on any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from sovtune.base import RECORD_NAME, cache_home, check_safe
from sovtune.errors import BaseUnavailable, DataRefused, EnvironmentFault, UsageError
from sovtune.progress import Reporter
from sovtune.recipe_base import Quantisation
from sovtune.records import BaseRecord, read_record
from sovtune.stack import import_stack

WINDOW = 1024
"""Tokens a document is read in at a time, as in recipes."""


def score_texts(
    base: str, adapter: Path | None, files: list[Path], quantisation: str, report: Reporter
) -> dict[str, Any]:
    """Bits per byte over all documents of the files.

    A .jsonl holds rows with ``text`` or ``messages``; any other file one document per line.

    Returns:
        ``bits_per_byte``, ``bytes`` (UTF-8, NFC), ``documents``, ``tokens``.

    Raises:
        BaseUnavailable: no such folder, and no cached base of that id.
        DataRefused: a file cannot be read.
        EnvironmentFault: memory ran out.
    """
    from sovtune.data.template import read_format

    kinds = get_args(Quantisation.model_fields["kind"].annotation)
    if quantisation not in kinds:
        raise UsageError(f"--quantisation {quantisation}: expected one of {', '.join(kinds)}")
    settings = Quantisation.model_validate({"kind": quantisation})
    folder = find_base(base)
    check_safe(folder)
    report.stage("texts")
    texts = [text for file in files for text in read_texts(file)]
    report.say(f"{len(texts)} documents")
    report.stage("eval")
    import_stack()
    from sovtune.evaluate.bits import text_costs
    from sovtune.model import load_with_adapter
    from sovtune.train.out_of_memory import named_memory_faults

    text_format = read_format(folder)

    def tick(done: int, of: int) -> None:
        report.update(done, of, "bits per byte")

    start = text_format.bos if text_format.bos is not None else text_format.eos
    with named_memory_faults(_no_memory):
        loaded = load_with_adapter(folder, settings, adapter)
        costs = text_costs(
            loaded.model, text_format.tokenizer, texts, start_token=start, max_length=WINDOW, tick=tick
        )
    num_bytes = sum(cost.bytes for cost in costs)
    return {
        "bits_per_byte": sum(cost.bits for cost in costs) / num_bytes,
        "bytes": num_bytes,
        "documents": len(costs),
        "tokens": sum(cost.tokens for cost in costs),
    }


def _no_memory(reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "out of memory while the texts are measured",
        where="--base",
        why=reason,
        fix="free memory, or add `--quantisation nf4`, which holds the base in a quarter of it",
    )


def find_base(base: str) -> Path:
    """A base's folder: the path itself, or the cached base of that Hub id.

    Raises:
        BaseUnavailable: neither exists.
    """
    folder = Path(base)
    if folder.is_dir():
        return folder
    for record_file in sorted((cache_home() / "bases").glob(f"*/{RECORD_NAME}")):
        if read_record(BaseRecord, record_file).model == base:
            return record_file.parent
    raise BaseUnavailable(
        f"{base} is neither a folder nor a cached base",
        where="--base",
        fix="`sovtune fetch RECIPE` puts a recipe's base into the cache",
    )


def read_texts(path: Path) -> list[str]:
    """Documents of a loose file (see ``score_texts``)."""
    from sovtune.data.card_schema import Format
    from sovtune.data.files import LocalFile
    from sovtune.data.formats import read_rows
    from sovtune.data.rows import RowFault, guess_format, to_document

    texts = []
    file = LocalFile(path=path, shown=str(path))
    for number, row in read_rows(file, None):
        where = f"{path}:{number}"
        try:
            if isinstance(row, RowFault):
                raise row
            kind = (
                Format(kind="text")
                if isinstance(row, str)
                else guess_format(row if isinstance(row, dict) else {})
            )
            if kind is None:
                raise DataRefused("the row has neither `text` nor `messages`", where=where)
            document, _ = to_document(row, kind, where)
        except RowFault as fault:
            raise DataRefused(str(fault), where=where) from fault
        texts.append(
            document.text
            if document.text is not None
            else "\n".join(turn.content for turn in document.messages)
        )
    if not texts:
        raise DataRefused("no documents to score", where=str(path))
    return texts
