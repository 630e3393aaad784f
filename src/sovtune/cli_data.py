"""`sovtune data`: a recipe's rows, a scan of loose files, a draft of a data card, a card as Croissant."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sovtune.cli_shared import (
    RUNS,
    AsJson,
    Offline,
    Quiet,
    RecipePath,
    Restart,
    RunsDir,
    Sets,
    close_network,
    make_reporter,
    print_json,
    print_line,
    read_values,
    run_upto,
)
from sovtune.errors import UsageError

_HELP = ("-h", "--help")
_DEFAULT = "prepare"


class _RecipeOrCommand(TyperGroup):
    """`sovtune data RECIPE` means `sovtune data prepare RECIPE`: a first word that is no command is a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front of a recipe; a mistyped command is named as such."""
        if args and args[0] not in self.commands and args[0] not in _HELP:
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            if near and not Path(args[0]).exists():
                raise UsageError(
                    f"`sovtune data {args[0]}`: no such command, and no such recipe",
                    fix=f"did you mean `sovtune data {near[0]}`?",
                )
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


class _ManyAgainst(TyperCommand):
    """`--against A B C` takes every word up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its words, which is how the parser wants it."""
        spread: list[str] = []
        inside = False
        for word in args:
            if word.startswith("-"):
                inside = word == "--against"
                spread += [] if inside else [word]
            else:
                spread += ["--against", word] if inside else [word]
        if args and args[-1] == "--against":
            spread.append("--against")
        return super().parse_args(ctx, spread)


data_app = typer.Typer(
    cls=_RecipeOrCommand,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Curate data: the rows of a recipe, a scan of loose files, a draft of a data card.\n\n"
    "Example:  sovtune data recipes/quickstart-ko.yaml --show 3\n\n"
    "Example:  sovtune data scan corpus.jsonl --language ko --report report.html\n\n"
    "Example:  sovtune data card corpus.jsonl --language ko --out card.yaml",
)

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES...",
        help=".txt (one document per line, any common codec), .jsonl, .json, .csv, .tsv (`text` or `messages`, "
        "`instruction` and `output`, `prompt` and `completion`), .parquet, .md; text also as .gz or .zst.",
    ),
]
Language = Annotated[
    str,
    typer.Option(
        "--language", metavar="TAG", help="The language the text should be in, such as ko or zh-Hant."
    ),
]
Candidates = Annotated[
    str, typer.Option("--candidates", metavar="TAGS", help="Languages that may turn up, with commas: ko,en.")
]
Against = Annotated[
    list[Path],
    typer.Option(
        "--against", metavar="EVAL_FILE...", help="Held-out files; rows that overlap with them are dropped."
    ),
]
Workers = Annotated[
    int,
    typer.Option("--workers", metavar="N", min=1, show_default="one per core", help="Number of processes."),
]
CORES = os.cpu_count() or 1


@data_app.command(name=_DEFAULT)
def prepare(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006  (typer reads the default, nothing changes it)
    runs_dir: RunsDir = RUNS,
    show: Annotated[
        int, typer.Option("--show", metavar="N", help="Print N rows, learnt tokens coloured.")
    ] = 0,
    restart: Restart = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Read the data cards, render, mask and pack; print what will be trained on. `prepare` may be left out.

    Example:  sovtune data recipes/quickstart-ko.yaml --show 3
    """
    run_dir = run_upto(recipe, sets, runs_dir, "data", quiet=quiet, restart=restart, offline=offline)
    if show:
        from sovtune.preview import preview
        from sovtune.recipe_file import load_recipe

        preview(load_recipe(recipe, sets), show)
    if as_json:
        print_json({"run_dir": str(run_dir), **read_values(run_dir, "data.json")})


@data_app.command(cls=_ManyAgainst)
def scan(
    files: Files,
    *,
    language: Language,
    candidates: Candidates = "",
    accept: Annotated[
        str,
        typer.Option(
            "--accept", metavar="TAGS", help="Languages whose rows are kept; default: the language alone."
        ),
    ] = "",
    against: Against = [],  # noqa: B006
    pii: Annotated[
        str,
        typer.Option(
            "--pii", metavar="report|mask|drop", help="Personal data: count, mask, or drop the row."
        ),
    ] = "mask",
    secrets: Annotated[
        str,
        typer.Option(
            "--secrets", metavar="mask|drop", help="Keys, tokens, passwords: mask, or drop the row."
        ),
    ] = "mask",
    quality: Annotated[
        str,
        typer.Option(
            "--quality",
            metavar="fixed|LOW,HIGH|off",
            help="Fixed limits, percentiles of the files (0.5,99.5), or none.",
        ),
    ] = "fixed",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="CLEAN.jsonl", help="Write the kept rows.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", metavar="OUT.jsonl", help="Write a line per row: kept or not, why."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="REPORT.html", help="Write a report for people.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Number of processes; default: one per core, of the cluster too.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="local|ray", help="Who works: this machine's processes, or a Ray cluster."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT",
            help="A Ray cluster that this machine has joined; default: one of the scan's own, here.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work", metavar="DIR", help="Keep finished parts here; default: the cache, until done."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put loose files through the data gate and say what stays, what goes, and why.

    Decode, normalise, language, quality, secrets, personal data, held-out text, duplicates. The files are not
    changed. A killed scan goes on where it was. With --json: {"rows", "kept", "dropped": {reason: rows}, "changed":
    {step: rows}, "pii": {type: findings}, "languages": {tag: share of what came in}}.

    Example:  sovtune data scan corpus.jsonl --language ko --candidates ko,en --out clean.jsonl

    Example:  sovtune data scan *.txt.gz --language ar --pii drop --against exam.jsonl --report report.html

    Example:  sovtune data scan corpus.jsonl --language ko --decisions rows.jsonl --json
    """
    from sovtune.data_view import report_table
    from sovtune.scan_command import ScanRequest, scan_files

    close_network([], ray_address)
    request = ScanRequest(
        files=tuple(files),
        language=language,
        candidates=_tags(candidates),
        accepted=_tags(accept),
        against=tuple(against),
        personal_data=pii,
        secrets=secrets,
        quality=quality,
        out=out,
        decisions=decisions,
        report=report,
        engine=engine,
        ray_address=ray_address,
        workers=workers,
        work=work,
    )
    with make_reporter(quiet) as progress:
        result = scan_files(request, progress)
    if as_json:
        print_json(result.summary())
    else:
        print_line(report_table(result))


@data_app.command(cls=_ManyAgainst)
def card(
    files: Files,
    *,
    language: Language,
    out: Annotated[
        Path, typer.Option("--out", metavar="CARD.yaml", help="The card to write; must not exist yet.")
    ],
    candidates: Candidates = "",
    card_id: Annotated[
        str | None, typer.Option("--id", metavar="NAME", help="Short name of the data; default: from --out.")
    ] = None,
    against: Against = [],  # noqa: B006
    workers: Workers = CORES,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draft a data card: everything that can be measured is filled in, questions for people are marked TODO.

    Example:  sovtune data card corpus.jsonl --language ko --candidates ko,en --out data_cards/corpus.yaml
    """
    from sovtune.draft_command import DraftRequest, draft_card

    close_network([])
    request = DraftRequest(
        files=tuple(files),
        language=language,
        candidates=_tags(candidates),
        against=tuple(against),
        out=out,
        card_id=card_id,
        workers=workers,
    )
    with make_reporter(quiet) as progress:
        questions = draft_card(request, progress)
    if as_json:
        print_json({"card": str(out), "questions": questions})
    else:
        print_line(f"{out}: drafted; {len(questions)} questions to answer: {', '.join(questions)}")


@data_app.command()
def croissant(
    card: Annotated[Path, typer.Argument(metavar="CARD.yaml", help="The data card.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here instead of on stdout.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a data card as Croissant JSON-LD, which data portals and search engines read.

    Croissant 1.1 with the vocabulary for responsible AI. Addresses of files are relative to FILE, or to the card when
    it goes to stdout. What the card does not say is left out, and named on stderr where Croissant asks for it.

    Example:  sovtune data croissant data_cards/corpus.yaml --out data_cards/croissant.json
    """
    from sovtune.croissant_command import export_croissant

    close_network([])
    with make_reporter(quiet) as progress:
        text = export_croissant(card, out, progress)
    if out is None:
        print_line(text.rstrip("\n"))


@data_app.command()
def clean(
    *,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, help="Remove what was not used for so many days."
        ),
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing, say what would go.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Empty the caches of what is old: shards and scans of the data gate, rows, scores of bases, teachers' words.

    They lie below $SOVTUNE_HOME and are made again when they are needed. What a run is using stays, and so do
    downloaded bases. After each run, parts of the gate that were not used for 30 days go by themselves. With --json:
    {"dry_run", "freed_bytes", "removed": {kind: {"count", "bytes"}}, "kept": {...}, "in_use": {...}}.

    Example:  sovtune data clean --dry-run

    Example:  sovtune data clean --older-than 7
    """
    from sovtune.clean_command import as_values, clean_caches, in_words

    close_network([])
    with make_reporter(quiet) as progress:
        cleaned = clean_caches(older_than, progress, dry_run=dry_run)
    if as_json:
        print_json(as_values(cleaned, dry_run=dry_run))
    else:
        print_line(in_words(cleaned, older_than, dry_run=dry_run))


def _tags(text: str) -> tuple[str, ...]:
    """Tags between commas or blanks."""
    return tuple(text.replace(",", " ").split())
