"""The command line: parse, call, print, exit code. Results on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sovtune import __version__
from sovtune.cli_data import data_app
from sovtune.cli_shared import (
    RUNS,
    AsJson,
    Offline,
    Quiet,
    RecipePath,
    Restart,
    RunsDir,
    Sets,
    close_network,
    hub_of_environment,
    make_options,
    make_reporter,
    open_recipe,
    print_json,
    print_line,
    read_values,
    run_upto,
    told_fault,
    trained,
)
from sovtune.errors import SovtuneError, UsageError
from sovtune.launch.messages import tell_starter

app = typer.Typer(
    name="sovtune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Fine-tune open language models on data that must not leave the building.\n\n"
    "A first run:  sovtune check RECIPE, then  sovtune run RECIPE",
)
app.add_typer(data_app, name="data")


def main() -> NoReturn:
    """Entry point: turns errors into a sentence on stderr and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="sovtune")
    except SovtuneError as error:
        if debug:
            raise
        if tell_starter(error):
            sys.exit(error.exit_code)
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of a pipe left: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        told = told_fault(error)
        if debug or told is None:
            raise
        _fail(told, 3)
    sys.exit(0)


def _fail(text: str, code: int) -> NoReturn:
    sys.stderr.write(f"sovtune: {text}\n")
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print_line(f"sovtune {__version__}")
        raise typer.Exit


@app.command()
def check(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006  (typer reads the default, nothing changes it)
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every value and where it comes from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, its data cards and its licences; report every mistake at once.

    Example:  sovtune check recipes/quickstart-ko.yaml --explain
    """
    close_network(hub_of_environment())
    from sovtune.check import check_all

    result = check_all(recipe, sets)
    if as_json:
        print_json(result.as_json())
    elif result.problems:
        sys.stderr.write("\n".join(str(problem) for problem in result.problems) + "\n")
        sys.stderr.write(f"sovtune: {len(result.problems)} to correct\n")
        sys.stderr.write(f"  next: {result.ways_out}\n" if result.ways_out else "")
    elif explain:
        print_line("\n".join(result.explained()))
    else:
        print_line(f"{recipe}: ok")
    if not as_json:
        sys.stderr.write("".join(f"{remark}\n" for remark in result.remarks()))
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@app.command()
def fetch(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Get the base model into the cache; everything after it works without a network.

    Example:  sovtune fetch recipes/quickstart-ko.yaml
    """
    from sovtune import pipeline

    loaded = open_recipe(recipe, sets)
    with make_reporter(quiet) as report:
        base = pipeline.fetch(loaded, report)
    if as_json:
        print_json({"folder": str(base.folder), "content_sha256": base.record.content_sha256})


@app.command()
def plan(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006
    runs_dir: RunsDir = RUNS,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="Plan for a GPU by its name, such as l4.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Do a real step at the longest batch and correct the plan.")
    ] = False,
    apply: Annotated[
        Path | None,
        typer.Option("--apply", metavar="NEW.yaml", help="Write a recipe with changes that make it fit."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Count steps, tokens, memory, time and energy before anything is spent; loads no model without --probe.

    Example:  sovtune plan recipes/quickstart-ko.yaml --gpu l4

    Example:  sovtune plan recipes/quickstart-ko.yaml --probe --json
    """
    from sovtune.plan_command import PlanOptions, plan_recipe, plan_table

    options = PlanOptions(runs_dir=runs_dir, gpu=gpu, probe=probe, apply=apply)
    loaded = open_recipe(recipe, sets, offline=True)
    with make_reporter(quiet) as report:
        report.stage("plan")
        result = plan_recipe(loaded, options, report.say)
    if as_json:
        print_json(result.as_json())
    else:
        print_line(plan_table(result))


@app.command()
def train(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006
    runs_dir: RunsDir = RUNS,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    launch: Annotated[
        str | None,
        typer.Option(
            "--launch", metavar="WITH", help="slurm or skypilot: write the job. ray: run on a cluster."
        ),
    ] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Also start the job that --launch wrote.")] = False,
    restart: Restart = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapter (after preparing data if need be).

    Example:  sovtune train recipes/quickstart-ko.yaml --resume

    Example:  sovtune train recipes/quickstart-ko.yaml --launch slurm --submit
    """
    options = make_options(
        runs_dir, "train", sets, quiet=quiet, restart=restart, offline=offline, resume=resume
    )
    run_dir = trained(recipe, options, launch, submit=submit, as_json=as_json)
    if as_json and run_dir is not None:
        record = read_values(run_dir, "train.json")
        keys = ("steps", "tokens", "tokens_per_second", "peak_rss_bytes")
        print_json(
            {"run_dir": str(run_dir), **{key: record[key] for key in keys}, "loss": record["last_loss"]}
        )


@app.command(name="eval")
def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Evaluate this recipe's run.")
    ] = None,
    sets: Sets = [],  # noqa: B006
    runs_dir: RunsDir = RUNS,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="DIR_OR_ID", help="A base model's folder, or its id if cached."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="An adapter's folder.")
    ] = None,
    text: Annotated[
        list[Path], typer.Option("--text", metavar="FILE", help="Text or jsonl to score; may be repeated.")
    ] = [],  # noqa: B006
    quantisation: Annotated[str, typer.Option("--quantisation", help="none, nf4, fp4 or int8.")] = "none",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure bits per byte: base against adapter of a recipe's run, or any model on any text.

    A base is measured once for all runs with the same texts, settings and versions; `sovtune data clean --older-than 0`
    lets it be measured again.

    Example:  sovtune eval recipes/quickstart-ko.yaml

    Example:  sovtune eval --base DIR --adapter DIR --text held-out.jsonl --json
    """
    if recipe is not None:
        if base or adapter or text:
            raise UsageError("give a RECIPE, or --base and --text, not both")
        run_dir = run_upto(
            recipe, sets, runs_dir, "evaluate", quiet=quiet, restart=False, offline=False, redo=("evaluate",)
        )
        if as_json:
            print_json({"run_dir": str(run_dir), **read_values(run_dir, "eval.json")})
        return
    if base is None or not text:
        raise UsageError("nothing to evaluate: give a RECIPE, or --base and --text")
    from sovtune.score_command import score_texts

    close_network([])
    with make_reporter(quiet) as report:
        result = score_texts(base, adapter, text, quantisation, report)
    if as_json:
        print_json(result)
    else:
        scored = f"{result['bytes']:,} bytes in {result['documents']} documents"
        print_line(f"{result['bits_per_byte']:.4f} bits per byte over {scored}")


@app.command()
def card(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006
    runs_dir: RunsDir = RUNS,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the model card and the HTML report from the run's records.

    Example:  sovtune card recipes/quickstart-ko.yaml
    """
    run_dir = run_upto(
        recipe, sets, runs_dir, "card", quiet=quiet, restart=False, offline=False, redo=("card",)
    )
    if as_json:
        print_json(
            {
                "run_dir": str(run_dir),
                "card": str(run_dir / "README.md"),
                "report": str(run_dir / "report.html"),
            }
        )


@app.command()
def publish(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A finished run folder.")],
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="dir:PATH or hub:ORG/NAME.")],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Address of the Hub.")
    ] = None,
    tag: Annotated[str, typer.Option("--tag", help="Name of the version.")] = "v1.0.0",
    token_env: Annotated[
        str, typer.Option("--token-env", metavar="NAME", help="Variable that holds the token.")
    ] = "SOVTUNE_HUB_TOKEN",  # noqa: S107
    public: Annotated[
        bool, typer.Option("--public", help="Create the repository as public (default: private).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files; send nothing.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Publish a finished run: allow-listed files, one commit, one tag, read back and compared.

    Example:  sovtune publish runs/quickstart-ko --to dir:published --dry-run

    Example:  sovtune publish runs/quickstart-ko --to hub:ORG/NAME --endpoint https://hub.example --tag v1.0.0
    """
    from dataclasses import asdict

    from sovtune.figures import size

    close_network([endpoint] if endpoint else [])
    from sovtune.publish import publish as publish_run

    with make_reporter(quiet) as report:
        report.stage("publish")
        receipt = publish_run(
            run_dir,
            to,
            endpoint=endpoint,
            tag=tag,
            private=not public,
            token_env=token_env,
            dry_run=dry_run,
            say=report.say,
        )
    if as_json:
        print_json(asdict(receipt))
        return
    for file in receipt.files:
        print_line(f"{size(file.bytes):>10}  {file.sha256[:12]}  {file.path}")
    done = "would publish" if dry_run else "published"
    print_line(f"{done} {len(receipt.files)} files to {receipt.target}, tag {receipt.tag}")


@app.command()
def run(
    recipe: RecipePath,
    sets: Sets = [],  # noqa: B006
    runs_dir: RunsDir = RUNS,
    restart: Restart = False,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do everything: data, plan, train, eval, card, publish. A second run resumes, or finds nothing left to do.

    Example:  sovtune run recipes/quickstart-ko.yaml
    """
    run_dir = run_upto(recipe, sets, runs_dir, "publish", quiet=quiet, restart=restart, offline=offline)
    if as_json:
        from sovtune.runs import result_folder

        scores = read_values(run_dir, "eval.json")["scores"]
        print_json(
            {
                "run_dir": str(run_dir),
                "adapter": str(result_folder(run_dir)),
                "card": str(run_dir / "README.md"),
                "report": str(run_dir / "report.html"),
                "results": scores,
            }
        )
        return
    from sovtune.summary import summary

    print_line(summary(run_dir, recipe))


@app.command()
def doctor(
    endpoints: Annotated[
        list[str], typer.Option("--endpoint", metavar="URL", help="A Hub to try; may be repeated.")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks, each with the fix.

    Example:  sovtune doctor --endpoint https://hub.example
    """
    close_network(endpoints)
    from sovtune import doctor as examination

    checks = examination.run_checks(endpoints)
    print_line(
        json.dumps(examination.to_json(checks), ensure_ascii=False) if as_json else examination.table(checks)
    )
    if any(entry.status == "fail" for entry in checks):
        raise typer.Exit(3)
