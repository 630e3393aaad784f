"""Named GPUs: memory, peak speed, memory bandwidth and board power as their vendors state them; nothing measured.

Speeds are dense (without structured sparsity) products of 16-bit numbers summed in fp32, which is what training does;
some data sheets print the double for sparse matrices, and GeForce cards halve the rate for sums in fp32. A GPU
without bfloat16 units has its fp32 speed here, in which it computes such products.
"""

from __future__ import annotations

from dataclasses import dataclass

from sovtune.errors import UsageError

GIB = 2**30
INLINE_ECC = 15 / 16
"""GDDR6 cards of data centres keep error correction in the memory itself: a sixteenth of it (24 GB -> 22.5 GiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One board.

    ``memory_gib`` is what a process may use; ``watts`` the board's limit, None where no data sheet of the vendor
    tells it; ``bfloat16`` says whether its matrix units know that format.
    """

    name: str
    memory_gib: float
    teraflops: float
    gigabytes_per_second: float | None
    watts: int | None
    source: str
    bfloat16: bool = True


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="rtx-3060-12gb",
            memory_gib=12,
            teraflops=25.5,
            gigabytes_per_second=360,
            watts=170,
            source="NVIDIA GeForce RTX 3060 page (28 SM, 1.78 GHz, 12 GB, 170 W); 512 FLOP per SM and cycle with fp32 "
            "sums: NVIDIA Ampere GA102 GPU Architecture whitepaper",
        ),
        Gpu(
            name="rtx-4090-24gb",
            memory_gib=24,
            teraflops=165.2,
            gigabytes_per_second=1008,
            watts=450,
            source="NVIDIA Ada GPU Architecture whitepaper, appendix A, GeForce RTX 4090",
        ),
        Gpu(
            name="rtx-5090-32gb",
            memory_gib=32,
            teraflops=209.5,
            gigabytes_per_second=1792,
            watts=575,
            source="NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A, GeForce RTX 5090",
        ),
        Gpu(
            name="t4-16gb",
            memory_gib=16 * INLINE_ECC,
            teraflops=8.1,
            gigabytes_per_second=320,
            watts=70,
            source="NVIDIA T4 Tensor Core GPU data sheet: 8.1 in fp32 (65 in float16, which sovtune does not train in)",
            bfloat16=False,
        ),
        Gpu(
            name="v100-32gb",
            memory_gib=32,
            teraflops=15.7,
            gigabytes_per_second=900,
            watts=300,
            source="NVIDIA V100 Tensor Core GPU data sheet, SXM2: 15.7 in fp32 (125 in float16, which sovtune does not "
            "train in)",
            bfloat16=False,
        ),
        Gpu(
            name="a10-24gb",
            memory_gib=24 * INLINE_ECC,
            teraflops=125,
            gigabytes_per_second=600,
            watts=150,
            source="NVIDIA A10 Tensor Core GPU data sheet",
        ),
        Gpu(
            name="l4-24gb",
            memory_gib=24 * INLINE_ECC,
            teraflops=121,
            gigabytes_per_second=300,
            watts=72,
            source="NVIDIA L4 Tensor Core GPU data sheet (242 with sparsity)",
        ),
        Gpu(
            name="l40s-48gb",
            memory_gib=48 * INLINE_ECC,
            teraflops=362,
            gigabytes_per_second=864,
            watts=350,
            source="NVIDIA L40S data sheet",
        ),
        Gpu(
            name="rtx-a6000-48gb",
            memory_gib=48 * INLINE_ECC,
            teraflops=154.8,
            gigabytes_per_second=768,
            watts=300,
            source="NVIDIA RTX A6000 data sheet (309.7 with sparsity)",
        ),
        Gpu(
            name="a100-40gb",
            memory_gib=40,
            teraflops=312,
            gigabytes_per_second=1555,
            watts=400,
            source="NVIDIA A100 Tensor Core GPU data sheet, SXM4 40 GB",
        ),
        Gpu(
            name="a100-80gb",
            memory_gib=80,
            teraflops=312,
            gigabytes_per_second=2039,
            watts=400,
            source="NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB",
        ),
        Gpu(
            name="h100-80gb",
            memory_gib=80,
            teraflops=989.4,
            gigabytes_per_second=3350,
            watts=700,
            source="NVIDIA H100 Tensor Core GPU data sheet, SXM5 (1,979 with sparsity)",
        ),
        Gpu(
            name="h200-141gb",
            memory_gib=141e9 / GIB,
            teraflops=989.4,
            gigabytes_per_second=4800,
            watts=700,
            source="NVIDIA H200 Tensor Core GPU data sheet, SXM (1,979 with sparsity)",
        ),
        Gpu(
            name="mi300x-192gb",
            memory_gib=192,
            teraflops=1307.4,
            gigabytes_per_second=5300,
            watts=750,
            source="AMD Instinct MI300X data sheet",
        ),
        Gpu(
            name="910b-64gb",
            memory_gib=64,
            teraflops=280,
            gigabytes_per_second=None,
            watts=None,
            source="Huawei has no public data sheet of the Ascend 910B; 64 GB and 280 TFLOPS as a cloud that lends it "
            "says (ai.gitee.com/docs/compute/clusters_gpu/ascend_gpu, read 2026-11); versions differ",
        ),
    )
}
SHORT_NAMES = {
    "3060-12gb": "rtx-3060-12gb",
    "4090": "rtx-4090-24gb",
    "5090": "rtx-5090-32gb",
    "t4": "t4-16gb",
    "v100": "v100-32gb",
    "a10": "a10-24gb",
    "l4": "l4-24gb",
    "l40s": "l40s-48gb",
    "a6000": "rtx-a6000-48gb",
    "a100": "a100-40gb",
    "h100": "h100-80gb",
    "h200": "h200-141gb",
    "mi300x": "mi300x-192gb",
    "910b": "910b-64gb",
}
"""Other names people use."""


def find_gpu(name: str) -> Gpu:
    """A GPU by its name in the table, or a short one; capitals, spaces and underscores do not matter.

    Raises:
        UsageError: the table does not know it.
    """
    from difflib import get_close_matches

    wanted = name.strip().lower().replace(" ", "-").replace("_", "-")
    found = GPUS.get(SHORT_NAMES.get(wanted, wanted))
    if found is None:
        near = get_close_matches(wanted, [*GPUS, *SHORT_NAMES], n=1)
        raise UsageError(
            f"no GPU is called {name}" + (f" (did you mean {near[0]}?)" if near else ""),
            where="--gpu",
            fix=f"known are {', '.join([*GPUS, *SHORT_NAMES])}",
        )
    return found
