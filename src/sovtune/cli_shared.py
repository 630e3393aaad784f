"""What the commands share: their common options, printing, the closed network, running a recipe up to a stage."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sovtune.progress import Reporter
    from sovtune.recipe_file import LoadedRecipe
    from sovtune.train_command import RunOptions

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (YAML).")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set train.steps=10.")
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Home of all run folders.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on stdout.")]
Restart = Annotated[bool, typer.Option("--restart", help="Move an older run folder aside and begin anew.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on disk; fetch nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
RUNS = Path("runs")
PUBLIC_HUB = "https://huggingface.co"


def print_line(line: str) -> None:
    """A line on stdout."""
    sys.stdout.write(line + "\n")


def print_json(value: Any) -> None:
    """A value as one line of JSON on stdout."""
    print_line(json.dumps(value, ensure_ascii=False))


def make_reporter(quiet: bool) -> Reporter:
    """Progress on stderr."""
    from rich.console import Console

    from sovtune.progress import Reporter

    return Reporter(Console(stderr=True), quiet=quiet)


def close_network(
    endpoints: Iterable[str], ray_address: str | None = None, *, with_itself: bool = False
) -> None:
    """Environment and allow-list before anything heavy is imported; talk of dependencies stays off the terminal.

    Processes that train together look up the name of their own machine (``with_itself``).
    """
    import logging
    import warnings

    from sovtune.network import air_gap_environment, allowed_hosts, guard_egress
    from sovtune.recipe_launch import ray_host

    hosts = allowed_hosts(endpoints)
    air_gap_environment(offline=not hosts)
    named = {ray_host(ray_address)} if ray_address else set()
    guard_egress({*hosts, *named, *({gethostname()} if with_itself else ())})
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # It reports the optional package `kernels` as missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings(
            "ignore", category=category, module=r"(transformers|peft|trl|torch|bitsandbytes|accelerate)\b"
        )


def hub_of_environment() -> list[str]:
    """The Hub that the user named in ``HF_ENDPOINT``, where `hub:` data sets come from; none when it is not set."""
    named = os.environ.get("HF_ENDPOINT")
    return [named] if named else []


def open_recipe(
    recipe: Path, sets: Iterable[str], *, publishes: bool = False, offline: bool = False
) -> LoadedRecipe:
    """Read the recipe, then close the network to all but the hosts it names (before anything heavy is imported)."""
    from sovtune.recipe_file import load_recipe

    loaded = load_recipe(recipe, list(sets))
    endpoints: list[str] = []
    if not offline:
        mirrors = loaded.recipe.base.mirrors
        endpoints += [mirror.hub for mirror in mirrors if mirror.hub]
        # A base without mirrors is asked for where its id is from.
        endpoints += hub_of_environment() or ([] if mirrors else [PUBLIC_HUB])
    if publishes and loaded.recipe.publish and loaded.recipe.publish.endpoint:
        endpoints.append(loaded.recipe.publish.endpoint)
    launch = loaded.recipe.launch
    close_network(endpoints, launch.ray_address, with_itself=launch.world > 1)
    return loaded


def make_options(runs_dir: Path, upto: str, sets: list[str], **more: Any) -> RunOptions:
    """How a run was asked for."""
    from sovtune.train_command import RunOptions

    return RunOptions(runs_dir=runs_dir, upto=upto, sets=tuple(sets), **more)


def trained(
    recipe: Path, options: RunOptions, launcher: str | None, *, submit: bool, as_json: bool
) -> Path | None:
    """Train here or on Ray; or write a job (and submit it), print where it is, and return None.

    Raises:
        UsageError: there is no such launcher, or options contradict each other.
    """
    from sovtune import pipeline
    from sovtune.launch_command import check_launcher, train_with_ray, write_job

    check_launcher(launcher, submit=submit, restart=options.restart)
    loaded = open_recipe(recipe, options.sets, offline=options.offline)
    with make_reporter(options.quiet) as report:
        if launcher is None:
            return pipeline.run(loaded, options, report).path
        if launcher == "ray":
            return train_with_ray(loaded, options, report)
        path = write_job(launcher, loaded, options, report, submit=submit)
    if as_json:
        print_json({"job": str(path), "submitted": submit})
    return None


def run_upto(
    recipe: Path,
    sets: list[str],
    runs_dir: Path,
    upto: str,
    *,
    quiet: bool,
    restart: bool,
    offline: bool,
    **more: Any,
) -> Path:
    """Run the stages of a recipe up to one of them; returns the run folder."""
    from sovtune import pipeline

    loaded = open_recipe(recipe, sets, publishes=upto == "publish", offline=offline)
    options = make_options(runs_dir, upto, sets, quiet=quiet, restart=restart, offline=offline, **more)
    with make_reporter(quiet) as report:
        return pipeline.run(loaded, options, report).path


def read_values(run_dir: Path, name: str) -> dict[str, Any]:
    """A record of a run folder as plain values."""
    values: dict[str, Any] = json.loads((run_dir / name).read_text(encoding="utf-8"))
    return values


def told_fault(error: OSError) -> str | None:
    """What to tell of a disk that is full or a place that cannot be written; None for any other error of the system."""
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in _FULL:
        return f"{place}the disk is full\n  next: free some space, then run the same command again"
    if place and error.errno in _DENIED:
        return (
            f"{place}{error.strerror}\n  next: make it yours to read and write; SOVTUNE_HOME names the folder of "
            "caches (~/.cache/sovtune without it), --runs-dir that of runs"
        )
    return None
