"""A tiny model learns from another one: fast beside plain, cut and packed otherwise, interrupted, from a larger vocabulary."""

from __future__ import annotations

import io
import json

import pytest
import torch
from datasets import Dataset
from rich.console import Console

from sovtune import teach_command
from sovtune.base import resolve
from sovtune.errors import EnvironmentFault
from sovtune.fastpath.distil_loss import Shape, Taught, distillation_loss
from sovtune.fastpath.loss import next_token_loss
from sovtune.model import load_teacher
from sovtune.progress import Reporter
from sovtune.recipe import Recipe
from sovtune.recipe_base import Base, Mirror, Quantisation
from sovtune.train.group import ALONE
from sovtune.train.out_of_memory import pieces
from sovtune.train.rows import FlatCollator, PaddedCollator, digest
from sovtune.train.taught import TaughtCollator, TaughtRows, TaughtStore, learnt_places
from sovtune.train.teacher import Teacher, grouped
from tiny_models import make_base
from tiny_runs import losses, make_recipe, make_rows, train

TOP = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, and a teacher with the same tokens."""
    folder = tmp_path_factory.mktemp("models")
    return make_base(folder / "base"), make_base(folder / "teacher", "qwen2", seed=4, hidden=64)


def taught_recipe(**settings) -> Recipe:
    """The usual tiny recipe with a teacher."""
    distil = {name: settings.pop(name) for name in ("weight", "temperature") if name in settings}
    values = make_recipe(**settings).model_dump(mode="json")
    teacher = {"model": "test/large", "revision": "main", "licence": "Apache-2.0"}
    values["distil"] = {"teacher": teacher, "top": TOP, **distil}
    return Recipe.model_validate(values)


def ask(recipe: Recipe, teacher, *, words: int | None = None) -> Teacher:
    """The teacher, loaded as a run loads it, unquantised and in fp32."""
    loaded = load_teacher(recipe, Quantisation(kind="none", compute="float32"), teacher)
    words = words or loaded.model.config.vocab_size
    return Teacher(loaded.model, fast=loaded.fast, section=recipe.distil, words=words)


def read(recipe: Recipe, teacher, rows, folder, *, tokens: int = 64) -> TaughtStore:
    """A store in which the teacher has read the rows."""
    store = TaughtStore(folder, TOP)
    new = (rows[at] for at in store.missing(names_of(rows)))
    list(store.add(grouped(new, tokens), ask(recipe, teacher)))
    return store


def names_of(rows) -> list[str]:
    return [digest(row) for row in rows]


def test_both_engines_hear_and_learn_the_same(models, tmp_path):
    base, teacher = models
    rows = make_rows(12)
    found = {}
    for engine in ("auto", "plain"):
        recipe = taught_recipe(engine=engine, temperature=2.0)
        store = read(recipe, teacher, rows, tmp_path / f"store-{engine}")
        found[engine] = store, losses(train(recipe, base, tmp_path / engine, rows, taught=store))
    everything = range(found["auto"][0].places)
    fast, plain = (found[engine][0].at(everything) for engine in ("auto", "plain"))
    assert (fast.ids == plain.ids).all()
    assert torch.allclose(fast.log_probs, plain.log_probs, atol=1e-5)
    assert found["auto"][1] == pytest.approx(found["plain"][1], abs=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "phi", "cohere"])
def test_the_store_holds_what_the_teacher_says(tmp_path, kind):
    """Against transformers' own forward pass of one document, with the text's places counted by hand.

    qwen2 is read by the fast engine; phi's output layer has a bias, cohere scales its logits.
    """
    teacher = make_base(tmp_path / kind, kind, seed=4)
    recipe, rows = taught_recipe(), make_rows(5)
    store = read(recipe, teacher, rows, tmp_path / "store")
    model = ask(recipe, teacher).model
    model.set_attn_implementation("eager")
    row = rows[2]
    ids = torch.tensor([row["input_ids"][: row["lengths"][0]]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0], -1)
    places = [at for at in range(1, ids.shape[1]) if row["labels"][at] != -100]
    found = store.at([place for place in TaughtRows(rows, store)[2]["taught"] if place >= 0][: len(places)])
    for at, kept_ids, kept in zip(places, *found, strict=True):
        assert kept[:-1] == pytest.approx(log_p[at - 1][kept_ids], abs=1e-4)
        assert kept[:-1].min() >= log_p[at - 1].topk(TOP).values.min() - 1e-4
        assert float(kept.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_how_a_step_is_cut_does_not_matter(models, tmp_path):
    base, teacher = models
    rows = make_rows(16)
    found = []
    for micro_rows in (1, 2):
        recipe = taught_recipe(micro_rows=micro_rows)
        store = read(recipe, teacher, rows, tmp_path / "store")
        run = tmp_path / f"run-{micro_rows}"
        found.append(losses(train(recipe, base, run, rows, steps=4, rows_per_step=4, taught=store)))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_packing_does_not_matter(models, tmp_path):
    base, teacher = models
    packed = [row for row in make_rows(30) if len(row["lengths"]) == 2][:8]
    single = []
    for row in packed:
        middle = row["lengths"][0]
        for part, length in ((slice(0, middle), middle), (slice(middle, None), row["lengths"][1])):
            single.append(
                {"input_ids": row["input_ids"][part], "labels": row["labels"][part], "lengths": [length]}
            )
    found = []
    for rows_per_step, rows in ((2, packed), (4, single)):
        recipe = taught_recipe()
        data = Dataset.from_list(rows)
        store = read(recipe, teacher, data, tmp_path / "store")
        run = tmp_path / f"run-{rows_per_step}"
        found.append(
            losses(train(recipe, base, run, data, steps=4, rows_per_step=rows_per_step, taught=store))
        )
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("collator", [FlatCollator(), PaddedCollator(0)], ids=["flat", "padded"])
def test_a_row_cut_for_memory_keeps_its_teacher(models, tmp_path, collator):
    _, teacher = models
    rows = make_rows(4, seed=2)
    store = read(taught_recipe(), teacher, rows, tmp_path / "store")
    taught = TaughtRows(rows, store)
    collate = TaughtCollator(collator, store)
    whole = collate([taught[at] for at in range(4)])
    parts = [collate(piece) for piece in pieces([taught[at] for at in range(4)], 4)]
    assert len(parts) > 4
    for name in ("taught_ids", "taught_log_probs"):
        assert (torch.cat([part[name] for part in parts]) == whole[name]).all()
    assert len(whole["taught_ids"]) == sum(sum(learnt_places(row)) for row in rows)


def test_the_model_comes_nearer_to_its_teacher(models, tmp_path):
    base, teacher = models
    rows = make_rows(8, seed=5)
    recipe = taught_recipe(weight=1.0)
    store = read(recipe, teacher, rows, tmp_path / "store")
    often = Dataset.from_list(5 * list(rows))
    found = losses(train(recipe, base, tmp_path / "run", often, steps=20, taught=store))
    passes = [sum(found[at : at + 4]) for at in range(0, 20, 4)]
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] < 0.95 * passes[0]


def test_what_a_killed_process_left_is_gone_on_from(models, tmp_path):
    """Half a line, numbers without a line, a line without its numbers: as if the teacher had read without a break."""
    _, teacher = models
    recipe, rows = taught_recipe(), make_rows(9, seed=3)
    straight = read(recipe, teacher, rows, tmp_path / "straight", tokens=1)
    broken = TaughtStore(tmp_path / "broken", TOP)
    written = broken.add(grouped(rows, 1), ask(recipe, teacher))
    for _ in range(4):
        next(written)
    written.close()
    with (tmp_path / "broken" / "ids.bin").open("ab") as stream:
        stream.write(b"\1" * 70)
    with (tmp_path / "broken" / "rows.jsonl").open("a") as stream:
        stream.write('{"row": "0000", "places": 3}\n{"row": "00')
    again = TaughtStore(tmp_path / "broken", TOP)
    assert again.missing(names_of(rows)) == [4, 5, 6, 7, 8]
    read(recipe, teacher, rows, tmp_path / "broken", tokens=1)
    for name in ("ids.bin", "log_probs.bin", "rows.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert straight.covered(names_of(rows)) == TaughtStore(tmp_path / "broken", TOP).covered(names_of(rows))


@pytest.mark.parametrize("places", [[], [4], [2, 3, 4], [7, 8, 0, 1, 1, 5], list(range(20))])
def test_any_places_can_be_read(models, tmp_path, places):
    _, teacher = models
    store = read(taught_recipe(), teacher, make_rows(4), tmp_path / "store")
    whole = store.at(range(store.places))
    for part, of in zip(store.at(places), whole, strict=True):
        assert part.shape == (len(places), of.shape[1])
        assert (part == of[places]).all()


def test_only_new_rows_are_asked_about(models, tmp_path):
    _, teacher = models
    recipe, rows = taught_recipe(), make_rows(6)
    read(recipe, teacher, rows.select([0, 1, 2]), tmp_path / "store")
    store = TaughtStore(tmp_path / "store", TOP)
    assert store.missing(names_of(rows)) == [3, 4, 5]
    assert store.missing(names_of([rows[5], rows[0], rows[5]])) == [0]


def test_rows_of_the_teacher_that_mean_nothing_are_never_kept(models):
    """Bases of one family pad their vocabularies differently."""
    _, teacher = models
    words = 200
    found = ask(taught_recipe(), teacher, words=words)([make_rows(1)[0]])
    assert found.ids.max() < words
    assert found.log_probs.exp().sum(1) == pytest.approx(1, abs=1e-5)


def test_a_teacher_that_knows_the_text_is_the_text(models, tmp_path):
    """All probability on the next token of the text: the divergence is its cross entropy."""
    rows = make_rows(3)
    row = {
        name: [value for one in rows for value in one[name]] for name in ("input_ids", "labels", "lengths")
    }
    batch = FlatCollator()([row])
    hidden, head = torch.randn(1, len(row["input_ids"]), 8), torch.randn(320, 8)
    targets = batch["labels"][0, 1:][batch["labels"][0, 1:] != -100]
    certain = torch.tensor([[0.0, -1e4]]).repeat(len(targets), 1)
    taught = Taught(targets[:, None], certain)
    ways = [
        distillation_loss(hidden, head, batch["labels"], taught, Shape(weight, 1.0)).item()
        for weight in (0.3, 1.0)
    ]
    assert ways == pytest.approx([next_token_loss(hidden, head, batch["labels"]).item()] * 2, rel=1e-5)


def test_the_list_is_plain(models, tmp_path):
    """What stands in the cache can be read without sovtune."""
    _, teacher = models
    rows = make_rows(2)
    store = read(taught_recipe(), teacher, rows, tmp_path / "store")
    listed = [json.loads(line) for line in (tmp_path / "store" / "rows.jsonl").read_text().splitlines()]
    assert [entry["places"] for entry in listed] == [sum(learnt_places(row)) for row in rows]
    assert (tmp_path / "store" / "ids.bin").stat().st_size == 4 * TOP * store.places
    assert (tmp_path / "store" / "log_probs.bin").stat().st_size == 4 * (TOP + 1) * store.places


def test_a_lack_of_memory_is_named(models, tmp_path, monkeypatch):
    """With the allocator's error in the place where the teacher is loaded; what was read before stays."""
    base, teacher = models
    monkeypatch.setenv("SOVTUNE_HOME", str(tmp_path / "home"))
    section = Base(
        model="test/large", revision="main", licence="Apache-2.0", mirrors=(Mirror(folder=str(teacher)),)
    )
    recipe = taught_recipe()
    lesson = teach_command.Lesson(
        recipe=recipe, section=recipe.distil, base=base, teacher=resolve(section, root=tmp_path)
    )
    report = Reporter(Console(file=io.StringIO()))

    def no_room(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("sovtune.model.load_teacher", no_room)
    with (
        pytest.raises(EnvironmentFault, match="while the teacher reads the rows") as caught,
        teach_command.taught(lesson, make_rows(2), ALONE, report),
    ):
        pass
    assert "distil.teacher.quantisation.kind: nf4" in caught.value.fix
