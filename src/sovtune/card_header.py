"""The model card's header: a strict schema on top of what the Hub reads, written and read back as YAML."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sovtune.evidence import Evidence
from sovtune.figures import known_languages, primary
from sovtune.licence_table import HUB_LICENCES
from sovtune.licences import hub_licence, parse_expression
from sovtune.records import TextScore

_FRONT = re.compile(r"\A---\n(?P<yaml>.*?\n)---\n(?P<body>.*)\Z", re.DOTALL)
RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]


class _Part(BaseModel):
    """Unknown keys are mistakes: the Hub's own classes keep them silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Named(_Part):
    """A task."""

    type: Literal["text-generation"] = "text-generation"
    name: str = "Bits per byte of held-out text"


class HeldOutRef(_Part):
    """The held-out set: its data card id and hash, since it need not be on any Hub."""

    name: str
    type: str
    config: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Comparison(_Part):
    """What one figure needs to be understood: the base's, the interval, the number of documents."""

    base: float
    low: float
    high: float
    change_percent: float
    documents: int


class Metric(_Part):
    """Bits per byte of the adapter."""

    type: Literal["bits_per_byte"] = "bits_per_byte"
    value: float
    name: str = "bits per byte, lower is better"
    args: Comparison


class Result(_Part):
    """One held-out set."""

    task: Named = Named()
    dataset: HeldOutRef
    metrics: tuple[Metric]


class IndexEntry(_Part):
    """All results of the model."""

    name: str
    results: Annotated[tuple[Result, ...], Field(min_length=1)]


class Header(_Part):
    """Every key a card of ours may have.

    ``license_name`` and ``license_link`` stand there if and only if ``license`` is ``other``.
    """

    language: Annotated[tuple[str, ...], Field(min_length=1)]
    license: str
    license_name: str | None = None
    license_link: Annotated[str | None, Field(pattern=r"^https://\S+$")] = None
    base_model: RepoId
    base_model_relation: Literal["adapter", "finetune"] = "adapter"
    library_name: Literal["peft", "transformers"] = "peft"
    pipeline_tag: Literal["text-generation"] = "text-generation"
    datasets: tuple[RepoId, ...] | None = None
    tags: Annotated[tuple[str, ...], Field(min_length=1)]
    model_index: Annotated[tuple[IndexEntry] | None, Field(alias="model-index")] = None

    @model_validator(mode="after")
    def _known_values(self) -> Self:
        unknown = [tag for tag in self.language if tag not in known_languages()]
        if unknown:
            raise ValueError(f"language: no ISO 639 code: {', '.join(unknown)}")
        if self.license not in HUB_LICENCES:
            raise ValueError(f"license: `{self.license}` is not on the Hub's list")
        own = self.license == "other"
        if own is (self.license_name is None) or own is (self.license_link is None):
            raise ValueError("license_name and license_link stand there if and only if license is `other`")
        if (self.library_name == "peft") is not (self.base_model_relation == "adapter"):
            raise ValueError("base_model_relation is adapter if and only if library_name is peft")
        wanted = {"sovtune", f"base_model:{self.base_model_relation}:{self.base_model}"}
        if not wanted <= set(self.tags) or not {"lora", "qlora", "full"} & set(self.tags):
            raise ValueError(f"tags: lora, qlora or full, and {', '.join(sorted(wanted))} must be there")
        return self


def make_header(evidence: Evidence) -> Header:
    """The header of one run's card, from its records alone.

    Raises:
        ValueError: the licence cannot stand in a header, or a language is no ISO 639 code.
    """
    recipe = evidence.recipe
    same = parse_expression(recipe.card.licence) == parse_expression(recipe.base.licence)
    licence = hub_licence(recipe.card.licence, link=recipe.base.licence_link if same else None)
    tags = [tag for tag, _ in evidence.language_shares()] or [recipe.language]
    results = tuple(_result(score) for score in evidence.evaluation.scores)
    whole = recipe.adapter.kind == "full"
    relation: Literal["adapter", "finetune"] = "finetune" if whole else "adapter"
    return Header(
        language=tuple(dict.fromkeys(primary(tag) for tag in tags)),
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        base_model=evidence.base.model,
        base_model_relation=relation,
        library_name="transformers" if whole else "peft",
        datasets=evidence.hub_datasets or None,
        tags=(recipe.adapter.kind, "sovtune", f"base_model:{relation}:{evidence.base.model}"),
        model_index=(IndexEntry(name=evidence.name, results=results),) if results else None,
    )


def _result(score: TextScore) -> Result:
    return Result(
        dataset=HeldOutRef(
            name=score.name,
            type=score.card_id,
            config=f"{score.language}-{score.role}",
            revision=score.sha256,
        ),
        metrics=(
            Metric(
                value=score.adapter,
                args=Comparison(
                    base=score.base,
                    low=score.adapter_interval[0],
                    high=score.adapter_interval[1],
                    change_percent=score.change_percent,
                    documents=score.documents,
                ),
            ),
        ),
    )


def header_text(header: Header) -> str:
    """The header as front matter, through the Hub's own class, so that its reader gets back what we mean.

    Returns:
        ``---``, YAML, ``---`` and a final newline.
    """
    from huggingface_hub import EvalResult, ModelCardData

    plain = header.model_dump(mode="json", exclude_none=True, exclude={"model_index"})
    results = [
        EvalResult(
            task_type=result.task.type,
            task_name=result.task.name,
            dataset_type=result.dataset.type,
            dataset_name=result.dataset.name,
            dataset_config=result.dataset.config,
            dataset_revision=result.dataset.revision,
            metric_type=metric.type,
            metric_value=metric.value,
            metric_name=metric.name,
            metric_args=metric.args.model_dump(),
        )
        for entry in header.model_index or ()
        for result in entry.results
        for metric in result.metrics
    ]
    if header.model_index:
        plain.update(model_name=header.model_index[0].name, eval_results=results)
    return f"---\n{ModelCardData(**plain).to_yaml()}\n---\n"


def split_card(text: str) -> tuple[str, str]:
    """Front matter (YAML text) and body.

    Raises:
        ValueError: there is no front matter.
    """
    match = _FRONT.match(text)
    if match is None:
        raise ValueError("the card does not begin with a header between two lines `---`")
    return match["yaml"], match["body"]


def read_header(front: str) -> Header:
    """Read a header back strictly.

    Raises:
        ValueError: it is not YAML, or not exactly what ``Header`` allows.
    """
    try:
        raw = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise ValueError(f"the header is not YAML: {str(error).splitlines()[0]}") from error
    return Header.model_validate(raw)
