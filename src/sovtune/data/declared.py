"""What a data card declares against what was measured: languages and personal data; and what could not be compared.

Files, rows and hashes are held to the card before (``card.verify_files``), a share of synthetic rows to the sources
when the card is read. Languages and personal data are measured by the data gate, so without a ``curate`` section
in the recipe they are not compared, and the record says so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sovtune.data.card import LoadedCard, chosen_files, verify_documents
from sovtune.data.card_rights import bound_outputs
from sovtune.data.gate_report import DataGateReport, GateInput, shares
from sovtune.data.language import can_be_told
from sovtune.data.permission import enforce
from sovtune.data.scripts import primary, scripts_of
from sovtune.errors import DataRefused
from sovtune.recipe import DataSource, Recipe
from sovtune.records import DataReport
from sovtune.yaml_file import KeyPath

SHARE_TOLERANCE = 0.10
"""How far a declared share may be off, absolute: code, names and short lines make any measure of language rough."""
SENTENCE = 100.0
"""Weighted letters (see ``data.language``) of a longer sentence: one sentence in another language contradicts nothing,
so the tolerance widens by ``SENTENCE / letters``, which a page makes 0.05 and a book nothing."""
NUMBERS_PER_1000 = 1.0
"""Identity, account and card numbers that pass their check rule, per 1,000 rows, which `none` survives: in a large
corpus some pass by chance, and manuals print specimens."""
CONTACTS_PER_1000 = 10.0
"""The same for telephone numbers, mail and network addresses: offices and shops print theirs."""
LEAST_CONTACTS = 3
"""Fewer contacts are an example in a text, however few rows there are."""
_CONTACTS = frozenset({"phone", "email", "ip", "kr_brn", "cn_uscc"})
"""Kinds that are as often an office's as a person's: contacts, and numbers of businesses."""
NO_GATE = "not compared: the recipe has no curate section, so it was not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A statement of the card that the measurement does not bear out."""

    at: KeyPath
    message: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Each statement with what was found, in words; and the contradictions."""

    told: dict[str, str]
    contradictions: tuple[Contradiction, ...]


def compare(
    loaded: LoadedCard, split: str | None, measured: Sequence[GateInput] | None, hiding: str | None
) -> Comparison:
    """Hold a card's statements to what the gate measured in its files.

    Args:
        loaded: the card.
        split: the split that was read, see ``card.chosen_files``.
        measured: the gate's counts of its files; None when there was no gate.
        hiding: the recipe's ``curate.personal_data``; None when there was no gate.
    """
    told = {
        "files, rows, hashes": "as declared",
        "synthetic_share": f"declared {loaded.card.synthetic_share:g}; fits the sources, cannot be measured",
    }
    if measured is None or hiding is None:
        return Comparison(told=told | {"languages": NO_GATE, "personal_data": NO_GATE}, contradictions=())
    told["languages"], language = _languages(loaded, split, measured)
    told["personal_data"], personal = _personal_data(loaded, measured, hiding)
    return Comparison(told=told, contradictions=(*language, *personal))


def refuse_contradictions(loaded: LoadedCard, comparison: Comparison) -> None:
    """Stop when the card says what the data does not bear out.

    Raises:
        DataRefused: with every contradiction, the place of the declared value and the next step.
    """
    found = comparison.contradictions
    if not found:
        return
    first, *others = found
    more = [f"{loaded.where(*one.at)}: {one.message}" for one in others]
    raise DataRefused(
        "\n".join([first.message, *more]),
        where=loaded.where(*first.at),
        why="the model card repeats what the data card says, so it must be true",
        fix="; ".join(dict.fromkeys(one.fix for one in found)),
    )


def compare_all(
    recipe: Recipe, sources: Sequence[tuple[DataSource, LoadedCard]], gate: DataGateReport | None
) -> list[Comparison]:
    """Hold every card of a recipe to what was measured, and stop at the first that is contradicted.

    Args:
        recipe: the recipe.
        sources: its sources with their cards, in order.
        gate: the gate's report; None when the recipe has no ``curate`` section.

    Raises:
        DataRefused: see ``refuse_contradictions``.
    """
    comparisons = []
    for wish, loaded in sources:
        measured, hiding = None, None
        if gate is not None and recipe.curate is not None:
            measured = [one for one in gate.inputs if one.card == loaded.card.id]
            hiding = recipe.curate.personal_data
        comparison = compare(loaded, wish.split, measured, hiding)
        refuse_contradictions(loaded, comparison)
        comparisons.append(comparison)
    return comparisons


def with_statements(
    report: DataReport,
    recipe: Recipe,
    sources: Sequence[tuple[DataSource, LoadedCard]],
    gate: DataGateReport | None,
) -> DataReport:
    """The report with what its cards state, what was compared, and what people answer for.

    None of this decides the rows, so it is added to a cached report too.

    Args:
        report: of the prepared rows, a data set for each source, in order.
        recipe: see ``compare_all``, like the other arguments.
        sources: the sources.
        gate: the gate's report.

    Raises:
        DataRefused: see ``compare_all``.
        LicenceRefused: see ``data.permission.enforce``.
    """
    permission = enforce(recipe, [loaded for _, loaded in sources])
    comparisons = compare_all(recipe, sources, gate)
    datasets = tuple(
        replace(
            entry,
            basis=loaded.card.rights.basis,
            attribution=loaded.card.rights.attribution,
            commercial=loaded.card.rights.commercial,
            territory=loaded.card.rights.territory,
            sensitivity=loaded.card.sensitivity,
            allowed_regions=loaded.card.residency.allowed_regions,
            export=loaded.card.residency.export,
            synthetic_share=loaded.card.synthetic_share,
            outputs_of=bound_outputs(loaded.card),
            documents=verify_documents(loaded),
            compared=comparison.told,
        )
        for entry, (_, loaded), comparison in zip(report.datasets, sources, comparisons, strict=True)
    )
    return replace(
        report,
        datasets=datasets,
        licence_policy=permission.policy,
        decisions=permission.decisions(),
        open_questions=permission.questions(),
    )


def _languages(
    loaded: LoadedCard, split: str | None, measured: Sequence[GateInput]
) -> tuple[str, list[Contradiction]]:
    declared = {language.tag: language.share for language in loaded.card.languages}
    said = f"declared {_listed(declared)}"
    if len(chosen_files(loaded, split)) < len(loaded.card.files):
        return f"{said}; not compared: the card's shares are of all its splits, one was read", []
    letters: Counter[str] = Counter()
    for one in measured:
        letters.update(one.letters)
    tolerance = SHARE_TOLERANCE + SENTENCE / max(letters.total(), SENTENCE)
    if tolerance >= 1:
        return f"{said}; not compared: there are too few letters to tell", []
    found = shares(letters)
    sentence = f"{said}; measured {_listed(found)} of the letters (tolerance {tolerance:.2f})"
    group = _groups(declared)
    wanted, got = _summed(declared, group), _summed(found, group)
    off = {name: abs(wanted[name] - got[name]) for name in {*wanted, *got}}
    if max(off.values()) <= tolerance:
        return sentence, []
    language = loaded.card.languages
    worst = max(range(len(language)), key=lambda at: off[group(language[at].tag)])
    contradiction = Contradiction(
        at=("languages", worst, "share"),
        message=f"the card says {_listed(declared)}, measured: {_listed(found)} of the letters "
        f"(a share may be off by {tolerance:.2f})",
        fix=f"correct `languages` in {loaded.yaml.file} to what was measured and give it a new version; or, if rows "
        f"do not belong there, `sovtune data scan FILES --language {language[0].tag} --out CLEAN.jsonl`",
    )
    return sentence, [contradiction]


def _groups(declared: Mapping[str, float]) -> Callable[[str], str]:
    """What a tag is counted under: its language, or its script where that holds languages that cannot be told apart."""
    mixed = {scripts_of(tag)[0] for tag in declared if not can_be_told(tag, declared)}

    def group(tag: str) -> str:
        script = scripts_of(tag)[0]
        return script if script in mixed else primary(tag)

    return group


def _summed(of: Mapping[str, float], group: Callable[[str], str]) -> defaultdict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for tag, share in of.items():
        sums[group(tag)] += share
    return sums


def _listed(of: Mapping[str, float]) -> str:
    return ", ".join(f"{tag} {share:.2f}" for tag, share in of.items() if share >= 0.005) or "nothing"


def _personal_data(
    loaded: LoadedCard, measured: Sequence[GateInput], hiding: str
) -> tuple[str, list[Contradiction]]:
    stated = loaded.card.personal_data
    said = f"declared {stated.contains}"
    if hiding == "off":
        return f"{said}; not compared: curate.personal_data is off, so it was not looked for", []
    found: Counter[str] = Counter()
    for one in measured:
        found.update(one.found)
    rows = sum(one.rows for one in measured)
    listed = ", ".join(f"{kind} {count}" for kind, count in found.most_common()) or "nothing"
    sentence = f"{said}; found {listed} in {rows:,} rows"
    masked_before = stated.action != "none" and hiding in ("mask", "drop")
    if stated.contains != "none" or masked_before or not _too_many(found, rows):
        return sentence, []
    files = " ".join(str(loaded.folder / entry.path) for entry in loaded.card.files[:1])
    contradiction = Contradiction(
        at=("personal_data", "contains"),
        message=f"the card says none, found: {listed} in {rows:,} rows (accepted in 1,000 rows: {NUMBERS_PER_1000:g} "
        f"identity, account or card number; {CONTACTS_PER_1000:g} telephone numbers, mail or network addresses)",
        fix=f"`sovtune data scan {files} --language {loaded.card.languages[0].tag} --decisions rows.jsonl` names the "
        "rows; then write `contains: possible`, or yes with its lawful_basis, or take them out of the data",
    )
    return sentence, [contradiction]


def _too_many(found: Mapping[str, int], rows: int) -> bool:
    contacts = sum(count for kind, count in found.items() if kind in _CONTACTS)
    numbers = sum(found.values()) - contacts
    if numbers > NUMBERS_PER_1000 * rows / 1000:
        return True
    return contacts >= LEAST_CONTACTS and contacts > CONTACTS_PER_1000 * rows / 1000
