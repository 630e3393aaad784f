"""Keeps a process from talking to any host its user did not name: environment first, then an audit hook."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sovtune.errors import EnvironmentFault, UsageError

_ALWAYS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # hf_xet is native code: it opens sockets that no audit hook sees.
    "HF_HUB_DISABLE_XET": "1",
    # transformers otherwise sends model id and token to a Space with a fixed address.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
_UNLESS_SET = {"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
_READERS = ("huggingface_hub.constants", "transformers", "datasets")
"""Modules that read these variables once, at import."""

_CONNECTING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_RESOLVING = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})


def air_gap_environment(offline: bool) -> tuple[str, ...]:
    """Switch telemetry and ambient credentials of every dependency off; call before the first heavy import.

    Args:
        offline: also forbid the Hub client every address (``HF_HUB_OFFLINE``): only cached models load.
            False leaves the user's own setting alone.

    Returns:
        Variables that changed too late, because a library that reads them at import is loaded already; empty
        when all is well.
    """
    wanted = dict(_ALWAYS, **({"HF_HUB_OFFLINE": "1"} if offline else {}))
    wanted |= {name: value for name, value in _UNLESS_SET.items() if name not in os.environ}
    changed = [name for name, value in wanted.items() if os.environ.get(name) != value]
    os.environ.update(wanted)
    late = any(module in sys.modules for module in _READERS)
    return tuple(name for name in changed if late and name not in _UNLESS_SET)


def allowed_hosts(endpoints: Iterable[str]) -> frozenset[str]:
    """The hosts of http(s) endpoints, as ``guard_egress`` compares them.

    Raises:
        UsageError: an endpoint is no http(s) URL, or carries a user name or password.
    """
    return frozenset(endpoint_host(endpoint) for endpoint in endpoints)


def endpoint_host(endpoint: str) -> str:
    """The host of an http(s) endpoint in lower case (see ``allowed_hosts``)."""
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(f"{endpoint!r} is no endpoint", fix="write it as https://hub.example.org")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"the endpoint at {host} carries a user name or password",
            why="an address is stored and printed",
            fix="put the token into an environment variable and name that variable",
        )
    return _plain(host)


@dataclass(slots=True)
class EgressGuard:
    """What the hook let through and what it stopped, counted by host; ``hosts`` are the allowed ones."""

    hosts: frozenset[str]
    allowed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    _addresses: set[str] = field(default_factory=set)

    def _learn(self, host: str) -> None:
        """Remember the addresses of an allowed name, because the later connect shows an address only."""
        try:
            found = socket.getaddrinfo(host, None)
        except OSError:
            return  # the caller's own look-up will fail in the same way and say so
        self._addresses.update(_plain(str(entry[4][0])) for entry in found)

    def _may_reach(self, host: str, *, resolving: bool) -> bool:
        if _is_local(host) or host in self._addresses:
            return True
        if host in self.hosts:
            if resolving:
                self._learn(host)
            return True
        # Name servers rotate addresses: ask once more before an address counts as unknown.
        if _is_address(host):
            for name in self.hosts:
                self._learn(name)
        return host in self._addresses

    def check(self, host: str, *, resolving: bool) -> None:
        """Let a host pass or raise ``EnvironmentFault``; a look-up that passes is not counted."""
        if self._may_reach(host, resolving=resolving):
            if not resolving:
                self.allowed[host] += 1
            return
        self.refused[host] += 1
        named = ", ".join(sorted(self.hosts)) or "none"
        raise EnvironmentFault(
            f"refused to contact {host}",
            why=f"only hosts that the recipe or the command line names may be contacted: {named}",
            fix=f"if {host} is meant, name it as an endpoint or mirror; if not, find out who asked for it",
        )


@dataclass(slots=True)
class _Hook:
    """The process's one audit hook: it cannot be removed, so a new guard replaces the old one inside it."""

    guard: EgressGuard | None = None
    inside: threading.local = field(default_factory=threading.local)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not event.startswith("socket.") or self.guard is None or getattr(self.inside, "busy", False):
            return
        host = _host_of(event, arguments)
        if host is None:
            return
        self.inside.busy = True  # the guard's own look-ups pass
        try:
            self.guard.check(host, resolving=event in _RESOLVING)
        finally:
            self.inside.busy = False


_hook = _Hook()


def guard_egress(hosts: Iterable[str]) -> EgressGuard:
    """From now on let this process reach only these hosts, loopback and UNIX sockets.

    Python's own sockets are covered: connect, sendto, sendmsg and name look-ups, in every thread. Native code
    that opens sockets by itself is not, which is why Xet is switched off. A later call replaces the list.

    Args:
        hosts: host names or addresses, for example from ``allowed_hosts``.

    Returns:
        The guard with its counters. Refused calls raise ``EnvironmentFault``.
    """
    guard = EgressGuard(frozenset(_plain(host) for host in hosts))
    if _hook.guard is None:
        sys.addaudithook(_hook)
    _hook.guard = guard
    return guard


def _host_of(event: str, arguments: tuple[object, ...]) -> str | None:
    """The host an audit event is about; None when it is about no host."""
    if event in _RESOLVING:
        host = arguments[0]
    elif event in _CONNECTING:
        handle, address = arguments[0], arguments[1]
        family = getattr(handle, "family", None)
        if family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
            return None
        host = address[0]
    else:
        return None
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    return _plain(host) if isinstance(host, str) and host else None


def _plain(host: str) -> str:
    """One spelling per host: lower case, no brackets, final dot or scope; names in IDNA, IPv4 not mapped."""
    text = host.strip("[]").rstrip(".").lower().partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            return text if text.isascii() else text.encode("idna").decode("ascii")
        except UnicodeError:
            return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    """Loopback; the unspecified address reaches this machine too."""
    if not _is_address(host):
        return host == "localhost"
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_unspecified
