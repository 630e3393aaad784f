"""Rendering and masking: what carries loss, what does not, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data.chat import IGNORE, ChatTemplate, render_chat, render_text
from sovtune.data.document import Document, Message
from sovtune.errors import DataRefused
from tiny_models import CHATML, make_tokenizer

TOKENIZER = make_tokenizer()
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
TEMPLATE = ChatTemplate(CHATML, SPECIAL, "<|im_end|>")


def dialogue(*turns: tuple[str, str]) -> Document:
    return Document(where="rows.jsonl:7", messages=tuple(Message(role, text) for role, text in turns))


def learnt(rendered) -> str:
    ids = [token for token, label in zip(rendered.input_ids, rendered.labels, strict=True) if label != IGNORE]
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def test_only_answers_and_their_stop_token_carry_loss():
    document = dialogue(
        ("system", "짧게 답하세요."),
        ("user", "안녕?"),
        ("assistant", "네, 안녕하세요."),
        ("user", "مرحبا"),
        ("assistant", "أهلا"),
    )
    rendered = render_chat(document, TEMPLATE, TOKENIZER)
    assert learnt(rendered) == "네, 안녕하세요.<|im_end|>أهلا<|im_end|>"


def test_ids_are_exactly_those_of_the_whole_text():
    document = dialogue(("user", "a b"), ("assistant", " c\n\nd "))
    rendered = render_chat(document, TEMPLATE, TOKENIZER)
    assert (
        rendered.input_ids
        == TOKENIZER.encode(TEMPLATE.render(document.messages), add_special_tokens=False).ids
    )


def test_the_template_is_that_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tiny_models import make_base

    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(make_base(tmp_path / "base")))
    source = (
        "{%- for m in messages %}\n  {%- if loop.first and m.role == 'system' %}[S]{{ m.content | trim }}"
        "{% else %}[{{ m.role }}]{{ m.content | tojson }}<|im_end|>\n{% endif %}\n{%- endfor %}"
    )
    messages = [Message("system", " 규칙 "), Message("user", '안녕 "따옴표" <b>'), Message("assistant", "응")]
    as_dicts = [{"role": message.role, "content": message.content} for message in messages]
    expected = theirs.apply_chat_template(as_dicts, chat_template=source, tokenize=False)
    assert ChatTemplate(source, SPECIAL, "<|im_end|>").render(messages) == expected


def test_generation_marks_of_other_trainers_change_nothing():
    marked = (
        CHATML.replace("message['content'] + '<|im_end|>'", "message['content'] + '<|im_end|>'")
        .replace("{{ '<|im_start|>'", "{% generation %}{{ '<|im_start|>'", 1)
        .replace("{% endfor %}", "{% endgeneration %}{% endfor %}", 1)
    )
    messages = dialogue(("user", "a"), ("assistant", "b")).messages
    assert ChatTemplate(marked, SPECIAL, "<|im_end|>").render(messages) == TEMPLATE.render(messages)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([("user", "질문뿐")], "no assistant turn"),
        ([("user", "질문"), ("assistant", "  ")], "assistant turn is empty"),
        ([("user", "질문"), ("assistant", "답<|im_end|>더")], "contains '<|im_end|>'"),
    ],
)
def test_dialogues_that_teach_nothing_or_the_wrong_thing_are_refused(turns, said):
    with pytest.raises(DataRefused, match=said.replace("|", r"\|")) as caught:
        render_chat(dialogue(*turns), TEMPLATE, TOKENIZER)
    assert caught.value.where == "rows.jsonl:7"


def test_a_template_without_stop_token_is_refused():
    template = ChatTemplate(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", SPECIAL, "<|im_end|>"
    )
    with pytest.raises(DataRefused, match="does not end an answer"):
        render_chat(dialogue(("user", "a"), ("assistant", "b")), template, TOKENIZER)


def test_a_template_that_rewrites_history_is_refused_for_several_answers():
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and not loop.last %}(earlier){% else %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = ChatTemplate(source, SPECIAL, "<|im_end|>")
    render_chat(dialogue(("user", "a"), ("assistant", "b")), template, TOKENIZER)
    with pytest.raises(DataRefused, match="differently when turns follow"):
        render_chat(
            dialogue(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
            template,
            TOKENIZER,
        )


def test_a_doubled_bos_is_refused():
    template = ChatTemplate("<|im_start|>" + CHATML, SPECIAL, "<|im_end|>")
    with pytest.raises(DataRefused, match="twice"):
        render_chat(dialogue(("user", "a"), ("assistant", "b")), template, TOKENIZER)


def test_templates_run_in_a_sandbox():
    with pytest.raises(DataRefused, match="refuses this dialogue"):
        ChatTemplate("{{ messages.__class__.__mro__ }}", SPECIAL, "x").render([Message("user", "a")])
    with pytest.raises(DataRefused, match="not valid Jinja"):
        ChatTemplate("{% for %}", SPECIAL, "x")


words = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="<|>"), min_size=1, max_size=30
)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.tuples(words, words.filter(str.strip)), min_size=1, max_size=4))
def test_any_dialogue_keeps_its_text_and_masks_every_question(pairs):
    turns = [turn for question, answer in pairs for turn in (("user", question), ("assistant", answer))]
    document = dialogue(*turns)
    rendered = render_chat(document, TEMPLATE, TOKENIZER)
    text = TOKENIZER.normalizer.normalize_str(TEMPLATE.render(document.messages))
    assert TOKENIZER.decode(rendered.input_ids, skip_special_tokens=False) == text
    assert all(
        label in (IGNORE, token) for token, label in zip(rendered.input_ids, rendered.labels, strict=True)
    )
    stop = TOKENIZER.token_to_id("<|im_end|>")
    assert sum(label == stop for label in rendered.labels) == len(pairs)
    answers = "".join(TOKENIZER.normalizer.normalize_str(answer) + "<|im_end|>" for _, answer in pairs)
    assert answers.endswith(learnt(rendered)[-10:])
    assert len(learnt(rendered)) <= len(answers)


def test_running_text_carries_loss_everywhere_and_ends():
    rendered = render_text(Document(where="x:1", text="하늘은 파랗습니다."), TOKENIZER, bos=1, eos=2)
    assert rendered.input_ids[0] == 1
    assert rendered.input_ids[-1] == 2
    assert rendered.labels == rendered.input_ids
    assert rendered.supervised == len(rendered.input_ids) - 1
    with pytest.raises(DataRefused, match="empty"):
        render_text(Document(where="x:1", text=""), TOKENIZER, bos=1, eos=2)
