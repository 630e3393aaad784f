"""The HTTP line to one Hub: bounded retries, time limits, no token and no request beyond what was named."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sovtune.errors import PublishFailed, SovtuneError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

PATIENCE = 3
"""Failures of the line that one publish survives. The client pauses 1, 2, 4 seconds at most: 7 in all."""
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that say "not now": like a lost connection, because the request may have been carried out."""
PUBLIC_HUB = ("huggingface.co", "hf.co", "hf.space")
NEVER_ASKED = ("/api/agent-harnesses", "/api/telemetry")
"""Start-up calls of the client that have nothing to do with publishing."""
TALKERS = ("huggingface_hub", "httpx2", "httpcore2")
"""Loggers that show addresses."""


@dataclass(slots=True)
class Line:
    """What is known about the line to one endpoint during one publish."""

    endpoint: str
    failures: int = 0
    storage_hosts: set[str] = field(default_factory=set)
    _last: Exception | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spend(self, error: Exception) -> None:
        """Count a failure (the same one only once).

        Raises:
            PublishFailed: the patience is used up.
        """
        with self._lock:
            if error is not self._last:
                self.failures += 1
                self._last = error
            if self.failures > PATIENCE:
                raise PublishFailed(f"lost the line to {self.endpoint} {self.failures} times, last: {error}")

    def again(self, ask: Callable[[], T]) -> T:
        """Repeat a request that may be repeated, for calls in which the client does not do so itself."""
        import httpx2

        pause = 0.5
        while True:
            try:
                return ask()
            except httpx2.TransportError as error:
                self.spend(error)
            time.sleep(pause)
            pause *= 2

    def check(self, request: httpx2.Request) -> None:
        """Look at every request, redirected ones too, before it leaves.

        Raises:
            PublishFailed: it would go to the public Hub although another endpoint was named.
        """
        import httpx2

        own, asked = httpx2.URL(self.endpoint), request.url
        host = asked.host
        public = _is_public(host) and not _is_public(own.host)
        if public or any(part in asked.path for part in NEVER_ASKED):
            raise PublishFailed(f"refused to contact {host}: only {self.endpoint} was named")
        if (asked.scheme, host, asked.port) != (own.scheme, own.host, own.port):
            request.headers.pop("authorization", None)
            self.storage_hosts.add(host)


def _is_public(host: str) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in PUBLIC_HUB)


def _make_client(line: Line) -> httpx2.Client:
    import httpx2

    limits = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)

    class LineClient(httpx2.Client):
        """A client without the offline switch: the user named this endpoint to be written to."""

        def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
            request.extensions = {**request.extensions, "timeout": limits.as_dict()}
            try:
                response = super().send(request, **how)
            except httpx2.TransportError as error:
                line.spend(error)
                raise
            if response.status_code in TRANSIENT:
                response.close()
                refusal = httpx2.RemoteProtocolError(f"it answered {response.status_code}", request=request)
                line.spend(refusal)
                raise refusal
            return response

    return LineClient(event_hooks={"request": [line.check]}, follow_redirects=True, timeout=limits)


@contextmanager
def open_line(endpoint: str) -> Iterator[Line]:
    """Let the Hub client use our line inside the block.

    Log lines and progress bars of its libraries are silenced meanwhile: they show upload addresses, and
    whoever knows such an address may write to it.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    line = Line(endpoint)
    silent = are_progress_bars_disabled()
    levels = {logger: logger.level for logger in map(logging.getLogger, TALKERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    disable_progress_bars()
    set_client_factory(lambda: _make_client(line))
    try:
        yield line
    finally:
        set_client_factory(default_client_factory)
        for logger, level in levels.items():
            logger.setLevel(level)
        if not silent:
            enable_progress_bars()


def explain(error: BaseException, address: str, state: str, secret: tuple[str, str]) -> SovtuneError:
    """One sentence for whatever went wrong on the line, without the token.

    Args:
        error: what was raised, by us or by the Hub client.
        address: of the repository.
        state: what the failure leaves behind there.
        secret: name of the token's environment variable, and the token.
    """
    from huggingface_hub.errors import HfHubHTTPError

    variable, token = secret
    cause: BaseException | None = error  # the client wraps what happens in an upload
    while cause is not None and not isinstance(cause, (HfHubHTTPError, SovtuneError)):
        cause = cause.__cause__
    if isinstance(cause, SovtuneError) and cause.why is not None:
        return cause
    fix = None
    what = cause.what if isinstance(cause, SovtuneError) else f"{type(error).__name__}: {error}"
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        reason = "; ".join((cause.server_message or "no reason given").split("\n"))
        what = f"the Hub answered {status}: {reason}"
        if status in (401, 403, 404):
            what += f" (the token in {variable} is not accepted, or may not write there)"
            fix = f"set {variable} to a token of this Hub that may write to {address}"
    return PublishFailed(what.replace(token, "***"), where=address, why=state, fix=fix)
