"""What the data gate does: one frozen record of languages, policies and limits, and the key of its caches."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from sovtune.data.clean import CleanPolicy
from sovtune.data.dedup import THRESHOLD
from sovtune.data.quality import Thresholds
from sovtune.errors import UsageError

PersonalDataPolicy = Literal["off", "report", "mask", "drop"]
SecretsPolicy = Literal["mask", "drop"]
_LIBRARIES = ("ftfy", "numpy", "phonenumbers", "py3langid", "rensa")
"""Libraries whose next version may judge differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Quality limits from the corpus itself: the tails below ``low`` and above ``high`` go."""

    low: float = 0.1
    high: float = 99.9


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Settings of the gate; every step has its own switch.

    Attributes:
        language: tag of the language the corpus is for.
        candidates: tags that may turn up, likeliest first, the language itself among them; they choose legacy
            codecs, telephone plans and what language identification tells apart. Empty: the language alone.
        accepted: tags whose documents are kept. Empty: the language alone.
        min_language_share: share of weighted letters that must be in an accepted language, 0 to 1.
        normalise: what normalising may change; None leaves the text as it is, but for NFC.
        check_language: drop documents in other languages.
        quality: fixed limits, percentiles of the corpus, or None for no check.
        duplicates: drop exact and near-duplicates, within the inputs and of held-out text.
        duplicate_threshold: estimated Jaccard index from which two texts are near-duplicates, 0.5 to 1.
        personal_data: off, report (count only), mask with typed placeholders, or drop the document.
        secrets: mask or drop; credentials are never passed on.
        contamination: drop documents that share a run of text with held-out text.
    """

    language: str
    candidates: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    min_language_share: float = 0.5
    normalise: CleanPolicy | None = field(default_factory=lambda: CleanPolicy(languages=()))
    check_language: bool = True
    quality: Thresholds | Percentiles | None = field(default_factory=Thresholds)
    duplicates: bool = True
    duplicate_threshold: float = THRESHOLD
    personal_data: PersonalDataPolicy = "mask"
    secrets: SecretsPolicy = "mask"
    contamination: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_language_share <= 1:
            raise UsageError(f"a language share of {self.min_language_share:g} is not between 0 and 1")

    @property
    def languages(self) -> tuple[str, ...]:
        """Every tag that may turn up: the language first, then accepted ones and candidates."""
        return tuple(dict.fromkeys((self.language, *self.accepted, *self.candidates)))

    @property
    def kept_languages(self) -> tuple[str, ...]:
        """Tags whose documents are kept."""
        return self.accepted or (self.language,)

    @property
    def clean_policy(self) -> CleanPolicy | None:
        """The normalising policy, with the gate's languages when it names none."""
        if self.normalise is None or self.normalise.languages:
            return self.normalise
        return replace(self.normalise, languages=self.languages)

    def in_words(self) -> dict[str, str]:
        """The switches, for a report."""
        clean = self.clean_policy
        changes = {} if clean is None else {key: str(value) for key, value in asdict(clean).items()}
        changes.pop("languages", None)
        kinds = {Thresholds: "fixed limits", Percentiles: "percentiles of the corpus"}
        return {
            "accepted languages": ", ".join(self.kept_languages) if self.check_language else "all",
            "normalise": ", ".join(f"{key} {value}" for key, value in changes.items()) or "off",
            "quality": kinds.get(type(self.quality), "off"),
            "duplicates": f"from {self.duplicate_threshold:g} alike" if self.duplicates else "off",
            "personal data": self.personal_data,
            "secrets": self.secrets,
            "contamination": "on" if self.contamination else "off",
        }

    def fingerprint(self, held_out_sha256: str) -> str:
        """Key of everything one shard's result depends on besides its text: settings, held-out text, code.

        The duplicate threshold is left out: duplicates are searched for among all shards, after them.
        """
        values = asdict(self)
        del values["duplicate_threshold"]
        values["quality"] = [type(self.quality).__name__, values["quality"]]
        content = json.dumps([values, held_out_sha256, code_version()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@cache
def code_version() -> str:
    """Hash over the source of the data room, the secrets it looks for, and the libraries that judge text."""
    digest = hashlib.sha256(unicodedata.unidata_version.encode())
    for name in _LIBRARIES:
        digest.update(f"{name} {version(name)}\n".encode())
    room = Path(__file__).parent
    for path in sorted([*room.rglob("*.py"), room.parent / "secrets.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
