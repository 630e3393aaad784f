"""Finds secrets and local paths in text that is about to leave the machine; never hands out what it found."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence

Finding = tuple[str, int]
"""Name of the kind of thing found, and its line (from 1)."""

_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Hugging Face token", re.compile(r"(?<![A-Za-z0-9_])(?:hf|api_org)_[A-Za-z0-9]{20,}")),
    # A digit is asked for because hyphenated words such as sk-estimator-doc-link-fitted are no keys.
    ("sk- API key", re.compile(r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}")),
    ("AWS access key id", re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])")),
    ("GitHub token", re.compile(r"(?<![A-Za-z0-9_])(?:gh[pousr]_\w{30,}|github_pat_\w{22,})", re.ASCII)),
    ("Slack token", re.compile(r"(?<![A-Za-z0-9])xox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("private key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")),
    (
        "JSON web token",
        re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    ),
    ("URL with a password", re.compile(r"://[^\s/:@\"'<>]{1,256}:[^\s/@\"'<>]{1,256}@")),
    (
        "Authorization header",
        re.compile(r"(?i:authorization)\\?[\"']?\s*[:=,]\s*\\?[\"']?(?i:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}"),
    ),
)  # fmt: skip

_PATHS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("file:// address", re.compile(r"file://", re.IGNORECASE)),
    # Folders that hold a person's or a site's own data. System folders (/usr, /etc, /var), /home/user and
    # /home/$USER are left out: sample answers may explain them, and they tell nothing about the machine.
    (
        "local path",
        re.compile(
            r"(?<![A-Za-z0-9_.~/])/(?:root(?![\w.-])"
            r"|(?:home|Users|tmp|mnt|media|scratch|workspace|data|nfs|lustre|gpfs)/"
            r"(?!(?:user|username|you|your-name)(?![\w.-]))[^\s/\"'<>|)\]}$`]+)"
        ),
    ),
    ("local path", re.compile(r"(?<![A-Za-z])[A-Za-z]:(?:\\{1,2}|/)Users(?:\\|/)", re.IGNORECASE)),
)

_COMMON_NAMES = frozenset((
    "root", "user", "users", "admin", "ubuntu", "debian", "test", "tester", "guest", "nobody", "python",
    "docker", "runner", "build", "home", "local", "localhost", "jovyan", "vagrant", "app", "data", "main",
    "server", "node",
))  # fmt: skip
"""Account and host names that are everyday words too: finding one tells nothing about a person or machine."""

_ESCAPED_SPACE = re.compile(r"\\[nrtf]")


def _lines(text: str, patterns: Iterable[tuple[str, re.Pattern[str]]]) -> list[Finding]:
    # In JSON a line break is written \\n, whose letter would hide a word boundary; the length must stay.
    text = _ESCAPED_SPACE.sub("  ", text)
    starts = [0] + [match.end() for match in re.finditer("\n", text)]
    found = {
        (name, bisect_right(starts, match.start()))
        for name, pattern in patterns
        for match in pattern.finditer(text)
    }
    return sorted(found, key=lambda finding: (finding[1], finding[0]))


def find_secrets(text: str, *, known: Sequence[str] = ()) -> list[Finding]:
    """Where a text holds something that looks like a credential.

    The set is small and our own: shapes that are unmistakable, so that real text is not refused.

    Args:
        text: any text; JSON-escaped text works too.
        known: credentials of this process, found as they are whatever their shape.

    Returns:
        ``(kind, line)`` pairs in line order, each pair once; never the credential.
    """
    exact = [("credential of this process", re.compile(re.escape(value))) for value in known if value]
    return _lines(text, (*_SECRETS, *exact))


_SIGNS: dict[str, tuple[str, ...]] = {
    "Hugging Face token": ("hf_", "api_org_"),
    "sk- API key": ("sk-",),
    "AWS access key id": ("AKIA", "ASIA"),
    "GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "Slack token": ("xox",),
    "private key": ("PRIVATE KEY",),
    "JSON web token": ("eyJ",),
    "URL with a password": ("://",),
    "Authorization header": ("uthorization", "UTHORIZATION"),
}
"""What must stand in a text before its pattern is tried: plain search is a hundred times as fast."""

_KEY_BODY = re.compile(r"[A-Za-z0-9+/=:,.\- \r\n]*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_KEY = 20_000
"""Characters of a PEM block: RSA with 16,384 bits has 12,800."""
_CUT_KEY_BODY = re.compile(r"[A-Za-z0-9+/=\s]*")


def secret_spans(text: str) -> list[tuple[str, int, int]]:
    """Where a text holds something that looks like a credential, for masking.

    Args:
        text: running text of a corpus.

    Returns:
        ``(kind, start, end)`` in order of place, apart from each other; never the credential. A private key
        goes from BEGIN to END, or as far as its base64 goes when the end is cut off; of a URL it is
        ``user:password``.
    """
    plain = _ESCAPED_SPACE.sub("  ", text) if "\\" in text else text
    spans: list[tuple[str, int, int]] = []
    for name, pattern in _SECRETS:
        if not any(sign in plain for sign in _SIGNS[name]):
            continue
        for match in pattern.finditer(plain):
            start, end = match.span()
            if name == "private key":
                whole = plain.find("-----END", end, end + _LONGEST_KEY) >= 0 and _KEY_BODY.match(plain, end)
                body = whole or _CUT_KEY_BODY.match(plain, end)
                end = body.end() if body else end
            elif name == "URL with a password":
                start, end = start + len("://"), end - len("@")
            spans.append((name, start, end))
    apart: list[tuple[str, int, int]] = []
    for span in sorted(spans, key=lambda span: (span[1], -span[2])):
        if not apart or span[1] >= apart[-1][2]:
            apart.append(span)
    return apart


def find_private_paths(
    text: str, *, users: Sequence[str] = (), hosts: Sequence[str] = (), folders: Sequence[str] = ()
) -> list[Finding]:
    """Where a text tells something about the machine it was made on.

    Args:
        text: any text; compared in NFC, so that a name typed on another system is found too.
        users: account names; found as whole words, but not inside an address, a repository id or a path (a
            person may publish under the account's name; paths are found anyway). Everyday words are skipped.
        hosts: host names; found as whole words anywhere, inside URLs too. Everyday words are skipped.
        folders: absolute folders of this process, found wherever they stand as a path.

    Returns:
        ``(kind, line)`` pairs in line order, each pair once; never the path or name itself.
    """
    extra = [
        ("user name", re.compile(rf"(?<![\w@/.\\-]){re.escape(name)}(?![\w@/.\\-])"))
        for name in _telling(users)
    ]
    extra += [
        ("host name", re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")) for name in _telling(hosts)
    ]
    extra += [
        ("local path", re.compile(rf"(?<![\w.-]){re.escape(_nfc(folder))}(?![\w.-])"))
        for folder in folders
        if folder.count("/") > 1  # "/", "/app": too short to tell anything
    ]
    return _lines(_nfc(text), (*_PATHS, *extra))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _telling(names: Sequence[str]) -> list[str]:
    return [_nfc(name) for name in names if len(name) >= 3 and name.lower() not in _COMMON_NAMES]
