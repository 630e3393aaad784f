"""The steps of the data gate as pure functions: from a document to a document, or to (dropped, reason).

What differs from one step to the next is only what they look at: normalising and masking go turn by turn,
everything that judges looks at the joined text of a document. Most documents need nothing: the functions that take
many find out which do not in one look, and say None for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sovtune.data.clean import CleanPolicy, normalise, untouched
from sovtune.data.contamination import EvalIndex
from sovtune.data.document import Document, joined, texts_of, with_texts
from sovtune.data.gate_settings import GateSettings, PersonalDataPolicy, SecretsPolicy
from sovtune.data.language import DocumentLanguage
from sovtune.data.pii import Finding, count, find_personal_data, mask, may_hold
from sovtune.secrets import secret_spans

LONGEST = 4_000_000
"""Characters of the longest document: a shelf of novels in one row is a file without line ends, and duplicate
search needs 40 bytes of memory per character."""
EXAMPLE_CHARACTERS = 160
_EXAMPLE_WINDOW = 2_000  # characters searched for personal data around an example

STEPS = (
    "read", "normalise", "language", "quality", "secrets", "personal_data", "contamination", "duplicates",
)  # fmt: skip
"""The steps in their order. Secrets come before personal data: the end of ``user:password@host`` reads as a mail
address. Duplicates come last, so that the row kept of a cluster is one that passed all else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The document goes on: what changed in it (names of sub-steps), what was found in it (counts by kind)."""

    document: Document
    changed: tuple[str, ...] = ()
    found: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The document goes; ``found`` as in ``Kept``, ``note`` says more than the reason, never what a text says."""

    reason: str
    note: str = ""
    found: Mapping[str, int] = field(default_factory=dict)


Outcome = Kept | Dropped


def normalise_document(document: Document, policy: CleanPolicy | None) -> Outcome:
    """Bring every text of a document into its normal form (see ``clean.normalise``)."""
    if sum(map(len, texts_of(document))) > LONGEST:
        return Dropped(reason="too_long", note=f"over {LONGEST:,} characters")
    if policy is None:
        return Kept(document=document)
    cleaned = [normalise(text, policy) for text in texts_of(document)]
    for one in cleaned:
        if one.refused is not None:
            return Dropped(reason=one.refused)
        if not one.text.strip():
            return Dropped(reason="empty", note="nothing visible is left of a text")
    changed = tuple(dict.fromkeys(name for one in cleaned for name in one.changed))
    if not changed:
        return Kept(document=document)
    return Kept(document=with_texts(document, [one.text for one in cleaned]), changed=changed)


def normalise_all(documents: Sequence[Document], policy: CleanPolicy | None) -> list[Outcome | None]:
    """``normalise_document`` of many; None for a document that goes on as it is."""
    groups = [texts_of(document) for document in documents]
    texts = [text for group in groups for text in group]
    plain = iter([True] * len(texts) if policy is None else untouched(texts, policy))
    outcomes: list[Outcome | None] = []
    for document, group in zip(documents, groups, strict=True):
        as_it_is = [next(plain) for _ in group]
        done = all(as_it_is) and sum(map(len, group)) <= LONGEST
        outcomes.append(None if done else normalise_document(document, policy))
    return outcomes


def check_language(found: DocumentLanguage, settings: GateSettings) -> Dropped | None:
    """Drop a document that is in no accepted language; one too short to say goes on."""
    if not settings.check_language or any(
        found.passes(tag, settings.min_language_share) for tag in settings.kept_languages
    ):
        return None
    shares = ", ".join(f"{tag} {share:.0%}" for tag, share in list(found.shares.items())[:3])
    return Dropped(reason="wrong_language", note=shares or found.tag)


def hide_personal_data(document: Document, policy: PersonalDataPolicy, languages: Sequence[str]) -> Outcome:
    """Count, mask, or drop a document with, personal data; ``languages`` begin with the corpus's own."""
    if policy == "off":
        return Kept(document=document)
    findings = [find_personal_data(text, languages) for text in texts_of(document)]
    found = _added(findings)
    if not found or policy == "report":
        return Kept(document=document, found=found)
    if policy == "drop":
        return Dropped(reason="personal_data", note=", ".join(found), found=found)
    return Kept(document=_masked(document, findings, languages[0]), changed=tuple(found), found=found)


def hide_secrets(document: Document, policy: SecretsPolicy, language: str) -> Outcome:
    """Mask credentials, or drop the document that has one."""
    findings = [find_credentials(text) for text in texts_of(document)]
    found = _added(findings)
    if not found:
        return Kept(document=document)
    if policy == "drop":
        return Dropped(reason="secret", found=found)
    return Kept(document=_masked(document, findings, language), changed=tuple(found), found=found)


def hide_all_personal_data(
    documents: Sequence[Document], policy: PersonalDataPolicy, languages: Sequence[str]
) -> list[Outcome | None]:
    """``hide_personal_data`` of many; None for a document that goes on as it is."""
    return [
        hide_personal_data(document, policy, languages) if any(map(may_hold, texts_of(document))) else None
        for document in documents
    ]


def hide_all_secrets(
    documents: Sequence[Document], policy: SecretsPolicy, language: str
) -> list[Outcome | None]:
    """``hide_secrets`` of many; None for a document that goes on as it is.

    Credentials are rare: what has none as a whole, a line break between one text and the next, has none in a part.
    """
    if not secret_spans("\n".join([text for document in documents for text in texts_of(document)])):
        return [None] * len(documents)
    if len(documents) == 1:
        return [hide_secrets(documents[0], policy, language)]
    middle = len(documents) // 2
    return [
        *hide_all_secrets(documents[:middle], policy, language),
        *hide_all_secrets(documents[middle:], policy, language),
    ]


def find_credentials(text: str) -> list[Finding]:
    """Credentials as findings of the kind ``secret``."""
    return [Finding("secret", start, end, "high") for _, start, end in secret_spans(text)]


def _added(findings: Sequence[Sequence[Finding]]) -> dict[str, int]:
    return count(item for group in findings for item in group)


def _masked(document: Document, findings: Sequence[Sequence[Finding]], language: str) -> Document:
    texts = zip(texts_of(document), findings, strict=True)
    return with_texts(document, [mask(text, group, language) if group else text for text, group in texts])


def check_contamination(documents: Sequence[Document], index: EvalIndex) -> list[Outcome | None]:
    """Drop documents that share a run of text with held-out text; ``found`` counts hits by held-out set."""
    outcomes: list[Outcome | None] = []
    for hits in index.scan([joined(document) for document in documents]):
        if not hits:
            outcomes.append(None)
            continue
        best = hits[0]
        kind = "the whole of" if best.kind == "whole" else f"{best.matched} letters of"
        sets = Counter(dict.fromkeys((hit.name for hit in hits), 1))
        outcomes.append(
            Dropped(reason="contamination", note=f"{kind} {best.name} item {best.item + 1}", found=sets)
        )
    return outcomes


def prepared_held_out(document: Document, settings: GateSettings) -> str | None:
    """Held-out text as training text would be after all steps that change text, so that both can be compared.

    Nothing is dropped; None when normalising finds nothing visible in it.
    """
    outcome = normalise_document(document, settings.clean_policy)
    if isinstance(outcome, Kept):
        document = outcome.document
    elif outcome.reason == "empty":
        return None
    policy: PersonalDataPolicy = "mask" if settings.personal_data == "mask" else "off"
    hidden = hide_secrets(document, "mask", settings.language)
    document = hidden.document if isinstance(hidden, Kept) else document
    hidden = hide_personal_data(document, policy, settings.languages)
    return joined(hidden.document if isinstance(hidden, Kept) else document)


def shortened(text: str, languages: Sequence[str]) -> str:
    """The beginning of a text for a report, on one line; personal data and credentials are always masked."""
    window = text[:_EXAMPLE_WINDOW]
    window = mask(window, find_credentials(window), languages[0])
    window = mask(window, find_personal_data(window, languages), languages[0])
    line = " ".join(window.split())
    return line if len(line) <= EXAMPLE_CHARACTERS else line[: EXAMPLE_CHARACTERS - 1] + "…"
