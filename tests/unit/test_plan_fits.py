"""Whether a run fits: named GPUs, published QLoRA figures, changes that help, the micro-batch, a corrected plan."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import DATA, ROOMY, SMALL, decoder, recipe, write_base

from sovtune import memory
from sovtune.architecture import BaseFacts, read_base_facts
from sovtune.errors import EnvironmentFault, UsageError
from sovtune.gpu_table import GIB, GPUS, SHORT_NAMES, find_gpu
from sovtune.machine import GPU_EFFICIENCY, Machine, named_machine
from sovtune.plan import DataSize, fitting_recipe, make_plan, work_flop
from sovtune.plan_changes import with_values
from sovtune.plan_command import write_changed
from sovtune.recipe_file import load_recipe
from sovtune.records import Plan, from_json, to_json

NAMED = ("rtx-4090-24gb", "t4", "l4", "a10", "3060-12gb", "h100", "910b")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base_facts(
        write_base(tmp_path_factory.mktemp("base"), SMALL, decoder(64, 64, 32, 160, 2, 1000))
    )


def llama(folder: Path, hidden: int, layers: int, heads: int, middle: int) -> BaseFacts:
    """LLaMA-1 as its paper (arXiv 2302.13971) and configuration files describe it; untied, 32,000 tokens."""
    shapes = decoder(hidden, hidden, hidden, middle, layers, 32_000) | {"lm_head.weight": [32_000, hidden]}
    config = {
        **SMALL, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "intermediate_size": middle, "vocab_size": 32_000, "tie_word_embeddings": False,
    }  # fmt: skip
    return read_base_facts(write_base(folder, config, shapes))


# --- published figures


@pytest.mark.parametrize(
    ("shape", "billions", "published_gb"),
    [
        ((4096, 32, 32, 11_008), 6.74, 6.9),
        ((5120, 40, 40, 13_824), 13.0, 11.3),
        ((6656, 60, 52, 17_920), 32.5, 24.7),
        ((8192, 80, 64, 22_016), 65.2, 45.0),
    ],
)
def test_memory_of_qlora_as_published(
    tmp_path: Path, shape: tuple[int, int, int, int], billions: float, published_gb: float
) -> None:
    """QLoRA (arXiv 2305.14314), figure of the memory footprint in its appendix: LLaMA, batch 1, 512 tokens, checkpointing.

    Its appendix on hyperparameters: NF4 with double quantisation, bf16, rank 64 on all linear layers.
    """
    found = llama(tmp_path, *shape)
    assert found.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    made = recipe(
        adapter={"rank": 64, "alpha": 16, "dropout": 0.05},
        rows={"max_length": 512},
        batch_tokens=512,
        run={"gradient_checkpointing": True, "device": "cuda", "micro_rows": 1},
    )
    one_row = DataSize(tokens=512_000, supervised_tokens=512_000, rows=1000, documents=1000, longest=512)
    plan = make_plan(made, found, one_row, machine=named_machine("a100-80gb"))
    assert sum(plan.memory_bytes.values()) / 1e9 == pytest.approx(published_gb, rel=0.15)


# --- named GPUs


@pytest.mark.parametrize("name", [*GPUS, *SHORT_NAMES])
def test_every_gpu_has_a_source_and_sane_figures(name: str) -> None:
    gpu = find_gpu(name)
    assert len(gpu.source) > 20
    assert 10 <= gpu.memory_gib <= 192
    assert gpu.watts is None or 70 <= gpu.watts <= 750
    assert gpu.name == name or SHORT_NAMES[name] == gpu.name
    assert find_gpu(f" {name.upper().replace('-', '_')} ") is gpu


@pytest.mark.parametrize("name", NAMED)
def test_a_plan_for_a_named_gpu_has_time_and_says_what_it_rests_on(facts: BaseFacts, name: str) -> None:
    gpu, place = find_gpu(name), named_machine(name)
    made = recipe()
    plan = make_plan(made, facts, DATA, machine=place)
    assert plan.fits
    assert plan.machine == gpu.name
    assert 0.9 * gpu.memory_gib * GIB < plan.memory_available_bytes < gpu.memory_gib * GIB
    flop = work_flop(made, facts, plan.tokens, supervised=DATA.supervised_tokens / DATA.tokens)
    assert plan.seconds == pytest.approx(flop / (gpu.teraflops * 1e12 * GPU_EFFICIENCY))
    assert any("assumed" in note and "nothing was measured" in note for note in plan.notes)
    if gpu.watts is None:
        assert plan.energy_kwh is None
        assert any("energy is not estimated" in note for note in plan.notes)
    else:
        assert plan.energy_kwh == pytest.approx((plan.seconds or 0) * gpu.watts / 3.6e6)


def test_an_unknown_gpu_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"did you mean a100\?") as caught:
        find_gpu("A1000")
    assert "rtx-4090-24gb" in str(caught.value.fix)


def test_energy_of_this_machine_is_unknown_with_a_reason(facts: BaseFacts) -> None:
    plan = make_plan(recipe(), facts, DATA, machine=replace(ROOMY, flops=1e12))
    assert plan.seconds is not None
    assert plan.energy_kwh is None
    assert any("nothing here measures power" in note for note in plan.notes)


# --- when it does not fit


def large(facts: BaseFacts) -> BaseFacts:
    """The small base with activations that matter: wide feed-forward blocks, many layers."""
    return replace(facts, intermediate=8192, layers=24)


def tight(needed: int) -> Machine:
    return Machine(device="cpu", memory_available_bytes=needed)


def test_changes_come_in_the_order_of_their_cost_and_add_up(facts: BaseFacts) -> None:
    made = recipe(rows={"max_length": 4096}, batch_tokens=8192, run={"micro_rows": 2, "engine": "plain"})
    base = replace(large(facts), vocabulary=50_000)
    plan = make_plan(made, base, DATA, machine=tight(memory.RUNTIME))
    assert not plan.fits
    keys = [next(iter(change.values)) for change in plan.changes]
    assert keys[:3] == ["train.run.engine", "train.run.micro_rows", "train.run.gradient_checkpointing"]
    assert keys[3:] == ["train.rows.max_length"] * (len(keys) - 3)
    need = sum(plan.memory_bytes.values())
    for change in plan.changes:
        assert change.saves_bytes > 0
        assert change.total_bytes == need - change.saves_bytes
        assert change.cost
        need = change.total_bytes
    assert any("no change of the recipe makes it fit" in note for note in plan.notes)


def test_a_run_that_fits_has_no_changes(facts: BaseFacts) -> None:
    assert make_plan(recipe(), facts, DATA, machine=ROOMY).changes == ()


@pytest.mark.parametrize(
    ("longest", "method", "overlong", "words"),
    [
        (700, "sft", "error", "none for this data: its longest document still fits into a row"),
        (4000, "sft", "drop", "documents of more than 2,048 tokens are dropped (the longest has 4,000)"),
        (None, "cpt", "split", "documents of more than 2,048 tokens are split"),
    ],
)
def test_shorter_rows_say_what_becomes_of_long_documents(
    facts: BaseFacts, longest: int | None, method: str, overlong: str, words: str
) -> None:
    made = recipe(
        rows={"max_length": 4096}, method=method, batch_tokens=8192, run={"gradient_checkpointing": True}
    )
    data = replace(DATA, longest=longest)
    base = large(facts)
    room = sum(make_plan(made, base, data, machine=ROOMY).memory_bytes.values()) - 1
    changed, changes = fitting_recipe(made, base, data, tight(room))
    assert changed.train.rows.max_length == 2048
    assert changed.train.rows.overlong == overlong
    assert changes[0].cost == words


def test_a_gpu_gets_four_bits_and_small_moments(tmp_path: Path) -> None:
    found = llama(tmp_path, 4096, 32, 32, 11_008)
    made = recipe(
        adapter={"kind": "lora", "rank": 256},
        quantisation={"kind": "none"},
        run={"gradient_checkpointing": True},
    )
    place = named_machine("3060-12gb")
    changed, _ = fitting_recipe(made, found, DATA, place)
    assert (changed.adapter.kind, changed.base.quantisation.kind) == ("qlora", "nf4")
    assert changed.train.finer.optimizer == "adamw8bit"
    assert make_plan(changed, found, DATA, machine=place).fits


def test_too_small_a_machine_is_said_to_be_one(tmp_path: Path) -> None:
    found = llama(tmp_path, 8192, 80, 64, 22_016)
    with pytest.raises(EnvironmentFault, match="no change of the recipe makes it fit") as caught:
        fitting_recipe(recipe(), found, DATA, named_machine("l4"))
    assert "smaller base" in str(caught.value.fix)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    share=st.floats(0.3, 1.0),
    length=st.sampled_from([512, 1024, 4096]),
    micro=st.sampled_from([None, 1, 2]),
    rank=st.sampled_from([8, 64]),
)
def test_what_is_changed_fits(
    facts: BaseFacts, share: float, length: int, micro: int | None, rank: int
) -> None:
    made = recipe(
        adapter={"rank": rank}, rows={"max_length": length}, batch_tokens=8192, run={"micro_rows": micro}
    )
    base = large(facts)
    now = sum(make_plan(made, base, DATA, machine=ROOMY).memory_bytes.values())
    place = tight(int(now * share))
    try:
        changed, changes = fitting_recipe(made, base, DATA, place)
    except EnvironmentFault:
        return
    plan = make_plan(changed, base, DATA, machine=place)
    assert plan.fits
    assert plan.changes == ()
    values = {key: value for change in changes for key, value in change.values.items()}
    assert with_values(made, values) == changed


# --- a recipe that fits, as a file

TEXT = """
schema_version: 1
name: tight
language: ko
seed: 1
method: sft
base: {model: org/base, revision: main, licence: MIT}
data: [{card: card.yaml}]
train: {steps: 4, batch_tokens: 8192, rows: {max_length: 4096}}
evaluate: {prompts: [one, two]}
card: {licence: MIT}
"""


def test_the_written_recipe_extends_the_old_one_and_fits(tmp_path: Path, facts: BaseFacts) -> None:
    (tmp_path / "old.yaml").write_text(TEXT)
    sets = ["train.learning_rate=5e-4", "evaluate.prompts.1=three"]
    loaded = load_recipe(tmp_path / "old.yaml", sets)
    base = large(facts)
    room = int(0.6 * sum(make_plan(loaded.recipe, base, DATA, machine=ROOMY).memory_bytes.values()))
    plan = make_plan(loaded.recipe, base, DATA, machine=tight(room))
    assert not plan.fits
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / "fits.yaml"
    written = write_changed(loaded, plan.changes, target, plan.machine)
    assert target.read_text().startswith("# Written by `sovtune plan old.yaml --apply`")
    assert "extends: ../old.yaml" in target.read_text()
    assert written.recipe.train.learning_rate == 5e-4
    assert written.recipe.evaluate.prompts == ("one", "three")
    assert make_plan(written.recipe, base, DATA, machine=tight(room)).fits
    values = {key: value for change in plan.changes for key, value in change.values.items()}
    assert with_values(loaded.recipe, values).train == written.recipe.train


# --- the micro-batch


@pytest.mark.parametrize(
    ("length", "batch_tokens", "filled", "rows_at_once"),
    [
        (256, 2048, 250, 4),  # four rows of 250 tokens keep a CPU busy
        (256, 1280, 250, 1),  # five rows are not two or three equal micro-batches, five are more than help
        (1024, 8192, 1000, 1),
        (1024, 8192, 120, 8),  # rows that are hardly filled
    ],
)
def test_short_rows_go_together_as_far_as_it_helps(
    facts: BaseFacts, length: int, batch_tokens: int, filled: int, rows_at_once: int
) -> None:
    made = recipe(rows={"max_length": length}, batch_tokens=batch_tokens)
    data = DataSize(
        tokens=filled * 100, supervised_tokens=filled * 100, rows=100, documents=200, longest=length
    )
    plan = make_plan(made, facts, data, machine=ROOMY)
    assert plan.micro_rows == rows_at_once
    assert plan.rows_per_step == batch_tokens // length


def test_what_the_recipe_says_or_memory_allows_comes_first(facts: BaseFacts) -> None:
    base = large(facts)
    data = DataSize(tokens=25_000, supervised_tokens=25_000, rows=100, documents=200, longest=250)
    assert (
        make_plan(
            recipe(rows={"max_length": 256}, run={"micro_rows": 2}), base, data, machine=ROOMY
        ).micro_rows
        == 2
    )
    auto = recipe(rows={"max_length": 256}, batch_tokens=2048)
    four = make_plan(auto, base, data, machine=ROOMY)
    assert four.micro_rows == 4
    less = make_plan(auto, base, data, machine=tight(sum(four.memory_bytes.values()) - 1))
    assert less.micro_rows == 2
    assert less.fits


# --- corrected by a probe


def test_a_correction_moves_the_total_and_the_verdict(facts: BaseFacts) -> None:
    guess = make_plan(recipe(), facts, DATA, machine=ROOMY)
    total = sum(guess.memory_bytes.values())
    more = make_plan(recipe(), facts, DATA, machine=tight(total), correction=1)
    assert sum(more.memory_bytes.values()) == total + 1
    assert more.memory_bytes["beyond_estimate"] == 1
    assert not more.fits
    less = make_plan(recipe(), facts, DATA, machine=tight(total - 10), correction=-10)
    assert less.fits


def test_a_plan_is_read_back_as_it_was(facts: BaseFacts) -> None:
    made = recipe(rows={"max_length": 4096}, batch_tokens=8192)
    plan = make_plan(made, large(facts), DATA, machine=tight(memory.RUNTIME))
    assert plan.changes
    assert from_json(Plan, to_json(plan)) == plan
    assert json.loads(to_json(plan))["changes"][0]["values"] == {"train.run.gradient_checkpointing": True}
