"""The peers that training is compared with: their environments and the commands that make them do the same work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = Path.home() / ".cache" / "sovtune-bench"
PEERS = {
    "trl": ("trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "datasets==5.2.0", "accelerate==1.15.0"),
    "llamafactory": ("llamafactory==0.9.5",),
    "swift": ("ms-swift==4.6.0",),
}
EVERYWHERE = ("torch==2.13.0", "bitsandbytes==0.50.2")
ROOT = Path(__file__).parent.parent
OWN = ("-c", str(ROOT / "scripts" / "constraints.txt"), "-e", str(ROOT))
"""What the quickstart installs; a developer has more, and transformers imports some of it when it is there."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML as LLaMA-Factory writes it: no system text, and the answer learns its end and the line end."""


@dataclass(frozen=True)
class Work:
    """One job: where its files are, how long rows are, how many go through the model at once."""

    name: str
    kind: str
    length: int
    batch: int
    folder: Path
    rows: list[dict[str, list[int]]] = field(repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(row["input_ids"]) for row in self.rows)

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return sum(label != -100 for row in self.rows for label in row["labels"][1:])


def programs(peer: str) -> Path:
    """The folder of the programs of a peer or of sovtune; its environment is made when it is not there."""
    place = HOME / peer
    if not (place / "made").exists():
        print(f"making the environment of {peer}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run(
            [str(place / "bin" / "pip"), "install", "-q", *EVERYWHERE, *(PEERS | {"sovtune": OWN})[peer]],
            check=True,
            stdout=sys.stderr,
        )
        # The index has torchvision and torchaudio for CUDA only; beside a CPU build of torch they cannot be imported.
        extra = ["torchvision", "torchaudio"]
        subprocess.run(
            [str(place / "bin" / "pip"), "uninstall", "-q", "-y", *extra], check=True, stdout=sys.stderr
        )
        if peer == "llamafactory":  # it imports torchaudio at start, and uses it for audio data only
            site = next(place.glob("lib/python3*/site-packages"))
            (site / "torchaudio.py").write_text(
                '"""Empty: there is no build for CPUs."""\n', encoding="utf-8"
            )
        (place / "made").touch()
    return place / "bin"


def fresh(folder: Path) -> str:
    """An output folder without what an earlier run left; LLaMA-Factory refuses to write beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


def trl_command(work: Work, base: Path) -> list[str]:
    """`trl sft` on the same tokens."""
    (work.folder / "chatml.jinja").write_text(TEMPLATE, encoding="utf-8")
    chat = ["--chat_template_path", str(work.folder / "chatml.jinja"), "--assistant_only_loss", "true"]
    data = work.folder / "trl"
    data.mkdir(exist_ok=True)
    (data / "train.jsonl").write_bytes((work.folder / "train.jsonl").read_bytes())
    return [
        str(programs("trl") / "trl"), "sft", "--model_name_or_path", str(base), "--dataset_name", str(data),
        *(chat if work.kind == "chat" else []), "--max_length", str(work.length), "--load_in_4bit", "true",
        "--bnb_4bit_quant_type", "nf4", "--use_bnb_nested_quant", "true", "--dtype", "bfloat16", "--use_peft", "true",
        "--lora_r", "16", "--lora_alpha", "32", "--lora_dropout", "0", "--lora_target_modules", *TARGETS,
        "--per_device_train_batch_size", str(work.batch), "--gradient_accumulation_steps", "1",
        "--gradient_checkpointing", "false", "--train_sampling_strategy", "sequential",
        *common(), "--output_dir", fresh(work.folder / "trl-out"),
    ]  # fmt: skip


def common() -> list[str]:
    """What trl and ms-swift write alike."""
    return [
        "--learning_rate", "2e-4", "--lr_scheduler_type", "cosine", "--warmup_steps", "0", "--weight_decay", "0",
        "--num_train_epochs", "1", "--bf16", "true", "--use_cpu", "true", "--logging_steps", "1",
        "--save_strategy", "no", "--report_to", "none", "--include_num_input_tokens_seen", "true",
        "--disable_tqdm", "true", "--seed", "42",
    ]  # fmt: skip


def llamafactory_command(work: Work, base: Path) -> list[str]:
    """`llamafactory-cli train` on the same tokens; its own checkpointing default is turned off."""
    chat = work.kind == "chat"
    columns = {"messages": "messages"} if chat else {"prompt": "text"}
    entry: dict[str, Any] = {"file_name": str(work.folder / "train.jsonl"), "columns": columns}
    if chat:
        tags = {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        }
        entry |= {"formatting": "sharegpt", "tags": tags}
    (work.folder / "dataset_info.json").write_text(json.dumps({"bench": entry}), encoding="utf-8")
    settings = {
        "model_name_or_path": str(base), "stage": "sft" if chat else "pt", "do_train": True,
        "finetuning_type": "lora", "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0,
        "lora_target": ",".join(TARGETS), "quantization_bit": 4, "quantization_method": "bnb",
        "quantization_type": "nf4", "double_quantization": True, "dataset": "bench",
        "dataset_dir": str(work.folder), "template": "chatml", "cutoff_len": work.length, "packing": False,
        "per_device_train_batch_size": work.batch, "gradient_accumulation_steps": 1, "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine", "warmup_steps": 0, "num_train_epochs": 1, "bf16": True, "use_cpu": True,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_shuffling": True,
        "disable_gradient_checkpointing": True, "overwrite_cache": True, "include_num_input_tokens_seen": True,
        "disable_tqdm": True, "output_dir": fresh(work.folder / "lf-out"), "seed": 42, "weight_decay": 0.0,
    }  # fmt: skip
    config = work.folder / "llamafactory.yaml"  # JSON is YAML, and its reader of .json fails
    config.write_text(json.dumps(settings), encoding="utf-8")
    return [str(programs("llamafactory") / "llamafactory-cli"), "train", str(config)]


def swift_command(work: Work, base: Path) -> list[str]:
    """`swift sft` (or `swift pt`) on the same tokens."""
    return [
        str(programs("swift") / "swift"), "sft" if work.kind == "chat" else "pt", "--model", str(base),
        "--model_type", "llama", "--template", "chatml", "--tuner_type", "lora", "--quant_method", "bnb",
        "--quant_bits", "4", "--bnb_4bit_quant_type", "nf4", "--bnb_4bit_use_double_quant", "true",
        "--bnb_4bit_compute_dtype", "bfloat16", "--torch_dtype", "bfloat16",
        "--dataset", str(work.folder / "train.jsonl"), "--max_length", str(work.length), "--lora_rank", "16",
        "--lora_alpha", "32", "--lora_dropout", "0", "--target_modules", *TARGETS,
        "--per_device_train_batch_size", str(work.batch), "--gradient_accumulation_steps", "1",
        "--gradient_checkpointing", "false", "--dataset_shuffle", "false", "--train_dataloader_shuffle", "false",
        "--split_dataset_ratio", "0", "--attn_impl", "sdpa", *common(),
        "--output_dir", fresh(work.folder / "swift-out"),
    ]  # fmt: skip


COMMANDS = {"trl": trl_command, "llamafactory": llamafactory_command, "swift": swift_command}
