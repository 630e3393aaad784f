"""The stages in order: each is done once, leaves a record, and is skipped when its record fits the lock."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

from sovtune.base import ResolvedBase, cache_home, resolve
from sovtune.errors import EnvironmentFault
from sovtune.figures import duration, size
from sovtune.launch.messages import end_with_starter, is_worker, started_here
from sovtune.progress import Reporter
from sovtune.recipe_base import Base
from sovtune.recipe_file import LoadedRecipe
from sovtune.records import (
    BaseRecord,
    CardReport,
    DataReport,
    EvalReport,
    Plan,
    PublishReceipt,
    TrainReport,
    from_json,
)
from sovtune.runs import RunFolder, alone, open_run, write_atomic
from sovtune.stack import import_stack
from sovtune.teach_command import at_the_teacher
from sovtune.train_command import (
    RunOptions,
    State,
    beginning,
    check_place,
    check_same_lock,
    check_visible,
    train,
)

if TYPE_CHECKING:
    from sovtune.train.group import Group

STAGES = ("data", "plan", "train", "evaluate", "card", "publish")
COMPUTING = ("train", "evaluate")
PATIENCE_S = 180
"""How long the processes of a job wait for those of its predecessor: an NFS server holds the locks of a machine that is
gone for a lease, 90 seconds by default (Linux nfsd), and gives others as long to claim theirs."""


def run(loaded: LoadedRecipe, options: RunOptions, report: Reporter) -> RunFolder:
    """Do every stage up to ``options.upto`` that is not done yet.

    Raises:
        SovtuneError: with what happened, where, why and the next command.
    """
    if is_worker():
        return _run_in_group(loaded, options, report)
    from sovtune.data.caches import held

    trains = STAGES.index(options.upto) >= STAGES.index("train")
    if trains:
        check_place(loaded.recipe)
    with (
        alone(options.runs_dir, loaded.recipe.name)
        if trains or options.restart
        else nullcontext(True) as locked
    ):
        _tell_no_lock(locked, report)
        state = _open(loaded, options, report)
        with held(state.data.rows_file.parent):
            _do_stages(state, options, report)
    return state.folder


def _run_in_group(loaded: LoadedRecipe, options: RunOptions, report: Reporter) -> RunFolder:
    """As one of several processes: the first opens the run and does all stages, the others train with it.

    Raises:
        EnvironmentFault: a process does not see what the first one prepared.
    """
    end_with_starter()
    import_stack()
    from sovtune.data.caches import held
    from sovtune.train.group import joined

    with joined(loaded.recipe.launch.world) as group, _run_of(group, loaded, options) as locked:
        quietly = Reporter(report.console, quiet=True)
        talk = report if group.leads and not started_here() else quietly
        _tell_no_lock(locked, talk)
        if group.leads:
            state = _open(loaded, options, talk)
            with held(state.data.rows_file.parent):
                _do_stages(state, replace(options, upto="plan"), talk)
                prepared = group.from_lead((state.folder.path.absolute(), state.data.rows_file))
        else:
            prepared = group.from_lead((Path(), Path()))
            check_visible(*prepared, host=gethostname())
            state = _open(loaded, options, talk, beside=group)
        state.group, state.report = group, report if group.leads else quietly
        with held(state.data.rows_file.parent):
            if group.leads:
                _do_stages(state, options, report)
            elif state.folder.load("train", TrainReport) is None:
                train(state)
    return state.folder


def _tell_no_lock(locked: bool, report: Reporter) -> None:
    if not locked:
        report.say(
            "note: the file system of the run folder knows no locks; start no second command on this run"
        )


def _run_of(group: Group, loaded: LoadedRecipe, options: RunOptions) -> AbstractContextManager[bool]:
    """The run is the group's alone; what sovtune started on this machine belongs to a command that has it already."""
    if group.leads and not started_here():
        return alone(options.runs_dir, loaded.recipe.name, patience_s=PATIENCE_S)
    return nullcontext(True)


def _do_stages(state: State, options: RunOptions, report: Reporter) -> None:
    for name in options.redo:
        state.folder.forget(*STAGES[STAGES.index(name) :])
    steps = {
        "plan": _plan,
        "train": train,
        "evaluate": _evaluate,
        "card": _card,
        "publish": _publish,
    }
    kinds = {
        "plan": Plan,
        "train": TrainReport,
        "evaluate": EvalReport,
        "card": CardReport,
        "publish": PublishReceipt,
    }
    for name in STAGES[1 : STAGES.index(options.upto) + 1]:
        report.stage(name)
        if state.folder.load(name, kinds[name]) is not None:
            report.say("done before")
            continue
        if name in COMPUTING:
            import_stack()
        steps[name](state)


def fetch(loaded: LoadedRecipe, report: Reporter) -> ResolvedBase:
    """Get the base into the cache, so that everything after it works without a network."""
    report.stage("base")
    base = _resolve(loaded.recipe.base, loaded, report, offline=False)
    _resolve_teacher(loaded, base, report, offline=False)
    return base


def _resolve(wanted: Base, loaded: LoadedRecipe, report: Reporter, *, offline: bool) -> ResolvedBase:
    base = resolve(wanted, root=loaded.root, say=report.say, offline=offline)
    report.say(
        f"{base.record.model}, {base.record.parameters / 1e6:.0f} M parameters, from {base.record.source}"
    )
    return base


def _resolve_teacher(
    loaded: LoadedRecipe, base: ResolvedBase, report: Reporter, *, offline: bool
) -> ResolvedBase | None:
    """The teacher, if the recipe names one whose tokens are the base's."""
    from sovtune.data.same_tokens import check_same_tokens

    if loaded.recipe.distil is None:
        return None
    report.stage("teacher")
    with at_the_teacher():
        teacher = _resolve(loaded.recipe.distil.teacher, loaded, report, offline=offline)
    check_same_tokens(base.folder, teacher.folder)
    return teacher


def _open(
    loaded: LoadedRecipe, options: RunOptions, report: Reporter, *, beside: Group | None = None
) -> State:
    """Resolve the base, prepare data, lock both, open the run folder (``beside`` another process: read it)."""
    from sovtune.data.card import load_card
    from sovtune.data.permission import enforce, place_in
    from sovtune.data.prepare import GATE, prepare
    from sovtune.mixture_view import replay_note
    from sovtune.recipe_file import lock_text

    recipe = loaded.resolved()
    cards = [load_card(Path(source.card)) for source in recipe.data]
    enforce(recipe, cards, place_in(loaded))  # before gigabytes of a base are fetched
    report.stage("base")
    base = _resolve(recipe.base, loaded, report, offline=options.offline)
    teacher = _resolve_teacher(loaded, base, report, offline=options.offline)
    report.stage("data")
    data = prepare(
        recipe,
        base_folder=base.folder,
        base_hash=base.record.content_sha256,
        cache=cache_home(),
        progress=lambda done, of: report.update(done, of, "documents rendered"),
    )
    _tell_data(data.report, replay_note(loaded.recipe, recipe), report)
    facts = locked_facts(base.record, data.report)
    if teacher is not None:
        facts["teacher"] = _identity(teacher.record)
    if earlier := beginning(recipe):
        facts["continue_from"] = {file.path: file.sha256 for file in earlier}
    lock = lock_text(loaded, facts)
    fingerprint = hashlib.sha256(lock.encode()).hexdigest()
    if beside is not None:
        folder = RunFolder(options.runs_dir / loaded.recipe.name)
        check_same_lock(folder.path, lock)
        return State(recipe, base, data, folder, fingerprint, options, report, loaded.path, teacher=teacher)
    folder = open_run(options.runs_dir, loaded.recipe.name, lock, restart=options.restart)
    folder.save("base", base.record)
    folder.save("data", data.report)
    gate = data.rows_file.with_name(GATE)
    if gate.is_file():
        _show_gate(folder.path, gate.read_text(encoding="utf-8"), report)
    return State(recipe, base, data, folder, fingerprint, options, report, loaded.path, teacher=teacher)


def _show_gate(run_dir: Path, text: str, report: Reporter) -> None:
    """What the data gate did, into the run folder: the record, and a page for people that is never published."""
    from sovtune.data.gate_report import DataGateReport
    from sovtune.data.prepare import GATE
    from sovtune.data_view import GATE_PAGE, gate_page

    write_atomic(run_dir / GATE, text)
    write_atomic(run_dir / GATE_PAGE, gate_page(from_json(DataGateReport, text, where=GATE)))
    report.say(f"what the data gate did, with examples: {run_dir / GATE_PAGE}")


def locked_facts(base: BaseRecord, data: DataReport) -> dict[str, Any]:
    """Hashes of everything a run depends on besides the recipe's own text."""
    from importlib.metadata import version

    from sovtune import __version__

    packages = ("torch", "transformers", "trl", "peft", "bitsandbytes", "tokenizers")
    return {
        "sovtune": __version__,
        "packages": {name: version(name) for name in packages},
        "base": _identity(base),
        "template_sha256": data.template_sha256,
        "tokenizer_sha256": data.tokenizer_sha256,
        "data": [
            {
                "card": entry.card_id,
                "version": entry.version,
                "files": {file.path: file.sha256 for file in entry.files},
            }
            for entry in data.datasets
        ],
    }


def _identity(model: BaseRecord) -> dict[str, str]:
    return {"model": model.model, "revision": model.revision, "content_sha256": model.content_sha256}


def _tell_data(data: DataReport, note: str | None, report: Reporter) -> None:
    from sovtune.mixture_view import data_lines

    for line in data_lines(data):
        report.say(line)
    for warning in (*data.warnings, *data.open_questions):
        report.say(f"warning: {warning}")
    for made in data.decisions:
        report.say(f"overruled: {made.refusal} by {made.name}: {made.reason}")
    if note is not None:
        report.say(f"note: {note}")


def _plan(state: State) -> None:
    from sovtune.plan import make_plan, previous_speed, read_base_facts
    from sovtune.plan_command import data_size

    facts = read_base_facts(state.base.folder)
    speed = previous_speed(state.options.runs_dir, facts)
    teacher = read_base_facts(state.teacher.folder) if state.teacher is not None else None
    plan = make_plan(state.recipe, facts, data_size(state.data.report), speed=speed, teacher=teacher)
    needed = size(sum(plan.memory_bytes.values()))
    state.report.say(
        f"{plan.steps} steps of {plan.rows_per_step} rows ({plan.micro_rows} at once), {plan.tokens:,} tokens; "
        f"memory about {needed} of {size(plan.memory_available_bytes)}"
        + (f"; about {duration(plan.seconds)}" if plan.seconds is not None else "")
    )
    if not plan.fits:
        raise EnvironmentFault(
            f"this run needs about {needed} of memory, {size(plan.memory_available_bytes)} are free",
            where="train",
            why="; ".join(plan.notes),
            fix="`sovtune plan RECIPE` lists changes that help; `--apply NEW.yaml` writes a recipe with those that "
            "make it fit",
        )
    state.folder.save("plan", plan)


def _measure(state: State) -> EvalReport:
    """Compare the base with what was trained."""
    from sovtune.data.caches import SCORES
    from sovtune.data.template import read_format
    from sovtune.evaluate.base_scores import BaseScores, setting_of
    from sovtune.evaluate.compare import evaluate, prepare_attention
    from sovtune.model import load_trained

    if state.recipe.adapter.kind == "full":  # training overwrote the base in memory
        state.loaded = None
    if state.loaded is None:
        state.report.say("loading base and what was trained")
        state.loaded = load_trained(state.recipe, state.base.folder, state.folder.path)
    prepare_attention(state.loaded.model, state.loaded.fast)
    text_format = read_format(state.base.folder)

    def tick(what: str, done: int, of: int) -> None:
        state.report.update(done, of, what)

    facts = {
        "base": state.base.record.content_sha256,
        "quantisation": state.recipe.base.quantisation.model_dump(mode="json"),
        "fast": state.loaded.fast,
        "full": state.recipe.adapter.kind == "full",
        # Layers with an adapter, switched off or not, are computed by other functions than those without.
        "adapted": sorted(state.loaded.targets),
        "dora": state.recipe.adapter.dora,
    }
    kept = BaseScores(folder=cache_home() / SCORES, setting=setting_of(state.loaded.model, facts))
    return evaluate(state.recipe, state.loaded.model, text_format, kept=kept, tick=tick)


def _evaluate(state: State) -> None:
    from sovtune.train.out_of_memory import named_memory_faults

    with named_memory_faults(_no_memory_to_evaluate):
        record = _measure(state)
    state.folder.save("evaluate", record)
    if record.base_measured_on:
        days = ", ".join(record.base_measured_on)
        state.report.say(
            f"the base was measured on {days}, with the same texts, settings and versions: not again"
        )
    for score in record.scores:
        state.report.say(
            f"{score.name}: {score.base:.3f} -> {score.adapter:.3f} bits per byte ({score.change_percent:+.1f} %)"
        )
    for pair in record.pairs:
        state.report.say(
            f"{pair.name}: chosen answer likelier in {pair.base:.0%} -> {pair.adapter:.0%} of {pair.pairs} pairs"
        )
    for gate in record.gates:
        if not gate.passed:
            state.report.say(f"gate failed: {gate.name}, measured {gate.measured:+.2f} %")


def _no_memory_to_evaluate(reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "out of memory while the base and what was trained are compared; what was trained is kept",
        where="evaluate",
        why=reason,
        fix="free memory and give the same command again: it goes on here",
    )


def _card(state: State) -> None:
    from sovtune.card import write_card
    from sovtune.report import write_report

    write_report(state.folder.path, state.recipe)
    record = write_card(state.folder.path, state.recipe)
    state.folder.save("card", record)
    state.report.say("README.md and report.html written from the records")


def _publish(state: State) -> None:
    from sovtune.publish import publish

    section = state.recipe.publish
    if section is None:
        state.report.say("the recipe names no target; nothing is published")
        return
    receipt = publish(
        state.folder.path,
        section.to,
        endpoint=section.endpoint,
        tag=section.tag,
        private=section.private,
        token_env=section.token_env,
        say=state.report.say,
    )
    state.report.say(
        f"{len(receipt.files)} files at {receipt.target}, tag {receipt.tag}, read back and compared"
    )
