"""What a teacher may be: its licence, its tokens, its share of memory and time in a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plan import DATA, GIB, ROOMY, decoder, recipe, write_base

from sovtune.data.same_tokens import check_same_tokens
from sovtune.errors import BaseUnavailable, UsageError
from sovtune.gpu_kernels import choose_kernels
from sovtune.licence_teacher import bound_keys, teacher_problems
from sovtune.licences import CardAsks, obligations
from sovtune.machine import Machine
from sovtune.plan import BaseFacts, Speed, make_plan, read_base_facts
from sovtune.recipe import Recipe
from tiny_models import make_tokenizer

TERMS = [
    ("Apache-2.0", "Apache-2.0", "any", []),
    ("LicenseRef-Hunyuan", "Apache-2.0", "any", ["teacher.terms"]),
    ("LicenseRef-Llama-3", "Apache-2.0", "any", ["teacher.terms"]),
    ("LicenseRef-Llama-3.1", "Apache-2.0", "any", ["teacher.name"]),
    ("LicenseRef-Llama-3.1", "Apache-2.0", "llama-ko", []),
    ("LicenseRef-EXAONE-NC", "Apache-2.0", "exaone-ko", ["teacher.non-commercial"]),
    ("LicenseRef-EXAONE-NC", "CC-BY-NC-4.0", "exaone-ko", []),
    ("LicenseRef-EXAONE-NC", "CC-BY-NC-4.0", "ko", ["teacher.name"]),
    ("LicenseRef-Of-Nobody", "Apache-2.0", "any", ["teacher.unknown-terms"]),
]


@pytest.mark.parametrize(("teacher", "result", "name", "ids"), TERMS)
def test_terms_of_a_teacher(teacher: str, result: str, name: str, ids: list[str]) -> None:
    found = teacher_problems(result, teacher, name)
    assert [problem.id for problem in found] == ids
    assert {problem.at for problem in found} <= {("distil", "teacher", "licence")}
    assert all(problem.settled is (problem.word != "unknown-terms") for problem in found)


def test_duties_that_go_along_with_what_a_teacher_says() -> None:
    assert bound_keys("Apache-2.0") == ()
    (key,) = bound_keys("LicenseRef-Llama-3.1")
    asked = obligations("Apache-2.0", {}, teacher=CardAsks(outputs_of=(key,))).items
    ours = [item for item in asked if any(because.startswith("teacher: ") for because in item.because)]
    assert any("begins with `Llama`" in item.text for item in ours)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseFacts, BaseFacts]:
    """A base, and a teacher of eight times its weights."""
    found = []
    for hidden, layers in ((512, 8), (2048, 24)):
        config = {
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 32_000, "tie_word_embeddings": True,
        }  # fmt: skip
        folder = tmp_path_factory.mktemp("models") / str(hidden)
        shapes = decoder(hidden, hidden, hidden // 4, 3 * hidden, layers, 32_000)
        found.append(read_base_facts(write_base(folder, config, shapes)))
    return found[0], found[1]


def taught(**teacher: str) -> Recipe:
    section = {"model": "org/large", "revision": "main", "licence": "MIT", "quantisation": teacher}
    values = recipe(rows={"max_length": 1000}, batch_tokens=4000).model_dump(mode="json")
    return Recipe.model_validate({**values, "distil": {"teacher": section}})


def test_a_plan_holds_the_larger_of_reading_and_training(two: tuple[BaseFacts, BaseFacts]) -> None:
    base, teacher = two
    whole = make_plan(taught(kind="none"), base, DATA, machine=ROOMY, teacher=teacher)
    small = make_plan(taught(kind="nf4"), base, DATA, machine=ROOMY, teacher=teacher)
    alone = make_plan(taught(), base, DATA, machine=ROOMY)
    for plan in (whole, small):
        assert sum(plan.memory_bytes.values()) == max(plan.phases.values())
        assert plan.phases["training"] == alone.phases["training"]
    assert whole.phases["teacher"] - small.phases["teacher"] > teacher.linear * 1.4
    assert whole.memory_bytes["beyond_training"] > 0
    assert "teacher" not in alone.phases


def test_a_plan_that_the_teacher_alone_breaks_says_so(two: tuple[BaseFacts, BaseFacts]) -> None:
    base, teacher = two
    tight = Machine(device="cpu", memory_available_bytes=2 * GIB)
    plan = make_plan(taught(kind="none"), base, DATA, machine=tight, teacher=teacher)
    assert not plan.fits
    assert any("the teacher alone needs " in note for note in plan.notes)


def test_a_plan_counts_the_time_of_reading_once(two: tuple[BaseFacts, BaseFacts]) -> None:
    base, teacher = two
    speed = Speed(1000.0, "measured")
    plain = make_plan(taught(), base, DATA, machine=ROOMY, speed=speed)
    assert plain.seconds is not None
    share = {}
    for epochs in (1, 4):
        made = taught().model_copy(update={"train": taught().train.model_copy(update={"epochs": epochs})})
        plan = make_plan(made, base, DATA, machine=ROOMY, speed=speed, teacher=teacher)
        assert plan.seconds is not None
        share[epochs] = plan.seconds / (epochs * plain.seconds) - 1
    assert share[1] == pytest.approx(4 * share[4], rel=1e-6)
    forward, training = 2 * teacher.linear, 4 * base.linear  # operations a token, without heads and attention
    assert 0.25 < share[1] / (forward / training) < 1


def write_tokenizer(folder: Path, *more: str) -> Path:
    folder.mkdir()
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(more))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_teacher_may_have_more_tokens_but_no_other_ones(tmp_path: Path) -> None:
    base = write_tokenizer(tmp_path / "base", "<think>")
    more = write_tokenizer(tmp_path / "more", "<think>", "<tool>")
    other = write_tokenizer(tmp_path / "other", "<tool>", "<think>")
    check_same_tokens(base, base)
    check_same_tokens(base, more)
    with pytest.raises(UsageError, match="other tokens than the base") as caught:
        check_same_tokens(more, base)
    assert caught.value.why == "1 of 322 differ: '<tool>' is 321 here and no token there"
    with pytest.raises(UsageError) as caught:
        check_same_tokens(base, other)
    assert caught.value.why == "1 of 321 differ: '<think>' is 320 here and 321 there"


def test_a_tokenizer_that_was_cut_off_is_named(tmp_path: Path) -> None:
    base = write_tokenizer(tmp_path / "base")
    broken = write_tokenizer(tmp_path / "broken")
    (broken / "tokenizer.json").write_text((base / "tokenizer.json").read_text()[:500])
    with pytest.raises(BaseUnavailable, match=r"tokenizer\.json is damaged") as caught:
        check_same_tokens(base, broken)
    assert caught.value.where == str(broken)


def test_a_gpu_run_with_a_teacher_says_that_it_takes_torchs_loss() -> None:
    found = choose_kernels(
        capability=(8, 0),
        compute="bfloat16",
        loss_blockers=["the recipe has a teacher"],
        installed=lambda name: "1.0",
    )
    assert found.loss == "torch"
    assert "loss: torch (the recipe has a teacher)" in found.notes


def test_only_rows_that_are_trained_on_are_read(two: tuple[BaseFacts, BaseFacts]) -> None:
    """A run of a few steps is not charged for the whole corpus."""
    base, teacher = two
    made = taught()
    short = made.model_copy(update={"train": made.train.model_copy(update={"epochs": None, "steps": 2})})
    speed = Speed(1000.0, "measured")
    plans = [make_plan(one, base, DATA, machine=ROOMY, speed=speed, teacher=teacher) for one in (made, short)]
    few, whole = plans[1].seconds, plans[0].seconds
    assert few is not None and whole is not None
    assert few / whole == pytest.approx(plans[1].tokens / plans[0].tokens, rel=1e-6)
