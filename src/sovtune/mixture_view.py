"""What people are told of the mixture: what was taken, the shares asked for and reached, and a word on replay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sovtune.data.card import LoadedCard, load_card
from sovtune.figures import language_name, primary, share
from sovtune.gate_words import reason_in_words
from sovtune.recipe import Recipe
from sovtune.records import DataReport, DataSetRecord, LanguageRecord

REPLAY_SHARE = 0.1
"""A tenth of English beside Korean left English bits per byte as they were in the quickstart, whose gate allows 3 %."""
Shares = Sequence[tuple[str, float, float | None]]
"""Of each language: tag, share, share asked for."""
SHOWN_SHARE = 0.005
"""Languages below this share, mostly short or mixed documents, are told as others."""


def data_lines(report: DataReport) -> list[str]:
    """The data stage in a few lines: sources, languages, rows, and what was left out."""
    lines = [_source(entry) for entry in report.datasets]
    lines += _languages(report.languages)
    supervised = report.supervised_tokens / report.tokens
    lines.append(
        f"{report.tokens:,} tokens in {report.rows:,} rows of at most {report.max_length:,}, which they fill to "
        f"{share(report.row_fill)}; {share(supervised)} of the tokens carry loss"
    )
    lines += _left_out(report)
    return lines


def _source(entry: DataSetRecord) -> str:
    asked = f" (asked {share(entry.share_asked)})" if entry.share_asked is not None else ""
    seen = entry.tokens / entry.tokens_available if entry.tokens_available else 1.0
    passes = (
        f", seen {seen:.1f} times"
        if seen > 1.005
        else f", {share(seen)} of what it has"
        if seen < 0.995
        else ""
    )
    return (
        f"{entry.card_id}: {entry.rows_used:,} of {entry.rows_read:,} rows, {entry.tokens:,} tokens{passes}; "
        f"{share(entry.share_reached)} of the mixture{asked}"
    )


def _languages(languages: Sequence[LanguageRecord]) -> list[str]:
    """Shares by language: as the text came, as it left the gate, and in the rows."""
    stages: list[tuple[str, Shares]] = [
        (
            "languages in the rows, by tokens",
            [(one.tag, one.share_reached, one.share_asked) for one in languages],
        )
    ]
    available = [(one.tag, one.share_available, None) for one in languages]
    if any(abs(one.share_available - one.share_reached) >= SHOWN_SHARE for one in languages):
        stages.insert(0, ("languages that could be taken, by tokens", available))
    before = [(one.tag, one.share_before, None) for one in languages if one.share_before is not None]
    if any(
        abs(came - one.share_available) >= 0.01 for (_, came, _), one in zip(before, languages, strict=False)
    ):
        stages.insert(0, ("languages that came to the data gate, by letters", before))
    return [f"{name}: {_listed(shares)}" for name, shares in stages]


def _listed(shares: Shares) -> str:
    """``ko 90.1 % (asked 90.0 %), en 9.7 %, others 0.2 %``, the largest first."""
    ordered = sorted(shares, key=lambda one: -one[1])
    shown = [one for one in ordered if one[1] >= SHOWN_SHARE or one[2] is not None]
    parts = [
        f"{tag} {share(got)}" + (f" (asked {share(asked)})" if asked is not None else "")
        for tag, got, asked in shown
    ]
    others = 1 - sum(got for _, got, _ in shown)
    return ", ".join([*parts, *([f"others {share(others)}"] if others >= 0.0005 else [])])


def _left_out(report: DataReport) -> list[str]:
    lines = []
    for entry in report.datasets:
        if any(entry.dropped.values()):
            reasons = ", ".join(
                f"{reason_in_words(reason)} {count:,}" for reason, count in entry.dropped.items() if count
            )
            lines.append(f"{entry.card_id}: {sum(entry.dropped.values()):,} rows left out: {reasons}")
    if split := report.overlong.get("split"):
        lines.append(f"{split:,} texts longer than a row were split at paragraphs, sentences or words")
    if dropped := report.overlong.get("dropped"):
        lines.append(f"{dropped:,} documents longer than a row were left out: {report.tokens_cut:,} tokens")
    if report.masked:
        found = ", ".join(f"{kind} {count:,}" for kind, count in report.masked.items())
        lines.append(f"personal data and secrets found: {found}")
    return lines


def replay_note(written: Recipe, resolved: Recipe) -> str | None:
    """Advice to train on some English too, or on the language of a replay set; None when the mixture has it.

    Preference methods get none: what they would have to replay is judged answers, which few have.

    Args:
        written: the recipe with paths as a person wrote them.
        resolved: the same recipe with paths that can be opened.

    Raises:
        CardError: a data card cannot be read.
    """
    if resolved.method not in ("sft", "cpt"):
        return None
    if resolved.method not in ("sft", "cpt"):  # comparisons move a model little, and plain English is none
        return None
    sources = [load_card(Path(source.card)) for source in resolved.data]
    kept = [load_card(Path(text.card)) for text in resolved.evaluate.texts if text.role == "replay"]
    own = primary(resolved.language)
    wanted = dict.fromkeys(["en", *(primary(_leading(card)) for card in kept)])
    missing = [tag for tag in wanted if tag != own and not _brings(tag, resolved, sources)]
    if not missing:
        return None
    names = " and ".join(language_name(tag) for tag in missing)
    part = REPLAY_SHARE * len(missing)
    return "\n".join(
        [
            f"the mixture has no {names}. About {100 * REPLAY_SHARE:g} % of it beside "
            f"{language_name(resolved.language)} keeps the base from losing it. In the recipe:",
            *_lines_to_add(written, missing, part),
        ]
    )


def _leading(card: LoadedCard) -> str:
    return max(card.card.languages, key=lambda language: language.share).tag


def _brings(tag: str, recipe: Recipe, sources: Sequence[LoadedCard]) -> bool:
    """Whether the mixture has a language: asked for by name, or a tenth of some source by its card."""
    if recipe.mix is not None and recipe.mix.languages:
        return any(primary(name) == tag for name in recipe.mix.languages)
    return any(
        primary(language.tag) == tag and language.share >= REPLAY_SHARE
        for card in sources
        for language in card.card.languages
    )


def _lines_to_add(recipe: Recipe, missing: Sequence[str], part: float) -> list[str]:
    """The recipe's `data:` (and `mix:`) as it could be."""
    lines = ["  data:"]
    for source in recipe.data:
        lines.append(f"    - card: {source.card}")
        if source.share is not None or len(recipe.data) == 1:
            lines.append(f"      share: {(source.share or 1.0) * (1 - part):.3g}")
        else:
            lines.append("      share: ...")
    for tag in missing:
        lines += [f"    - card: PATH/OF/A/CARD-{tag}.yaml", f"      share: {REPLAY_SHARE:g}"]
    if recipe.mix is not None and recipe.mix.languages:
        shares = {tag: f"{part_of * (1 - part):.3g}" for tag, part_of in recipe.mix.languages.items()}
        shares |= dict.fromkeys(missing, f"{REPLAY_SHARE:g}")
        lines += [
            "  mix:",
            "    languages: {" + ", ".join(f"{tag}: {one}" for tag, one in shares.items()) + "}",
        ]
    return lines
