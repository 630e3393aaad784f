"""Which kernels a GPU run takes: what is installed and fits, else torch's own with a reason."""

import pytest

from sovtune.gpu_kernels import CUT, FLASH, LIGER, choose_kernels, installed_version
from sovtune.train.settings import layer_settings

ALL = {FLASH: "2.8.3", LIGER: "0.8.5", CUT: "25.1.1"}
AMPERE, TURING = (8, 6), (7, 5)


@pytest.mark.parametrize(
    ("packages", "capability", "more", "expected"),
    [
        (ALL, AMPERE, {}, ("flash_attention_2", "liger", "cut")),
        ({}, AMPERE, {}, ("sdpa", "torch", "torch")),
        (ALL, TURING, {"compute": "float16"}, ("sdpa", "liger", "cut")),
        (ALL, AMPERE, {"compute": "float32"}, ("sdpa", "liger", "liger")),
        (ALL, AMPERE, {"shaped_loss": True}, ("flash_attention_2", "liger", "liger")),
        ({CUT: "25.1.1"}, AMPERE, {"shaped_loss": True}, ("sdpa", "torch", "torch")),
        ({LIGER: "0.8.5"}, AMPERE, {}, ("sdpa", "liger", "liger")),
        (ALL, AMPERE, {"layers_known": False}, ("flash_attention_2", "torch", "cut")),
        (ALL, AMPERE, {"loss_blockers": ["the head is trained"]}, ("flash_attention_2", "liger", "torch")),
    ],
)
def test_what_is_installed_and_fits_is_taken(packages, capability, more, expected):
    chosen = choose_kernels(
        **{"capability": capability, "compute": "bfloat16", "installed": packages.get} | more
    )
    assert (chosen.attention, chosen.layers, chosen.loss) == expected
    for note, taken, name in zip(chosen.notes, expected, ("attention", "layers", "loss"), strict=True):
        assert note.startswith(f"{name}: ")
        assert note.startswith(f"{name}: torch (") == (taken in ("sdpa", "torch"))


def test_reasons_name_the_package_and_what_it_lacks():
    old = choose_kernels(capability=TURING, compute="bfloat16", installed=ALL.get)
    assert old.notes[0] == "attention: torch (flash-attn needs compute capability 8.0, this GPU has 7.5)"
    none = choose_kernels(capability=AMPERE, compute="bfloat16", installed={}.get)
    other = choose_kernels(
        capability=AMPERE, compute="bfloat16", layers_known=False, installed={LIGER: "0.8.5"}.get
    )
    assert other.notes[1] == "layers: torch (liger-kernel does not know this type of model)"
    assert none.notes[2] == "loss: torch (neither cut-cross-entropy nor liger-kernel is installed)"


def test_versions_are_those_of_the_environment():
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-package") is None


def test_liger_never_brings_a_loss_of_its_own():
    settings = layer_settings(choose_kernels(capability=AMPERE, compute="bfloat16", installed=ALL.get))
    assert settings["use_liger_kernel"] is True
    assert settings["liger_kernel_config"]["fused_linear_cross_entropy"] is False
    assert settings["liger_kernel_config"]["cross_entropy"] is False
    assert layer_settings(choose_kernels(capability=AMPERE, compute="bfloat16", installed={}.get)) == {}
