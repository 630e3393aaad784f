"""The recipe's section for training: how long, how fast, how much at once, and the engine room."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.section import (
    SHARE,
    Conflict,
    Section,
    unit,
)

WSD_DECAY = 0.2
"""Share of the steps that wsd spends falling when the recipe does not say (0.1 to 0.2 in arXiv 2404.06395)."""


class Rows(Section):
    """Rendering documents into rows of tokens."""

    max_length: int = Field(default=1024, ge=16, le=1_048_576, json_schema_extra=unit("tokens"))
    """Most tokens in a row."""
    packing: bool = True
    """Put several documents into one row; attention never crosses from one to the next."""
    overlong: Literal["error", "drop", "split"] = "error"
    """A document longer than max_length: stop, drop and count, or split (split: cpt only)."""


class Run(Section):
    """Engine room: what changes speed and safety but not the result's meaning."""

    engine: Literal["auto", "plain"] = "auto"
    """auto: the fast path (CPU) or installed kernels (GPU) where they fit, else the reason; plain: neither."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about 0.7x the speed, same losses."""
    checkpoint_steps: int = Field(default=20, ge=1, le=10**6, json_schema_extra=unit("steps"))
    """Save a checkpoint every N steps, atomically."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100, json_schema_extra=unit("checkpoints"))
    """Newest checkpoints that stay on disk."""
    micro_rows: int | None = Field(default=None, ge=1, le=4096, json_schema_extra=unit("rows"))
    """Rows that go through the model at once; default 1 and accumulate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is one, else CPU."""
    out_of_memory: Literal["halve", "stop"] = "halve"
    """halve: halve the micro-batch, double accumulation and go on with the same batch; stop: end with advice."""
    trackers: tuple[Literal["tensorboard", "mlflow", "trackio", "wandb"], ...] = ()
    """Copy the metrics to these too (each needs its extra, wandb stays offline); metrics.jsonl is always written."""


class Finer(Section):
    """Settings of the optimisation that are right as they are for most runs."""

    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw: fused AdamW in fp32; adamw8bit: paged 8-bit AdamW of bitsandbytes, for GPUs."""
    lora_plus: float | None = Field(default=None, ge=1, le=1000)
    """LoRA+ (arXiv 2402.12354): the rate of matrix B is this many times that of A; 16 is usual."""
    decay: float | None = Field(default=None, gt=0, le=1, json_schema_extra=SHARE)
    """For wsd: share of all steps spent falling to 0; default 0.2."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """For sft and cpt: share of the target probability that is spread over the whole vocabulary."""
    z_loss: float = Field(default=0.0, ge=0, le=1)
    """For sft and cpt: weight of log(Z)^2, which keeps logits small; 1e-4 is usual (PaLM, arXiv 2204.02311)."""
    neftune: float | None = Field(default=None, gt=0, le=100)
    """For sft and cpt: NEFTune (arXiv 2310.05914), size of the noise on embeddings while training; 5 is usual."""


class Train(Section):
    """How long, how fast, how much at once."""

    epochs: float | None = Field(default=None, gt=0, le=1000, json_schema_extra=unit("passes"))
    """Passes over the mixture; exactly one of epochs, steps, tokens."""
    steps: int | None = Field(default=None, ge=1, le=10**8, json_schema_extra=unit("steps"))
    """Optimizer steps."""
    tokens: int | None = Field(default=None, ge=1, le=10**14, json_schema_extra=unit("tokens"))
    """Training tokens, rounded up to whole steps."""
    batch_tokens: int = Field(default=4096, ge=16, le=10**8, json_schema_extra=unit("tokens"))
    """Tokens per optimizer step; the micro-batch follows from it and max_length."""
    learning_rate: float = Field(default=2e-4, gt=0, le=0.05)
    """Peak rate of AdamW; 1e-4 to 5e-4 is usual for LoRA."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Course of the rate after warm-up; wsd: stable, then down to 0 over the last `finer.decay` of the steps."""
    warmup: float = Field(default=0.03, ge=0, lt=1, json_schema_extra=SHARE)
    """Share of all steps spent rising to the peak rate."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW weight decay of the adapter."""
    clip: float = Field(default=1.0, gt=0, le=1000)
    """Largest gradient norm."""
    finer: Finer = Finer()
    """Settings that are right as they are for most runs."""
    rows: Rows = Rows()
    """Length, packing and what happens to long documents."""
    run: Run = Run()
    """Engine, checkpoints, memory saving."""

    def _one_end(self) -> Conflict | None:
        named = [name for name in ("epochs", "steps", "tokens") if getattr(self, name) is not None]
        if len(named) == 1:
            return None
        if not named:
            return Conflict("name exactly one of epochs, steps, tokens (found none)", ())
        found = " and ".join(named)
        message = f"name exactly one of epochs, steps, tokens (found {found}); `{named[0]}: null` drops one"
        return Conflict(message, (named[-1],))

    def _batch_holds_a_row(self) -> Conflict | None:
        batch, longest = self.batch_tokens, self.rows.max_length
        if batch < longest:
            return Conflict(f"{batch} tokens hold no row of rows.max_length = {longest}", ("batch_tokens",))
        return None

    def _batch_holds_micro_rows(self) -> Conflict | None:
        rows, longest = self.run.micro_rows, self.rows.max_length
        if rows is not None and longest <= self.batch_tokens < rows * longest:
            message = f"{rows} rows of rows.max_length = {longest} exceed batch_tokens = {self.batch_tokens}"
            return Conflict(message, ("run", "micro_rows"))
        return None

    def _decay_belongs_to_wsd(self) -> Conflict | None:
        if self.finer.decay is None or self.schedule == "wsd":
            return None
        return Conflict(f"only the schedule wsd has a decay, this is {self.schedule}", ("finer", "decay"))

    def _rise_and_fall_fit(self) -> Conflict | None:
        fall = WSD_DECAY if self.finer.decay is None else self.finer.decay
        if self.schedule != "wsd" or self.warmup + fall <= 1:
            return None
        message = f"warmup {self.warmup:g} and decay {fall:g} are more than all steps"
        return Conflict(message, ("warmup",) if self.finer.decay is None else ("finer", "decay"))

    rules = (
        _one_end,
        _batch_holds_a_row,
        _batch_holds_micro_rows,
        _decay_belongs_to_wsd,
        _rise_and_fall_fit,
    )
