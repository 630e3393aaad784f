"""The preference losses: from log-probabilities of answers to one loss per pair or answer, each with its formula.

Letters: x a prompt, y an answer (w chosen, l rejected), |y| its tokens with the stop token, pi the model that is
trained, ref the model as training began, s the logistic function. Log-probabilities are sums over the tokens of an
answer, in nats; the prompt never counts. All tensors are fp32 [P] for P pairs or answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sovtune.recipe_preference import PreferenceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of a batch: log pi(y|x), log ref(y|x) (zeros where the method has no reference), |y|."""

    log_probs: Tensor
    reference: Tensor
    tokens: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean log-probability of a token: log pi(y|x) / |y|."""
        return self.log_probs / self.tokens

    @property
    def ratio(self) -> Tensor:
        """What training changed: log pi(y|x) - log ref(y|x)."""
        return self.log_probs - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Loss and implicit reward of each pair."""

    losses: Tensor
    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Loss and implicit reward of each judged answer."""

    losses: Tensor
    rewards: Tensor


def pair_loss(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> Compared:
    """The loss of dpo, simpo or orpo, whichever the settings name."""
    losses = {"dpo": dpo_loss, "simpo": simpo_loss, "orpo": orpo_loss}
    return losses[settings.method](chosen, rejected, settings)


def dpo_loss(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> Compared:
    """Direct preference optimisation, arXiv 2305.18290, eq. 7.

    With r(y) = beta (log pi(y|x) - log ref(y|x)) and z = r(w) - r(l): L = -log s(z). Label smoothing e takes a share
    of the comparisons to be the wrong way round: L = -(1 - e) log s(z) - e log s(-z) (conservative DPO, E. Mitchell's
    note on DPO with noisy preferences, 2023). ``sft_weight`` a adds -a log pi(w|x) / |w| (arXiv 2404.19733, eq. 1).
    """
    good, bad = settings.beta * chosen.ratio, settings.beta * rejected.ratio
    lead = good - bad
    smoothing = settings.label_smoothing
    losses = -(1 - smoothing) * logsigmoid(lead) - smoothing * logsigmoid(-lead)
    return Compared(
        losses=losses - settings.sft_weight * chosen.mean, chosen=good.detach(), rejected=bad.detach()
    )


def simpo_loss(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> Compared:
    """Simple preference optimisation, arXiv 2405.14734, eq. 6; it needs no reference.

    With r(y) = beta log pi(y|x) / |y| and the target margin g: L = -log s(r(w) - r(l) - g). ``sft_weight`` a adds
    -a log pi(w|x) / |w|.
    """
    good, bad = settings.beta * chosen.mean, settings.beta * rejected.mean
    losses = -logsigmoid(good - bad - settings.margin) - settings.sft_weight * chosen.mean
    return Compared(losses=losses, chosen=good.detach(), rejected=bad.detach())


def orpo_loss(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> Compared:
    """Odds-ratio preference optimisation, arXiv 2403.07691, eq. 6 and 7; it needs no reference.

    With p(y) = exp(log pi(y|x) / |y|) and odds(y) = p / (1 - p):
    L = -log pi(w|x) / |w| - beta log s(log odds(w) - log odds(l)); the paper calls beta lambda.
    """
    lead = _log_odds(chosen.mean) - _log_odds(rejected.mean)
    return Compared(
        losses=-chosen.mean - settings.beta * logsigmoid(lead),
        chosen=(settings.beta * chosen.mean).detach(),
        rejected=(settings.beta * rejected.mean).detach(),
    )


def _log_odds(mean: Tensor) -> Tensor:
    """Log p - log(1 - p) of p = exp(mean); p is kept a rounding step below 1, where the odds are finite."""
    below = mean.clamp(max=-torch.finfo(mean.dtype).eps)
    return below - torch.log(-torch.expm1(below))


def kto_loss(answers: Answers, good: Tensor, zero: Tensor, settings: PreferenceSettings) -> Judged:
    """Kahneman-Tversky optimisation, arXiv 2402.01306, eq. 8.

    With r(y) = log pi(y|x) - log ref(y|x), reference point z and weights d (desirable), u (undesirable):
    L = d (1 - s(beta (r - z))) for a good answer, u (1 - s(beta (z - r))) for a bad one. No gradient flows through z.

    Args:
        answers: judged answers.
        good: bool [P], what they were found to be.
        zero: the reference point z of the step, a scalar (see ``reference_point``).
        settings: beta and weights.
    """
    lead = settings.beta * (answers.ratio - zero.detach())
    desirable = settings.desirable_weight * (1 - torch.sigmoid(lead))
    undesirable = settings.undesirable_weight * (1 - torch.sigmoid(-lead))
    rewards = (settings.beta * answers.ratio).detach()
    return Judged(losses=torch.where(good, desirable, undesirable), rewards=rewards)


def reference_point(total: Tensor, count: Tensor) -> Tensor:
    """KTO's z: max(0, mean over mismatched pairs (x, y') of log pi(y'|x) - log ref(y'|x)), an estimate of a KL.

    Args:
        total: sum of those differences over the whole optimizer step.
        count: how many there are; 0 gives 0, the least the KL can be.
    """
    return (total / count.clamp(min=1)).clamp(min=0)
