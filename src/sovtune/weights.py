"""Weights of a base read tensor by tensor, so that a quantised base never lies in memory whole in 16 bits.

transformers maps a weights file into memory: every page it touches counts as resident until the file is closed, so
that loading Qwen2.5-1.5B in 4 bits peaked at 4.0 GB. Here each tensor is read when its turn comes and its memory is
given back once it is quantised: 2.2 GB (``scripts/bench_train.py --load``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sovtune.fastpath.heap import give_back

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TRIM_BYTES = 64 << 20
"""Bytes read until freed memory is given back: freed tensors of 10 to 100 MB otherwise stay in the heap of glibc,
0.8 GB of them at 1.5 billion parameters."""


class _Trimmer:
    """Gives freed memory back to the system as reading goes on."""

    def __init__(self) -> None:
        self._since = 0

    def count(self, size: int) -> None:
        self._since += size
        if self._since >= TRIM_BYTES:
            self.now()

    def now(self) -> None:
        self._since = 0
        give_back()


class LazyTensor:
    """A tensor in a file; ``tensor[...]`` reads it. The three methods are those of a slice of safetensors."""

    def __init__(self, part: Any, trimmer: _Trimmer):
        self._part, self._trimmer = part, trimmer

    def __getitem__(self, index: Any) -> Any:
        tensor = self._part[index]
        self._trimmer.count(tensor.nbytes)
        return tensor

    def get_shape(self) -> list[int]:
        """Its shape."""
        shape: list[int] = self._part.get_shape()
        return shape

    def get_dtype(self) -> str:
        """Its dtype, as safetensors writes it."""
        dtype: str = self._part.get_dtype()
        return dtype


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a base, in order; other files beside them are not looked at.

    Raises:
        FileNotFoundError: the folder has no weights in safetensors.
    """
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    if not (folder / SINGLE).is_file():
        raise FileNotFoundError(folder / SINGLE)
    return [folder / SINGLE]


@contextmanager
def lazy_tensors(folder: Path) -> Iterator[dict[str, LazyTensor]]:
    """All tensors of a base by name, to be handed to ``from_pretrained(state_dict=...)``.

    Raises:
        FileNotFoundError: see ``weight_files``.
    """
    from safetensors import safe_open

    trimmer = _Trimmer()
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        for path in weight_files(folder):
            file = stack.enter_context(safe_open(str(path), framework="pt", device="cpu", backend="pread"))
            tensors.update({name: LazyTensor(file.get_slice(name), trimmer) for name in file.keys()})  # noqa: SIM118
        yield tensors
    trimmer.now()
