"""Checks of what computes: torch and its build, devices, CPU features, threads, and a real NF4 layer."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sovtune.gpu_kernels import choose_kernels

GIB = 2**30
CPUINFO = Path("/proc/cpuinfo")
NF4_TOLERANCE = 0.02
"""Relative error of a bf16 product against fp32; bf16 keeps 8 bits, sums of 128 stay near 0.004."""
NF4_ROUNDING = (0.05, 0.15)
"""Relative error of NF4 itself on normally distributed weights; 0.09 to 0.10 when it is right."""
# Plug-ins for torch -> name of their device, as facts of accelerate's own search order.
_PLUGINS = {
    "torch_npu": "npu",
    "torch_musa": "musa",
    "torch_mlu": "mlu",
    "torch_sdaa": "sdaa",
    "torch_br": "supa",
}
_NOT_HERE = (ImportError, OSError, RuntimeError, AttributeError, AssertionError)
"""What torch and bitsandbytes raise for a device they were not built for (torch asserts)."""
_PLAIN_BASE = "--set adapter.kind=lora --set base.quantisation.kind=none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: ``value`` is what was found, ``fix`` the command when it is not ok."""

    name: str
    status: Literal["ok", "warn", "fail"]
    value: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4Errors:
    """Relative errors (Euclidean norms): of rounding to NF4, of the forward and of the backward product."""

    rounding: float
    forward: float
    backward: float


def device_checks() -> list[Check]:
    """Torch, its devices, the CPU, threads and NF4, in this order; only torch when it cannot be imported."""
    torch_found = check_torch()
    if torch_found.status == "fail":
        return [torch_found]
    checks = [torch_found, *check_accelerators(), check_engine(), check_cpu(CPUINFO), check_threads()]
    return [*checks, check_nf4("cuda" if _has_cuda() else "cpu")]


def check_torch() -> Check:
    """Version and build of torch."""
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        return Check(
            name="torch", status="fail", value=reason, fix="python -m pip install --force-reinstall torch"
        )
    return Check(
        name="torch",
        status="ok",
        value=f"{torch.__version__}, {_build(torch.version.cuda, torch.version.hip)}",
    )


def _build(cuda: str | None, hip: str | None) -> str:
    if hip:
        return f"ROCm {hip}"
    return f"CUDA {cuda}" if cuda else "built for CPU"


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def check_accelerators() -> list[Check]:
    """CUDA devices with their memory, and accelerators that sovtune does not train on yet."""
    import torch

    checks = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        value = f"{facts.name}, {facts.total_memory / GIB:.1f} GiB"
        checks.append(Check(name=f"cuda:{index}", status="ok", value=value))
    if not checks and torch.version.cuda is None and torch.version.hip is None and shutil.which("nvidia-smi"):
        fix = "python -m pip install --force-reinstall torch  (from an index that has CUDA builds)"
        value = "an NVIDIA driver is here, but torch is built without CUDA"
        checks.append(Check(name="cuda", status="warn", value=value, fix=fix))
    others = [name for name in ("xpu", "mps") if _is_available(torch, name)]
    others += [device for module, device in _PLUGINS.items() if _plugin_works(module, device)]
    fix = "sovtune train RECIPE --set train.run.device=cpu"
    checks += [
        Check(name=name, status="warn", value="present, but sovtune trains on cuda or cpu only", fix=fix)
        for name in others
    ]
    return checks or [Check(name="devices", status="ok", value="no accelerator: training runs on the CPU")]


def check_engine() -> Check:
    """What computes attention, layers and loss on this machine."""
    import torch

    if not _has_cuda():
        value = (
            "the fast CPU path where the base allows it: attention by document, NF4 with LoRA, loss in pieces"
        )
        return Check(name="engine", status="ok", value=value)
    kernels = choose_kernels(capability=torch.cuda.get_device_capability(), compute="bfloat16")
    return Check(name="engine", status="ok", value="; ".join(kernels.notes))


def _is_available(torch: object, device: str) -> bool:
    module = getattr(torch, device, None)
    ask = getattr(module, "is_available", None)
    return bool(ask()) if callable(ask) else False


def _plugin_works(module: str, device: str) -> bool:
    if find_spec(module) is None:
        return False
    try:
        import_module(module)
    except (ImportError, OSError, RuntimeError):  # installed for a chip or driver that is not here
        return False
    import torch

    return _is_available(torch, device)


def check_cpu(cpuinfo: Path) -> Check:
    """Cores this process may use, and whether the CPU multiplies bf16 natively."""
    count = f"{usable_cores()} cores"
    if not cpuinfo.is_file():
        return Check(name="cpu", status="ok", value=f"{count}, bf16 instructions unknown on this system")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    native = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return Check(name="cpu", status="ok", value=f"{count}, {', '.join(native)}")
    return Check(
        name="cpu",
        status="warn",
        value=f"{count}, no bf16 instructions: bf16 products are slow here",
        fix="sovtune train RECIPE --set base.quantisation.compute=float32  (needs more memory)",
    )


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads() -> Check:
    """OMP_NUM_THREADS against the cores: launchers set it to 1 without a word."""
    cores = usable_cores()
    text = os.environ.get("OMP_NUM_THREADS", "")
    if not text:
        import torch

        return Check(
            name="threads", status="ok", value=f"{torch.get_num_threads()}, OMP_NUM_THREADS is not set"
        )
    if text.isdigit() and int(text) == cores:
        return Check(name="threads", status="ok", value=f"OMP_NUM_THREADS is {text}")
    value = f"OMP_NUM_THREADS is {text}, there are {cores} cores"
    return Check(name="threads", status="warn", value=value, fix=f"export OMP_NUM_THREADS={cores}")


def check_nf4(device: str) -> Check:
    """Quantise one layer, run it forward and backward, compare with the dequantised weight."""
    if find_spec("kernels") is not None and os.environ.get("HF_HUB_OFFLINE") != "1":
        return Check(
            name="nf4",
            status="warn",
            value="not tried: with the package kernels, bitsandbytes would fetch native code from the Hub",
            fix="HF_HUB_OFFLINE=1 sovtune doctor",
        )
    try:
        errors = measure_nf4(device)
    except _NOT_HERE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Check(
            name="nf4",
            status="fail",
            value=f"bitsandbytes does not work on {device}: {reason}",
            fix=f"sovtune train RECIPE {_PLAIN_BASE}",
        )
    return judge_nf4(errors, device)


def measure_nf4(device: str, *, seed: int = 0) -> Nf4Errors:
    """One 4-bit layer [96, 128] with double quantisation on 32 tokens, in bf16, against fp32 arithmetic.

    Raises:
        RuntimeError: bitsandbytes has nothing for this device; also any other of ``_NOT_HERE``.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports a missing optional package
    import bitsandbytes as bnb
    import torch
    from torch import Tensor

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def relative(found: Tensor, wanted: Tensor) -> float:
        return float((found.float().cpu() - wanted).norm() / wanted.norm())

    original, inputs, upstream = normal(96, 128), normal(32, 128).bfloat16(), normal(32, 96).bfloat16()
    layer = bnb.nn.Linear4bit(128, 96, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(
        original.bfloat16(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer = layer.to(device)
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
    x = inputs.to(device, copy=True).requires_grad_()
    y = layer(x)
    y.backward(upstream.to(device))
    if x.grad is None:
        raise RuntimeError("the 4-bit layer gives no gradient")
    return Nf4Errors(
        rounding=relative(weight, original),
        forward=relative(y.detach(), inputs.float() @ weight.t()),
        backward=relative(x.grad, upstream.float() @ weight),
    )


def judge_nf4(errors: Nf4Errors, device: str) -> Check:
    """Ok when rounding is what NF4 gives and both products agree with the dequantised weight."""
    low, high = NF4_ROUNDING
    value = (
        f"on {device}: rounding {errors.rounding:.3f}, forward error {errors.forward:.4f}, "
        f"backward error {errors.backward:.4f}"
    )
    # written so that NaN, which compares as false, is a failure
    right = (
        low < errors.rounding < high and errors.forward < NF4_TOLERANCE and errors.backward < NF4_TOLERANCE
    )
    if right:
        return Check(name="nf4", status="ok", value=value)
    value += f"; expected {low} to {high}, below {NF4_TOLERANCE}, below {NF4_TOLERANCE}"
    fix = f"python -m pip install --force-reinstall bitsandbytes, or sovtune train RECIPE {_PLAIN_BASE}"
    return Check(name="nf4", status="fail", value=value, fix=fix)
