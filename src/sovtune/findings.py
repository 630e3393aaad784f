"""What a run's records say, in sentences: the verdict and the measured limits, for card and report alike."""

from __future__ import annotations

from collections.abc import Sequence

from sovtune import figures
from sovtune.evidence import Evidence, Step
from sovtune.licence_policy import judge
from sovtune.licence_promises import LicenceProblem, problems
from sovtune.licence_teacher import bound_keys, teacher_problems
from sovtune.licences import CardAsks, Obligation, obligations
from sovtune.recipe import Recipe
from sovtune.recipe_preference import WITH_REFERENCE, preference_settings
from sovtune.records import BaseRecord, PairScore, TeacherRecord, TextScore

METHODS = {
    "sft": "supervised fine-tuning, loss on answers only",
    "cpt": "continued pretraining on plain text",
    "dpo": "direct preference optimisation (DPO, arXiv 2305.18290) on pairs of a chosen and a rejected answer",
    "kto": "Kahneman-Tversky optimisation (KTO, arXiv 2402.01306) on answers judged good or bad",
    "orpo": "odds-ratio preference optimisation (ORPO, arXiv 2403.07691) on pairs of a chosen and a rejected answer",
    "simpo": "simple preference optimisation (SimPO, arXiv 2405.14734) on pairs of a chosen and a rejected answer",
}
"""Method of a recipe -> what it is, with its paper."""
LAST_STEPS = 10
"""Steps at the beginning and at the end over which rewards are averaged, at most half of all."""
FEW_DOCUMENTS = 100
"""Below this many documents a held-out set covers few kinds of text, whatever the interval says."""


def refused_promises(evidence: Evidence) -> tuple[LicenceProblem, ...]:
    """Where ``card.licence`` promises more than base and data allow, and nobody answers for it.

    The data stage has asked before (``data.permission``); this is asked again of the records, so that a card can
    never say more than they do.
    """
    recipe = evidence.recipe
    found = problems(
        recipe.card.licence,
        base_licence=recipe.base.licence,
        data_licences=evidence.data_licences,
        name=evidence.name,
        language=recipe.language,
    )
    if recipe.distil is not None:
        found += teacher_problems(recipe.card.licence, recipe.distil.teacher.licence, evidence.name)
    return judge(found, recipe.card.licence_policy, recipe.card.overrides).refused


def result_obligations(evidence: Evidence) -> tuple[Obligation, ...]:
    """What base and data ask of whoever uses or passes on the adapter."""
    asked = {
        entry.card_id: CardAsks(
            attribution=entry.attribution,
            territory=entry.territory,
            commercial=entry.commercial != "no",
            outputs_of=entry.outputs_of,
        )
        for entry in evidence.data.datasets
    }
    distil = evidence.recipe.distil
    teacher = None if distil is None else CardAsks(outputs_of=bound_keys(distil.teacher.licence))
    return obligations(evidence.recipe.base.licence, evidence.data_licences, asked, teacher).items


def score_sentence(score: TextScore) -> str:
    """``Korean: 1.90 → 1.62 bits per byte, −14.6 % (95 % interval −15.9 % to −13.2 %)``."""
    return (
        f"{figures.language_name(score.language)}: "
        f"{figures.number(score.base)} → {figures.number(score.adapter)} bits per byte, "
        f"{figures.change(score.change_percent)} "
        f"(95 % interval {figures.change_interval(score.change_interval)})"
    )


def loss_unit(recipe: Recipe) -> str:
    """What the training loss counts in."""
    return {"sft": "nats per token", "cpt": "nats per token", "kto": "per answer"}.get(
        recipe.method, "per pair"
    )


def objective(recipe: Recipe) -> str | None:
    """The settings of a preference method or of a teacher in words; None where the text alone is learnt."""
    settings = preference_settings(recipe)
    if settings is None:
        return _teaching(recipe)
    words = [f"{'lambda' if settings.method == 'orpo' else 'beta'} {settings.beta:g}"]
    if settings.method == "simpo":
        words.append(f"target margin {settings.margin:g}, rewards per token")
    if settings.method == "kto":
        words.append(
            f"weights {settings.desirable_weight:g} (good) and {settings.undesirable_weight:g} (bad)"
        )
    if settings.label_smoothing:
        words.append(f"label smoothing {settings.label_smoothing:g}")
    if settings.sft_weight:
        words.append(f"loss of the chosen answer added with weight {settings.sft_weight:g}")
    if settings.method in WITH_REFERENCE:
        words.append("reference: the model as training began")
    return "; ".join(words)


def _teaching(recipe: Recipe) -> str | None:
    distil = recipe.distil
    if distil is None:
        return None
    text = "nothing else" if distil.weight == 1 else f"{figures.share(1 - distil.weight)} the text"
    return (
        f"distillation: {figures.share(distil.weight)} of the loss follows the probabilities of "
        f"{distil.teacher.model} (its {distil.top} likeliest next tokens, temperature {distil.temperature:g}), {text}"
    )


def teacher_sentence(teacher: TeacherRecord | None) -> str | None:
    """Who taught, how it was stored, and how much of what it knew was kept."""
    if teacher is None:
        return None
    stored = "not quantised" if teacher.quantisation == "none" else f"in {teacher.quantisation}"
    return (
        f"{teacher.model} at {teacher.revision}, {teacher.parameters / 1e6:,.0f} M parameters {stored}, "
        f"{teacher.licence}, content hash {teacher.content_sha256}; the kept tokens have "
        f"{figures.share(teacher.covered)} of its probability"
    )


def reward_sentence(steps: Sequence[Step]) -> str | None:
    """How rewards went in training, first and last steps; None for methods without rewards."""
    shares = [step.reward_accuracy for step in steps if step.reward_accuracy is not None]
    margins = [step.reward_margin for step in steps if step.reward_margin is not None]
    if not shares or not margins:
        return None
    size = max(1, min(LAST_STEPS, len(shares) // 2))
    last = margins[-size:]
    steps_at = f"{size} steps" if size > 1 else "step"
    return (
        f"rewards agree with {figures.share(sum(shares[:size]) / size)} of the verdicts in the first {steps_at}, "
        f"with {figures.share(sum(shares[-size:]) / size)} in the last {steps_at}, where their margin is "
        f"{figures.number(sum(last) / len(last))}"
    )


def pair_sentence(score: PairScore) -> str:
    """How often the chosen answer of held-out pairs is the likelier one, before and after."""
    return (
        f"{score.name}: the chosen answer is likelier per token in {figures.share(score.base)} of {score.pairs:,} "
        f"pairs under the base (95 % interval {_shares(score.base_interval)}), in {figures.share(score.adapter)} "
        f"under the adapter ({_shares(score.adapter_interval)}); training raised it above the rejected one in "
        f"{figures.share(score.reward)} ({_shares(score.reward_interval)})"
    )


def _shares(ends: tuple[float, float]) -> str:
    return f"{figures.share(ends[0]).removesuffix(' %')} to {figures.share(ends[1])}"


def gate_sentence(evidence: Evidence) -> str:
    """How many of the recipe's quality gates hold."""
    gates = evidence.evaluation.gates
    if not gates:
        return "No quality gate was set."
    failed = sum(not gate.passed for gate in gates)
    if failed:
        return f"{failed} of {len(gates)} quality gates failed."
    return {1: "The quality gate holds.", 2: "Both quality gates hold."}.get(
        len(gates), f"All {len(gates)} quality gates hold."
    )


def _score_limits(score: TextScore) -> list[str]:
    name, low, high = figures.language_name(score.language), *score.change_interval
    ends = figures.change_interval(score.change_interval)
    moved = f"{figures.change(score.change_percent)} (95 % interval {ends})"
    limits = []
    if low > 0:
        limits.append(f"{name} became worse: bits per byte of {score.name} change by {moved}.")
    elif score.role == "target" and high >= 0:
        limits.append(f"No clear gain in {name}: bits per byte of {score.name} change by {moved}.")
    if score.documents < FEW_DOCUMENTS:
        limits.append(
            f"{score.name}: only {score.documents} documents; other kinds of text are {figures.NOT_MEASURED}."
        )
    return limits


def _data_limits(evidence: Evidence) -> list[str]:
    data = evidence.data
    limits = [
        f"Training data {entry.title} contains personal data: {entry.personal_data}."
        for entry in data.datasets
        if entry.personal_data != "none"
    ]
    limits += [
        f"{count:,} documents were longer than {data.max_length:,} tokens and were {what}."
        for what, count in data.overlong.items()
        if count
    ]
    if data.tokens_cut:
        limits.append(f"{data.tokens_cut:,} tokens were cut off at {data.max_length:,} tokens.")
    return limits + [f"While the data was prepared: {warning}." for warning in data.warnings]


def limitations(evidence: Evidence) -> list[str]:
    """What was measured against the adapter, or was not measured at all; one sentence each."""
    scores = evidence.evaluation.scores
    found = [sentence for score in scores for sentence in _score_limits(score)]
    if not scores:
        found.append(f"Base and adapter were not compared on held-out text: {figures.NOT_MEASURED}.")
    elif not any(score.role == "replay" for score in scores):
        found.append(f"The effect on languages other than the target: {figures.NOT_MEASURED}.")
    found += [
        f"A quality gate failed: {gate.name}, measured {figures.change(gate.measured)}."
        for gate in evidence.evaluation.gates
        if not gate.passed
    ]
    found += _data_limits(evidence)
    if evidence.base.converted_from is not None:
        found.append(
            "The base weights were converted from a GGUF file; they may differ from the original checkpoint."
        )
    found.append(
        "Bits per byte says how well text is predicted. Whether answers are true, safe or fair: "
        f"{figures.NOT_MEASURED}."
    )
    return found


def origin(base: BaseRecord) -> str:
    """Where the base came from; a Hub's address is left out, since it may be inside somebody's network."""
    if base.source_kind == "wheel":
        return f"a package-index wheel, {base.source}"
    return {"folder": "a local folder", "hub": "a model hub"}.get(base.source_kind, base.source_kind)
