"""Train the adapter with TRL's trainer on rows that are already rendered, masked, packed and in order."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

from sovtune.errors import RunInterrupted, TrainingDiverged
from sovtune.fastpath.head_loss import head_loss
from sovtune.fastpath.loss import next_token_loss
from sovtune.fastpath.shapes import hidden_states
from sovtune.gpu_kernels import Kernels
from sovtune.model import LoadedModel, save_trained
from sovtune.recipe import Recipe
from sovtune.recipe_preference import preference_settings
from sovtune.recipe_train import Train
from sovtune.train import checkpoints
from sovtune.train.disk import named_disk_faults
from sovtune.train.group import ALONE, Group
from sovtune.train.objective import document_lengths, logits_loss, noise_on_embeddings
from sovtune.train.optimizer import lora_plus_groups
from sovtune.train.out_of_memory import RECORD, Recovery, named_memory_faults
from sovtune.train.reference import Tick
from sovtune.train.rows import FlatCollator, PaddedCollator
from sovtune.train.settings import check_settings, layer_settings, tracker_environment, trainer_settings
from sovtune.train.sharding import begin_deepspeed, shard_base, whole_weights
from sovtune.train.shared_steps import SharingTrainer, micro_batches_per_step
from sovtune.train.taught import TaughtStore
from sovtune.train.watch import Progress, StepCounts, StepMetrics, Watch

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything the engine needs: rows in training order, how many make a step, where to write, what to call."""

    recipe: Recipe
    rows: Dataset
    steps: int
    rows_per_step: int
    tokenizer_folder: Path
    run_dir: Path
    fingerprint: str
    progress: Progress
    tick: Tick = lambda what, done, of: None
    say: Callable[[str], None] = lambda line: None
    group: Group = ALONE
    stop_file: Path | None = None
    taught: TaughtStore | None = None
    """What a teacher finds likely in the rows, with ``recipe.distil``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOutcome:
    """What training gave, before it becomes a report."""

    history: tuple[StepMetrics, ...]
    seconds: float
    peak_rss_bytes: int
    resumed_from: int | None
    started_at: str
    adapter: Path
    saving_seconds: float
    events: tuple[str, ...] = ()


class Trainer(SharingTrainer):
    """TRL's trainer with our loss: sums over supervised tokens divided by those of the whole step."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *, fast: bool, kernels: Kernels, train: Train, **kwargs: Any):
        super().__init__(**kwargs)
        self.fast, self.kernels = fast, kernels
        self.train_section = train
        # Our loss divides by the tokens of the whole step itself; the trainer must not divide by micro-batches again.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        """Rows come in the order that was written down when the data was prepared."""
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Mean next-token loss in nats over the step's supervised tokens (this micro-batch's part of it)."""
        alpha = self.train_section.finer.neftune
        if alpha is None:
            return self._token_loss(model, inputs, num_items_in_batch)
        embedding = self.accelerator.unwrap_model(model).get_input_embeddings()
        with noise_on_embeddings(embedding, document_lengths(inputs), alpha):
            return self._token_loss(model, inputs, num_items_in_batch)

    def _token_loss(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | None) -> Tensor:
        labels = inputs["labels"]
        supervised = int((labels != -100).sum())
        total = float(num_items_in_batch) if num_items_in_batch is not None else float(max(supervised, 1))
        self.counts.supervised += supervised
        self.counts.tokens += labels.numel() if self.fast else int(inputs["attention_mask"].sum())
        ids = {name: value for name, value in inputs.items() if name != "labels"}
        return self._sum_of_losses(model, ids, labels) / total

    def _sum_of_losses(self, model: Any, ids: dict[str, Any], labels: Tensor) -> Tensor:
        """Of a micro-batch, in nats."""
        finer = self.train_section.finer
        shape: dict[str, Any] = {"smoothing": finer.label_smoothing, "z_weight": finer.z_loss}
        if self.fast:
            return next_token_loss(*self._states(model, ids), labels, **shape)
        if self.kernels.loss != "torch":
            return head_loss(self.kernels.loss, *self._states(model, ids), labels, **shape)
        if any(shape.values()):
            return logits_loss(model(**ids, use_cache=False).logits, labels, **shape)
        loss: Tensor = model(**ids, labels=labels, num_items_in_batch=1.0, use_cache=False).loss
        return loss

    def _states(self, model: Any, ids: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the decoder hands to the output layer, and that layer's weight."""
        base = self.accelerator.unwrap_model(model).get_base_model()
        decoder, head = base.get_decoder(), base.get_output_embeddings().weight
        if self.fast:
            return hidden_states(decoder, **ids), head
        return decoder(**ids, use_cache=False).last_hidden_state, head

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """DoRA's magnitudes are lengths of whole weight rows: decay would shrink the base itself."""
        return [name for name in super().get_decay_parameter_names(model) if "magnitude" not in name]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over all that is trained; with LoRA+ in groups of two rates."""
        ratio = self.train_section.finer.lora_plus
        if self.optimizer is None and ratio is not None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = lora_plus_groups(
                self.model.named_parameters(),
                self.get_decay_parameter_names(self.model),
                rate=self.args.learning_rate,
                ratio=ratio,
                decay=self.args.weight_decay,
            )
            self.optimizer = kind(groups, **settings)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card from the trainer: sovtune writes it from the records."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The plain trainer's log; TRL would add averages that only its own loss fills."""
        super(SFTTrainer, self).log(logs, start_time)


def run(job: TrainJob, loaded: LoadedModel, *, resume: bool) -> TrainOutcome:
    """Train, or go on from the newest complete checkpoint; what libraries print goes to stderr.

    Args:
        job: rows, counts and folders.
        loaded: base with a fresh adapter.
        resume: go on from a checkpoint when there is one; else begin anew.

    Raises:
        RunInterrupted: Ctrl-C; a checkpoint was saved.
        TrainingDiverged: the loss is lost; the last good adapter was saved.
        RunFailed: a module cannot learn, or the checkpoint belongs to another run.
        EnvironmentFault: out of memory or disk.
    """
    with redirect_stdout(sys.stderr), named_memory_faults():
        return _run(job, loaded, resume=resume)


def _run(job: TrainJob, loaded: LoadedModel, *, resume: bool) -> TrainOutcome:
    start = job.group.from_lead(_beginning(job, resume=resume) if job.group.leads else None)
    settings = job.recipe.train.run
    recovery = Recovery(
        _memory_record(job.run_dir, job.group),
        allowed=settings.out_of_memory == "halve",
        checkpointing=settings.gradient_checkpointing,
        say=job.say,
    )
    counts = StepCounts()
    watch = Watch(
        metrics_path=job.run_dir / METRICS,
        counts=counts,
        progress=job.progress,
        fingerprint=job.fingerprint,
        layout=_layout(job),
        keep_checkpoints=job.recipe.train.run.keep_checkpoints,
        group=job.group,
        stop_file=job.stop_file,
        # DeepSpeed keeps the gradients where the watch does not see them.
        checked=job.recipe.launch.strategy == "zero3",
    )
    trainer = _trainer(job, loaded, counts, watch, recovery)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    undo = watch.catch_interrupts()
    try:
        with named_disk_faults(job.run_dir):
            recovery.begin()
            _guarded(trainer, start, watch, job)
    finally:
        undo()
        recovery.end()
    if watch.interrupted and trainer.state.global_step < job.steps:
        raise RunInterrupted(
            f"stopped as asked after step {trainer.state.global_step} of {job.steps}; it is saved"
        )
    with named_disk_faults(job.run_dir), whole_weights(loaded.model, job.recipe.launch.strategy):
        adapter = job.group.from_lead(
            save_trained(job.recipe, loaded.model, job.tokenizer_folder, job.run_dir)
            if job.group.leads
            else Path()
        )
    return TrainOutcome(
        history=tuple(watch.history),
        seconds=watch.history[-1].seconds,
        peak_rss_bytes=round(max(job.group.each(peak_rss()))),
        resumed_from=checkpoints.step_of(start) if start else None,
        started_at=started_at,
        adapter=adapter,
        saving_seconds=watch.saving_seconds,
        events=tuple(recovery.kept.events),
    )


def _beginning(job: TrainJob, *, resume: bool) -> Path | None:
    """The checkpoint to go on from; without one what an earlier attempt left is removed."""
    home = job.run_dir / CHECKPOINTS
    home.mkdir(parents=True, exist_ok=True)
    start = checkpoints.newest(home, fingerprint=job.fingerprint, layout=_layout(job)) if resume else None
    if start is None:
        shutil.rmtree(home)
        home.mkdir()
        (job.run_dir / METRICS).unlink(missing_ok=True)
    if not resume:  # a run killed before its first checkpoint still knows why
        for record in job.run_dir.glob(f"{Path(RECORD).stem}*.json"):
            record.unlink()
    return start


def _layout(job: TrainJob) -> str:
    return checkpoints.layout_of(job.recipe.launch.strategy, job.group.world)


def _memory_record(run_dir: Path, group: Group) -> Path:
    """Each process notes for itself how small its pieces have become."""
    return run_dir / (RECORD if group.leads else f"{Path(RECORD).stem}.{group.rank}.json")


def _trainer(
    job: TrainJob, loaded: LoadedModel, counts: StepCounts, watch: Watch, recovery: Recovery
) -> Trainer:
    check_settings(job.recipe, loaded.device)
    os.environ.update(tracker_environment(job.recipe, job.run_dir))
    if loaded.device == "cpu":
        # accelerate imports DeepSpeed wherever it is installed, which looks for a GPU and warns of its absence
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    settings = trainer_settings(
        job.recipe,
        steps=job.steps,
        rows_per_step=job.rows_per_step,
        output_dir=str(job.run_dir / CHECKPOINTS),
        device=loaded.device,
    )
    settings["activation_checkpointing"] = recovery.kept.checkpointing
    settings |= layer_settings(loaded.kernels)
    if job.group.world > 1:
        settings["gradient_accumulation_steps"] = micro_batches_per_step(
            job.rows_per_step, settings["per_device_train_batch_size"], job.group
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(job.tokenizer_folder), local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    strategy = job.recipe.launch.strategy
    if strategy == "zero3":
        begin_deepspeed(loaded.device)
    common: dict[str, Any] = {
        "fast": loaded.fast,
        "kernels": loaded.kernels,
        "counts": counts,
        "recovery": recovery,
        "group": job.group,
        "strategy": strategy,
        "rows_per_step": job.rows_per_step,
        "train": job.recipe.train,
        "model": loaded.model,
        "args": SFTConfig(**settings),
        "train_dataset": job.rows,
        "data_collator": FlatCollator() if loaded.fast else PaddedCollator(tokenizer.pad_token_id or 0),
        "processing_class": tokenizer,
        "callbacks": [watch],
    }
    # TRL rounds the adapter of a quantised base to bf16, in which AdamW loses small updates: it gets its fp32 back.
    exact = [
        (parameter, parameter.data) for parameter in loaded.model.parameters() if parameter.requires_grad
    ]
    trainer = _of_method(job, loaded, common)
    trainer.remove_callback(PrinterCallback)  # the watch reports; stdout belongs to results
    for parameter, data in exact:
        parameter.data = data
    if strategy == "fsdp2":  # after the reference, which the first process measures alone
        shard_base(loaded.model, job.group, loaded.device)
    return trainer


def _of_method(job: TrainJob, loaded: LoadedModel, common: dict[str, Any]) -> Trainer:
    """The trainer of the recipe's method, with a teacher or without; the others build on this module."""
    preference = preference_settings(job.recipe)
    if preference is not None:
        from sovtune.train.judged_trainer import judged_trainer

        return judged_trainer(job, loaded, preference, common)
    if job.recipe.distil is not None and job.taught is not None:
        from sovtune.train.distilled_trainer import distilled_trainer

        return distilled_trainer(job, job.recipe.distil, job.taught, common)
    return Trainer(**common)


def _guarded(trainer: Trainer, start: Path | None, watch: Watch, job: TrainJob) -> None:
    """Run the loop; keep the adapter when the loss is lost."""
    try:
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    except TrainingDiverged:
        _keep_last_good(trainer, watch, job)
        raise


def _keep_last_good(trainer: Trainer, watch: Watch, job: TrainJob) -> None:
    """The newest sealed checkpoint is from before the trouble: take it up and write it where a person looks."""
    home = Path(str(trainer.args.output_dir))
    good = job.group.from_lead(
        checkpoints.newest(home, fingerprint=watch.fingerprint) if job.group.leads else None
    )
    if good is None:
        return
    with whole_weights(trainer.model, job.recipe.launch.strategy, changed=True):
        if job.group.leads:
            trainer._load_from_checkpoint(str(good))
            save_trained(
                job.recipe, trainer.model, job.tokenizer_folder, job.run_dir, name="adapter-last-good"
            )


def peak_rss() -> int:
    """High-water mark of this process's memory in bytes.

    Linux keeps it in /proc; what getrusage says there also counts the process that started this one (its pages are
    ours for a moment between fork and exec). Elsewhere getrusage counts bytes.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def versions() -> dict[str, str]:
    """Versions of what took part, for the record."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
