"""Finders of e-mail addresses, IP addresses and bank account numbers (IBAN)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from sovtune.data.pii.boundaries import FOUR_DIGITS, LEFT, LONGEST_LETTERED, RIGHT, windows
from sovtune.data.pii.checks import iban
from sovtune.data.pii.context import Context
from sovtune.data.pii.finding import Finding

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_%+\-](?:[A-Za-z0-9._%+\-]{0,62}[A-Za-z0-9_%+\-])?"
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+([A-Za-z]{2,24}))(?![A-Za-z0-9(\-]|\.[A-Za-z0-9])"
)
# Not top-level domains but what follows a dot in file names, systemd units and home networks.
_NO_DOMAIN = frozenset(
    {
        "service",
        "socket",
        "timer",
        "target",
        "mount",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "css",
        "js",
        "json",
        "html",
        "htm",
        "txt",
        "php",
        "local",
        "localdomain",
        "internal",
        "lan",
        "home",
        "corp",
        "localhost",
        "invalid",
    }
)
# RFC 2606 and RFC 6761: nobody's address.
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org|co\.[a-z]{2}))?|test)$", re.IGNORECASE)
_AT = re.compile("@")
_LONGEST_EMAIL = 320
"""64 characters before the @ and 255 after it (RFC 5321, 4.5.3.1)."""
_NO_PERSON = frozenset({"git", "hg", "svn"})
"""User names of version-control addresses such as git@host:path."""


def _everywhere(
    pattern: re.Pattern[str], text: str, spans: Iterable[tuple[int, int]]
) -> Iterator[re.Match[str]]:
    for low, high in spans:
        yield from pattern.finditer(text, low, high)


def find_emails(text: str) -> Iterator[Finding]:
    """E-mail addresses; those of domains reserved for examples with low confidence."""
    for match in _everywhere(_EMAIL, text, windows(_AT, text, _LONGEST_EMAIL)):
        local, domain, top = match.group().split("@")[0].lower(), match[1], match[2].lower()
        in_url = text.rfind("://", max(0, match.start() - 3), match.start()) >= 0  # scheme://user@host
        if in_url or ".." in local or top in _NO_DOMAIN or local in _NO_PERSON:
            continue
        yield Finding("email", *match.span(), "low" if _RESERVED.search(domain) else "high")


_RIGHT = re.compile(RIGHT)
# Written without spaces, or in groups of four and a shorter last one.
_IBAN = re.compile(
    rf"{LEFT}[A-Za-z]{{2}}[0-9]{{2}}(?:(?P<join>[ -])[A-Za-z0-9]{{4}}(?:(?P=join)[A-Za-z0-9]{{4}}){{2,6}}"
    rf"(?:(?P=join)[A-Za-z0-9]{{1,3}})?|[A-Za-z0-9]{{11,30}})(?![0-9A-Za-z])"
)


def find_ibans(text: str) -> Iterator[Finding]:
    """Bank account numbers of ISO 13616."""
    for match in _everywhere(_IBAN, text, windows(FOUR_DIGITS, text, LONGEST_LETTERED)):
        start, end = match.span()
        while end - start >= 15:  # a word of one to four letters may follow in the rhythm of the groups
            if _RIGHT.match(text, end) and iban(text[start:end].replace(" ", "").replace("-", "").upper()):
                yield Finding("iban", start, end, "high")
                break
            cut = max(text.rfind(" ", start, end), text.rfind("-", start, end))
            if cut < 0:
                break
            end = cut


_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(
    # A decimal number before it makes a drawing path (M2.12 3.51.98.32), not an address.
    rf"(?<![0-9A-Za-z_])(?<![0-9A-Za-z][-.])(?<!\.[0-9] )(?<!\.[0-9]{{2}} )"
    rf"(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9A-Za-z_])(?![.\-][0-9A-Za-z]|/[0-9])"
)
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z_:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}"
    r"(?![0-9A-Za-z_:]|/[0-9A-Fa-f])"
)
_IP_SIGN = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:")
_LONGEST_IP = 48
_VERSION_LIKE = 32
"""Four numbers all below this read like a version or a section (1.2.3.4) and need a label."""


def find_ips(original: str, text: str) -> Iterator[Finding]:
    """IP addresses that lead to somebody: globally routed ones.

    Loopback, private, link-local, shared, multicast and documentation ranges tell nothing about a person
    and are left alone, as are version numbers and network prefixes with ``/n``.
    """
    spans = windows(_IP_SIGN, text, _LONGEST_IP)
    for pattern in (_IPV4, _IPV6):
        for match in _everywhere(pattern, text, spans):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue  # eight groups missing, or two ellipses: not an address
            if not address.is_global or address.is_multicast:
                continue
            context = Context(original, *match.span())
            labelled = context.supports("ip")
            version_like = address.version == 4 and max(address.packed) < _VERSION_LIKE
            if not labelled and (version_like or context.denies()):
                continue
            yield Finding("ip", *match.span(), "high" if labelled else "medium")
