"""The preference methods on the engine's loop: answers' log-probabilities from a batch, the step's loss and rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sovtune.fastpath.log_probs import target_log_probs
from sovtune.fastpath.loss import IGNORE
from sovtune.fastpath.shapes import hidden_states
from sovtune.recipe_preference import PreferenceSettings
from sovtune.train.preference import Answers, kto_loss, pair_loss, reference_point
from sovtune.train.watch import StepCounts

Batch = dict[str, Any]


def answer_log_probs(model: Any, causal: Any, batch: Batch, *, fast: bool) -> tuple[Tensor, Tensor]:
    """Sum of the log-probabilities of each document's learnt tokens, and how many those are.

    Args:
        model: what the plain engine calls; it returns logits.
        causal: the causal model inside, of which the fast engine uses the decoder and the frozen head.
        batch: of ``FlatCollator`` (fast) or ``PaddedCollator``.
        fast: which engine.

    Returns:
        fp32 [documents] in nats, and int64 [documents].
    """
    labels = batch["labels"]
    if fast:
        hidden = hidden_states(
            causal.get_decoder(), batch["input_ids"], batch["position_ids"], batch["document_bounds"]
        )
        places = (labels[0, 1:] != IGNORE).nonzero().view(-1)
        found = target_log_probs(
            hidden[0, :-1][places], causal.get_output_embeddings().weight, labels[0, 1:][places]
        )
        bounds = torch.tensor(batch["document_bounds"], device=places.device)
        documents, number = torch.bucketize(places + 1, bounds, right=True) - 1, len(bounds) - 1
    else:
        mask = batch["attention_mask"]
        logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
        documents, places = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        scores = torch.log_softmax(logits[documents, places], -1, dtype=torch.float32)
        found = scores.gather(1, labels[documents, places + 1, None])[:, 0]
        number = len(labels)
    sums = torch.zeros(number, dtype=torch.float32, device=found.device).index_add(0, documents, found)
    return sums, torch.bincount(documents, minlength=number)


class Judging:
    """The loss of dpo, kto, orpo or simpo over an optimizer step of several micro-batches.

    Losses are means over the pairs (kto: the answers) of the whole step, so that it does not matter how the step is
    cut into micro-batches. For the same reason KTO's reference point is estimated once per step, before its first
    micro-batch and from all of them, on answers paired with other prompts of the step: the paper does so over a
    batch, and a micro-batch of one row may hold a single answer.
    """

    def __init__(self, settings: PreferenceSettings, counts: StepCounts, *, fast: bool):
        self.settings = settings
        self.counts = counts
        self.fast = fast
        self.zero = torch.zeros(())

    def units(self, batch: Batch) -> int:
        """Pairs or judged answers in a batch."""
        documents = len(batch["reference"])
        return documents if self.settings.method == "kto" else documents // 2

    def begin_step(
        self, model: Any, causal: Any, batches: Sequence[Batch], gather: Callable[[Tensor], Tensor]
    ) -> None:
        """Estimate KTO's reference point with the weights the step begins with; the other methods need nothing.

        Args:
            model: see ``answer_log_probs``.
            causal: see ``answer_log_probs``.
            batches: every micro-batch of the step.
            gather: joins a tensor [1, 2] with those of other processes, [processes, 2].
        """
        if self.settings.method != "kto":
            return
        device = batches[0]["labels"].device
        sums = torch.zeros(1, 2, device=device)
        training = model.training
        model.eval()
        with torch.no_grad():
            for other in (batch["mismatched"] for batch in batches):
                if other is not None:
                    log_probs, _ = answer_log_probs(model, causal, other, fast=self.fast)
                    differences = log_probs - other["reference"].to(device)
                    sums[0, 0] += differences.sum()
                    sums[0, 1] += len(differences)
        model.train(training)
        total, count = gather(sums).sum(0)
        self.zero = reference_point(total, count)

    def loss(self, model: Any, causal: Any, batch: Batch) -> Tensor:
        """Sum of the losses of a batch's pairs or answers; notes tokens and rewards."""
        log_probs, tokens = answer_log_probs(model, causal, batch, fast=self.fast)
        self.counts.supervised += int(tokens.sum())
        reference = batch["reference"].to(log_probs.device)
        answers = Answers(log_probs=log_probs, reference=reference, tokens=tokens)
        rewards = self.counts.rewards
        if self.settings.method == "kto":
            good = batch["good"].to(log_probs.device)
            judged = kto_loss(answers, good, self.zero, self.settings)
            beyond = judged.rewards - self.settings.beta * self.zero
            rewards.add(judged.rewards[good], judged.rewards[~good], (beyond > 0)[good], (beyond < 0)[~good])
            return judged.losses.sum()
        chosen, rejected = (
            Answers(log_probs=log_probs[side::2], reference=reference[side::2], tokens=tokens[side::2])
            for side in (0, 1)
        )
        compared = pair_loss(chosen, rejected, self.settings)
        rewards.add(compared.chosen, compared.rejected, compared.chosen > compared.rejected)
        return compared.losses.sum()
