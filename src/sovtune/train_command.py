"""The train stage: what it needs is put together here, and it is given to several processes when asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovtune.base import ResolvedBase, hash_file
from sovtune.errors import EnvironmentFault, RunFailed, UsageError
from sovtune.figures import duration, size
from sovtune.launch.messages import is_worker
from sovtune.launch.processes import Device, check_processes, run_workers
from sovtune.progress import Reporter
from sovtune.recipe import Recipe
from sovtune.records import FileHash, Plan, TeacherRecord, TrainReport
from sovtune.runs import LAUNCH, LOCK, STOP, RunFolder, differences
from sovtune.teach_command import Learnt, Lesson, taught

if TYPE_CHECKING:
    from sovtune.data.prepare import PreparedData
    from sovtune.model import LoadedModel
    from sovtune.train.group import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run was asked for; ``sets`` are the values that `--set` gave."""

    runs_dir: Path
    upto: str = "publish"
    restart: bool = False
    resume: bool = True
    offline: bool = False
    redo: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    quiet: bool = False


@dataclass(slots=True)
class State:
    """What the stages of one call share; the model is loaded at most once."""

    recipe: Recipe
    base: ResolvedBase
    data: PreparedData
    folder: RunFolder
    fingerprint: str
    options: RunOptions
    report: Reporter
    path: Path
    loaded: LoadedModel | None = None
    group: Group | None = None
    teacher: ResolvedBase | None = None


def check_place(recipe: Recipe) -> None:
    """Refuse what this machine cannot do before a base is fetched or data is prepared.

    Raises:
        UsageError: the recipe asks for several machines.
        EnvironmentFault: it asks for more processes than there are cores or GPUs, for a GPU, for an optimizer that
            needs one, or for a package that is missing.
    """
    from sovtune.train.settings import check_packages, check_settings

    if is_worker():  # the machine that started it need not have what this one has
        return
    check_packages(recipe)  # before torch is imported
    train = recipe.train
    if recipe.launch.world > 1 or train.run.device == "cuda" or train.finer.optimizer != "adamw":
        device = _device(recipe)  # imports torch, which a run whose stages are done does without
        check_settings(recipe, device.kind)
        check_processes(recipe.launch, device)


def _device(recipe: Recipe) -> Device:
    import torch

    from sovtune.model import pick_device

    kind = pick_device(recipe.train.run.device)
    return Device(kind=kind, count=torch.cuda.device_count() if kind == "cuda" else _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_visible(run_dir: Path, rows_file: Path, *, host: str) -> None:
    """Whether this process sees what the first one of its group prepared.

    Raises:
        EnvironmentFault: the run folder or the cache is on a disk of another machine.
    """
    for path, name, fix in (
        (run_dir / LOCK, "run folder", "give --runs-dir a folder that all machines see under the same path"),
        (
            rows_file,
            "prepared data",
            "let SOVTUNE_HOME name a folder that all machines see under the same path",
        ),
    ):
        if not path.is_file():
            raise EnvironmentFault(
                f"the training process on {host} does not see the {name}", where=str(path), fix=fix
            )


def check_same_lock(run_dir: Path, lock: str) -> None:
    """Whether this process would do the run that the first one of its group opened.

    Raises:
        EnvironmentFault: another version of a library, of the recipe or of its data is on this machine.
    """
    opened = (run_dir / LOCK).read_text(encoding="utf-8")
    if opened != lock:
        raise EnvironmentFault(
            "this process has other versions, another recipe or other data than the first one",
            where=str(run_dir / LOCK),
            why="; ".join(differences(opened, lock)),
            fix="install the same versions on every machine, and give all of them the same recipe and data",
        )


def _train_in_processes(state: State) -> None:
    """Give the stage to several processes of this machine; the first of them writes its record."""
    options = state.options
    arguments = ["train", str(state.path), "--runs-dir", str(options.runs_dir), "--resume"]
    arguments += ["--offline"] * options.offline + ["--quiet"] * options.quiet
    arguments += [word for value in options.sets for word in ("--set", value)]
    launch = state.recipe.launch
    state.report.say(f"{launch.processes} processes on this machine, {launch.strategy}")
    run_workers(arguments, launch.processes, cores=_cores())
    if state.folder.load("train", TrainReport) is None:
        raise RunFailed("the training processes ended without a record", where=str(state.folder.path))


def beginning(recipe: Recipe) -> tuple[FileHash, ...]:
    """The files of the earlier adapter that training begins with, hashed; none without ``continue_from``.

    Raises:
        UsageError: the folder holds no adapter.
    """
    from sovtune.adapter_files import CONFIG, WEIGHTS, read_config

    if recipe.adapter.continue_from is None:
        return ()
    folder = Path(recipe.adapter.continue_from)
    read_config(folder)
    return tuple(_hashed(folder / name) for name in (CONFIG, WEIGHTS))


def _hashed(path: Path) -> FileHash:
    return FileHash(path=path.name, bytes=path.stat().st_size, sha256=hash_file(path))


def _load(state: State) -> LoadedModel:
    from sovtune.model import load_with_new_adapter, pick_device
    from sovtune.train.out_of_memory import named_memory_faults
    from sovtune.train.settings import check_settings

    if state.loaded is None:
        check_settings(state.recipe, pick_device(state.recipe.train.run.device))
        state.report.say("loading the base")
        with named_memory_faults():
            state.loaded = load_with_new_adapter(state.recipe, state.base.folder)
        for note in state.loaded.notes:
            state.report.say(note)
    return state.loaded


def train(state: State) -> None:
    """Do the stage, here or in processes that are started for it; in a group the first process records it."""
    from sovtune.data.arrow_rows import load_rows
    from sovtune.data.pack import training_order
    from sovtune.plan import steps_for
    from sovtune.train import checkpoints, engine
    from sovtune.train.group import ALONE

    plan = state.folder.need("plan", Plan)
    home = state.folder.path / engine.CHECKPOINTS
    if not state.options.resume and checkpoints.newest(home, fingerprint=state.fingerprint) is not None:
        raise UsageError(
            "this run was interrupted and has checkpoints",
            where=str(home),
            fix="add --resume to go on from the last one, or --restart to begin anew",
        )
    data = state.data.report
    wanted = steps_for(state.recipe.train, data.rows, data.tokens).wanted_rows
    order = training_order(data.rows, wanted, state.recipe.seed)
    group, lesson = state.group or ALONE, _lesson(state)
    rows = load_rows(state.data.rows_file)
    each = rows if lesson is None else rows.select(sorted(set(order)))
    with taught(lesson, each, group, state.report) as learnt:
        if state.recipe.launch.world > 1 and state.group is None:
            _train_in_processes(state)
        else:
            _train_here(state, plan, order, group, learnt)


def _lesson(state: State) -> Lesson | None:
    section = state.recipe.distil
    if section is None or state.teacher is None:
        return None
    return Lesson(recipe=state.recipe, section=section, base=state.base.folder, teacher=state.teacher)


def _train_here(state: State, plan: Plan, order: Sequence[int], group: Group, learnt: Learnt | None) -> None:
    """Train on the rows in this order; the first process of the group records it."""
    from sovtune.data.arrow_rows import load_rows
    from sovtune.plan_changes import with_values
    from sovtune.train import engine
    from sovtune.train.watch import StepMetrics

    model = _load(state)

    def progress(metrics: StepMetrics, of: int) -> None:
        left = state.report.seconds_left(metrics.step, of, metrics.seconds)
        speed = metrics.tokens / metrics.seconds
        detail = (
            f"loss {metrics.loss:.3f}  {speed:.0f} tokens/s  {left} left  memory {size(metrics.rss_bytes)}"
        )
        state.report.update(metrics.step, of, detail)

    job = engine.TrainJob(
        recipe=with_values(state.recipe, {"train.run.micro_rows": plan.micro_rows}),
        rows=load_rows(state.data.rows_file).select(order),
        steps=plan.steps,
        rows_per_step=plan.rows_per_step,
        tokenizer_folder=state.base.folder,
        run_dir=state.folder.path,
        fingerprint=state.fingerprint,
        group=group,
        stop_file=state.folder.path / LAUNCH / STOP,
        progress=progress,
        say=state.report.say,
        tick=lambda what, done, of: state.report.update(done, of, what),
        taught=learnt.store if learnt is not None else None,
    )
    outcome = engine.run(job, model, resume=True)
    if not group.leads:
        return
    record = _train_report(state.recipe, model, outcome, learnt.record if learnt is not None else None)
    state.folder.save("train", record)
    state.report.say(
        f"loss {record.first_loss:.3f} -> {record.mean_loss_last_10:.3f}, {record.tokens_per_second:.0f} tokens/s, "
        f"{duration(record.seconds)}, peak memory {size(record.peak_rss_bytes)}"
    )


def _train_report(
    recipe: Recipe, model: LoadedModel, outcome: Any, teacher: TeacherRecord | None
) -> TrainReport:
    from sovtune.train.engine import versions

    history = outcome.history
    last_ten = [metrics.loss for metrics in history[-10:]]
    return TrainReport(
        steps=history[-1].step,
        tokens=history[-1].tokens,
        supervised_tokens=history[-1].supervised_tokens,
        seconds=outcome.seconds,
        tokens_per_second=history[-1].tokens / outcome.seconds,
        first_loss=history[0].loss,
        last_loss=history[-1].loss,
        mean_loss_last_10=sum(last_ten) / len(last_ten),
        trainable_parameters=model.trainable_parameters,
        total_parameters=model.total_parameters,
        peak_rss_bytes=outcome.peak_rss_bytes,
        device=model.device,
        engine="fast" if model.fast else "plain",
        engine_notes=model.notes,
        targets=model.targets,
        resumed_from=() if outcome.resumed_from is None else (outcome.resumed_from,),
        adapter_files=tuple(_hashed(path) for path in sorted(outcome.adapter.iterdir())),
        versions=versions(),
        started_at=outcome.started_at,
        saving_seconds=outcome.saving_seconds,
        events=outcome.events,
        continued_from=beginning(recipe),
        teacher=teacher,
    )
