"""Comparisons and judged answers: from the rows people have to documents, and from documents to masked tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.card_schema import Fields, Format
from sovtune.data.chat import IGNORE, ChatTemplate, Rendered
from sovtune.data.document import Document, Message, joined, texts_of, with_texts
from sovtune.data.gate_settings import GateSettings
from sovtune.data.gate_shard import Row
from sovtune.data.gate_steps import Kept, hide_personal_data, normalise_document
from sovtune.data.judged import check_verdicts, refuse_judged, render_judged
from sovtune.data.pack import RowLimit, pack
from sovtune.data.rows import RowFault, columns, guess_format, required, to_document
from sovtune.errors import DataRefused
from sovtune.preview import places
from tiny_models import CHATML, make_tokenizer

TOKENIZER = make_tokenizer()
TEMPLATE = ChatTemplate(CHATML, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, "<|im_end|>")
PAIRS, FEEDBACK = Format(kind="preference"), Format(kind="feedback")
ASK = {"role": "user", "content": "수도는?"}
GOOD, BAD = {"role": "assistant", "content": "서울입니다."}, {"role": "assistant", "content": "몰라."}
EARLIER = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "네."}]
PAIR = Document(
    where="a:1",
    messages=(Message("user", "수도는?"), Message("assistant", "서울입니다.")),
    rejected="몰라.",
)


def turns(*rows: dict[str, str]) -> tuple[Message, ...]:
    return tuple(Message(row["role"], row["content"]) for row in rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "수도는?", "chosen": "서울입니다.", "rejected": "몰라."},
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"messages": [ASK], "chosen": GOOD, "rejected": BAD},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": "수도는?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD], "messages": [ASK, GOOD]},
        {"prompt": "수도는?", "chosen": "서울입니다.", "rejected": "몰라.", "messages": None},
    ],
)
def test_every_shape_of_a_comparison_is_the_same_document(row: dict[str, object]) -> None:
    assert guess_format(row) == PAIRS
    assert to_document(row, PAIRS, "a:1") == (PAIR, False)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "수도는?", "completion": "몰라.", "label": False},
        {"prompt": [ASK], "completion": [BAD], "label": 0},
        {"messages": [ASK], "completion": BAD, "label": "bad"},
        {"messages": [ASK, BAD], "label": "False"},
        {"completion": [ASK, BAD], "label": 0.0},
    ],
)
def test_every_shape_of_feedback_is_the_same_document(row: dict[str, object]) -> None:
    document, _ = to_document(row, FEEDBACK, "a:1")
    assert (document.messages, document.good) == (turns(ASK, BAD), False)
    assert guess_format(row) == (
        FEEDBACK if isinstance(row["label"], bool) else guess_format({**row, "label": "x"})
    )


def test_share_gpt_names_and_a_system_message() -> None:
    format = Format(
        kind="preference", fields=Fields(messages="conversations"), role_map={"human": "user", "gpt": "assistant"},
        system="짧게.",
    )  # fmt: skip
    row = {
        "conversations": [{"from": "human", "value": "수도는?"}],
        "chosen": {"from": "gpt", "value": "서울입니다."},
        "rejected": {"from": "gpt", "value": "몰라."},
    }
    document, _ = to_document(row, format, "a:1")
    assert document.messages == (Message("system", "짧게."), *PAIR.messages)
    assert document.rejected == "몰라."
    assert columns(format) == {"prompt", "conversations", "chosen", "rejected"}
    assert required(format) == {"conversations", "chosen", "rejected"}


def test_a_column_called_label_alone_is_no_verdict() -> None:
    assert guess_format({"prompt": "a", "completion": "b", "label": "news"}) == Format(
        kind="prompt_completion"
    )
    assert guess_format({"text": "a", "label": True}) == Format(kind="text")


FAULTS = [
    (PAIRS, {"prompt": "a", "chosen": "b"}, "missing_field", 'no field "rejected"'),
    (PAIRS, {"prompt": "a", "chosen": "b", "rejected": ""}, "empty", "rejected is empty"),
    (PAIRS, {"prompt": "a", "chosen": None, "rejected": "c"}, "null", "chosen is null"),
    (PAIRS, {"prompt": "a", "chosen": [], "rejected": "c"}, "empty", "chosen is empty"),
    (PAIRS, {"prompt": "a", "chosen": "b", "rejected": "b "}, "same_answers", "the same answer"),
    (PAIRS, {"chosen": "b", "rejected": "c"}, "missing_field", 'no field "prompt"'),
    (PAIRS, {"prompt": [ASK, GOOD], "chosen": "b", "rejected": "c"}, "role_order", "expected user or tool"),
    (PAIRS, {"chosen": [ASK, GOOD], "rejected": [*EARLIER, ASK, BAD]}, "prompts_differ", "before their last turn"),
    (PAIRS, {"prompt": "a", "chosen": [ASK, GOOD], "rejected": [BAD]}, "prompts_differ", "before their last turn"),
    (PAIRS, {"prompt": "a", "chosen": [GOOD, ASK, GOOD], "rejected": [BAD]}, "answer_turns", "has 3 turns"),
    (PAIRS, {"chosen": [ASK], "rejected": [ASK]}, "no_answer", "ends with a turn of user"),
    (FEEDBACK, {"prompt": "a", "completion": "b"}, "missing_field", 'no field "label"'),
    (FEEDBACK, {"prompt": "a", "completion": "b", "label": None}, "null", "label is null"),
    (FEEDBACK, {"prompt": "a", "completion": "b", "label": 2}, "bad_label", "label is 2, expected true or false"),
    (FEEDBACK, {"prompt": "a", "completion": "b", "label": [1]}, "bad_label", "label is [1]"),
    (FEEDBACK, {"prompt": "a", "label": True}, "missing_field", 'no field "completion"'),
    (FEEDBACK, {"messages": [ASK], "label": True}, "no_answer", "ends with a turn of user"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "reason", "told"), FAULTS)
def test_rows_that_do_not_fit_say_what_is_wrong(format: Format, row: object, reason: str, told: str) -> None:
    with pytest.raises(RowFault, match=told.replace("[", r"\[")) as caught:
        to_document(row, format, "a:1")
    assert caught.value.reason == reason


# Through the data gate


TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))


@settings(max_examples=40, derandomize=True)
@given(st.lists(TEXTS, min_size=3, max_size=3), st.sampled_from(["pair", "good", "bad", "plain"]))
def test_texts_go_out_and_in_again(texts: list[str], kind: str) -> None:
    document = Document(
        where="f:4", messages=(Message("user", "q"), Message("assistant", "a")),
        rejected="r" if kind == "pair" else None, good={"good": True, "bad": False}.get(kind),
    )  # fmt: skip
    own = texts[: len(texts_of(document))]
    changed = with_texts(document, own)
    assert texts_of(changed) == tuple(own)
    assert (changed.good, changed.where) == (document.good, "f:4")
    assert Row.of_values(Row(1, 9, changed).values(), "f", 3).document == changed
    if kind == "pair":
        assert joined(changed) == "\n".join(texts)


def test_masking_and_normalising_reach_prompt_chosen_and_rejected() -> None:
    number = "010-2345-6789"
    document = Document(
        where="a:1",
        messages=(Message("user", f"{number}로 전화"), Message("assistant", f"{number}\u200b 맞습니다")),
        rejected=f"아니요, {number}\u200b",
    )
    policy = GateSettings(language="ko", candidates=("ko",), accepted=("ko",)).clean_policy
    outcome = normalise_document(document, policy)
    assert isinstance(outcome, Kept)
    assert not [text for text in texts_of(outcome.document) if "\u200b" in text]
    outcome = hide_personal_data(outcome.document, "mask", ("ko",))
    assert isinstance(outcome, Kept)
    assert not [text for text in texts_of(outcome.document) if number in text]
    assert sum(outcome.found.values()) == 3


def test_a_curated_row_is_read_again_as_what_it_was() -> None:
    for document, format in (
        (PAIR, PAIRS),
        (Document(where="a:1", messages=PAIR.messages, good=True), FEEDBACK),
    ):
        row = json.loads(json.dumps(document.as_row()))
        assert guess_format(row) == format
        assert to_document(row, format, "a:1") == (document, False)


# Rendering


def learnt(rendered: Rendered) -> list[str]:
    """The learnt text of each part."""
    found, start = [], 0
    for length in rendered.lengths:
        part = slice(start, start + length)
        pairs = zip(rendered.input_ids[part], rendered.labels[part], strict=True)
        ids = [token for token, label in pairs if label != IGNORE]
        found.append(TOKENIZER.decode(ids, skip_special_tokens=False))
        start += length
    return found


def test_only_the_two_last_answers_carry_loss() -> None:
    document = Document(where="a:1", messages=turns(*EARLIER, ASK, GOOD), rejected="몰라.")
    rendered = render_judged(document, "dpo", TEMPLATE, TOKENIZER)
    assert learnt(rendered) == ["서울입니다.<|im_end|>", "몰라.<|im_end|>"]
    chosen = rendered.input_ids[: rendered.parts[0]]
    assert chosen == TOKENIZER.encode(TEMPLATE.render(document.messages), add_special_tokens=False).ids
    assert len(rendered.input_ids) == sum(rendered.parts)


def test_a_judged_answer_keeps_its_verdict() -> None:
    document = Document(where="a:1", messages=turns(*EARLIER, ASK, BAD), good=False)
    rendered = render_judged(document, "kto", TEMPLATE, TOKENIZER)
    assert (rendered.good, learnt(rendered)) == (False, ["몰라.<|im_end|>"])
    assert rendered.lengths == (len(rendered.input_ids),)


@pytest.mark.parametrize(
    ("document", "method", "told"),
    [
        (Document(where="a:1", messages=PAIR.messages), "dpo", "a dialogue that nobody judged in a recipe with method dpo"),
        (Document(where="a:1", messages=PAIR.messages, good=True), "simpo", "use method: kto"),
        (PAIR, "kto", "use method: dpo, orpo or simpo"),
        (Document(where="a:1", text="글"), "orpo", "use method: cpt"),
        (Document(where="a:1", messages=PAIR.messages, rejected="서울입니다."), "dpo", "left no difference"),
        (Document(where="a:1", messages=PAIR.messages, rejected=" "), "dpo", "an assistant turn is empty"),
    ],
)  # fmt: skip
def test_data_of_another_method_is_refused(document: Document, method: str, told: str) -> None:
    with pytest.raises(DataRefused, match="a:1") as caught:
        render_judged(document, method, TEMPLATE, TOKENIZER)
    assert told in str(caught.value)


def test_judged_data_is_no_data_for_imitation() -> None:
    refuse_judged(Document(where="a:1", messages=PAIR.messages), "sft")
    with pytest.raises(DataRefused, match="would imitate every answer"):
        refuse_judged(PAIR, "sft")


def test_feedback_needs_both_verdicts() -> None:
    good, bad = (Rendered(input_ids=[1], labels=[1], where="a", good=verdict) for verdict in (True, False))
    check_verdicts([good, bad])
    for group, told in (([good, good], "are good"), ([bad], "are bad")):
        with pytest.raises(DataRefused, match=told):
            check_verdicts(group)


def test_a_pair_is_packed_and_dropped_as_one_piece() -> None:
    short = render_judged(PAIR, "dpo", TEMPLATE, TOKENIZER)
    long_pair = Document(where="a:2", messages=PAIR.messages, rejected="몰라. " * 40)
    long = render_judged(long_pair, "dpo", TEMPLATE, TOKENIZER)
    room = len(long.input_ids) - 1
    assert long.parts[1] <= room, "each side alone would fit"
    limit = RowLimit(room, "drop")
    assert [limit.admits(one) for one in (short, long, short)] == [True, False, True]
    assert (limit.counts, limit.tokens_cut) == ({"dropped": 1}, len(long.input_ids))
    size = len(short.input_ids)
    assert list(pack([size, size, size], 2 * size + 5)) == [[0, 1], [2]]


def test_the_preview_says_which_answer_is_which() -> None:
    assert places(["a:1"], [5, 6]) == ["a:1, chosen answer", "a:1, rejected answer"]
    assert places(["a:1", "a:2"], [5, 6], [1, 0]) == ["a:1, good answer", "a:2, bad answer"]
    assert places(["a:1", "a:2"], [5, 6]) == ["a:1", "a:2"]
