"""Makes a small but complete run folder for the publish tests."""

import json
import struct
from pathlib import Path

from sovtune.records import DataReport, DataSetRecord, Decision, EvalReport, GateResult, to_json

BASE, REVISION = "org/tiny-base", "0123456789abcdef0123456789abcdef01234567"


def safetensors(values: int = 64) -> bytes:
    """A valid safetensors file with one float32 tensor."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    header = {
        name: {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack(f"<{values}f", *range(values))


def adapter_config(**changes: object) -> str:
    """What peft writes, as far as publishing looks at it."""
    config: dict[str, object] = {
        "peft_type": "LORA", "base_model_name_or_path": BASE, "revision": REVISION, "auto_mapping": None,
    }  # fmt: skip
    return json.dumps(config | changes, indent=2)


def eval_json(*, passed: bool = True) -> str:
    """An evaluation with one gate."""
    gate = GateResult(name="english_loss", limit=3.0, measured=1.0 if passed else 9.5, passed=passed)
    return to_json(
        EvalReport(scores=(), samples=(), gates=(gate,), decoding="greedy", bootstrap="-", seconds=1.0)
    )


def data_json(
    *, licence_policy: str = "strict", decisions: tuple[Decision, ...] = (), **states: object
) -> str:
    """One data set; ``states`` are what its card says, such as its sensitivity."""
    entry = DataSetRecord(
        card_id="letters", version="1", title="letters", licence="CC0-1.0", languages={"ko": 1.0}, source="own",
        personal_data="none", files=(), rows_read=1, rows_used=1, dropped={}, tokens=9, supervised_tokens=9,
        share_asked=None, share_reached=1.0, **states,
    )  # fmt: skip
    return to_json(
        DataReport(
            cache_key="0", datasets=(entry,), documents=1, rows=1, tokens=9, supervised_tokens=9, max_length=9,
            longest_document=9, overlong={}, tokens_cut=0, row_fill=1.0, template_sha256="0", template_source="-",
            tokenizer_sha256="0", stop_token="-", licence_policy=licence_policy, decisions=decisions,
        )
    )  # fmt: skip


def make_run(folder: Path) -> Path:
    """A finished run as the other stages leave it, with things that must stay home."""
    files = {
        "README.md": "---\nlicense: apache-2.0\n---\n# 한국어 어댑터\n",
        "recipe.lock.yaml": "name: tiny\n",
        "eval.json": eval_json(),
        "data.json": data_json(sensitivity="public"),
        "train.json": "{}\n",
        "report.html": '<html dir="rtl">تقرير</html>\n',
        "LICENSE": "Apache-2.0\n",
        "adapter/adapter_config.json": adapter_config(),
        "adapter/tokenizer.json": '{"model": {"vocab": {"/home/kim": 0}}}\n',
        "adapter/tokenizer_config.json": "{}\n",
        "adapter/chat_template.jinja": "{{ messages }}\n",
        # stays home
        "adapter/README.md": "base_model: /home/kim/base\n",
        "checkpoints/step-2/optimizer.txt": "state\n",
        "metrics.jsonl": '{"host": "gpu"}\n',
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "adapter/adapter_model.safetensors").write_bytes(safetensors())
    (folder / "adapter/training_args.bin").write_bytes(b"\x80\x04pickle")
    return folder


PUBLISHED = {
    "README.md", "recipe.lock.yaml", "eval.json", "data.json", "train.json", "report.html", "LICENSE",
    "SHA256SUMS", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja",
}  # fmt: skip
"""Exactly what of ``make_run`` is published."""
