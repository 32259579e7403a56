"""What a recipe may say: every key, its default and the values it takes. `polytask.recipe` reads files into it."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

ObjectiveName = Literal["next_token", "prefix", "span_corruption", "seq2seq"]


class Section(BaseModel):
    """A frozen value; unknown keys are errors, and no value is taken for another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Frozen(Section):
    """A network of an earlier run, which is read and not trained."""

    from_: str = Field(alias="from")


FROZEN = ("text_encoder", "clip", "prior", "base", "drawing")  # what a system that draws may take from earlier runs


class Network(Section):
    """The model: a system, perhaps one of its published sizes, and any field of its family or of its configuration.

    `{system: generalist, depth: 6}`, `{system: gpt3, size: small, dropout: 0.1}`, or `{from: a checkpoint folder}`.
    Systems that draw take frozen networks of earlier runs: `{system: dalle2-prior, clip: {from: runs/clip-blocks}}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, populate_by_name=True)

    system: str | None = None
    size: str | None = None
    from_: str | None = Field(default=None, alias="from")
    text_encoder: Frozen | None = None
    clip: Frozen | None = None
    prior: Frozen | None = None
    base: Frozen | None = None
    drawing: Frozen | None = None

    @property
    def frozen(self) -> dict[str, str]:
        """The folders of the frozen networks by what they are."""
        return {name: part.from_ for name in FROZEN if (part := getattr(self, name)) is not None}

    @property
    def changes(self) -> dict[str, Any]:
        """What is said beside system and size."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if (self.system is None) == (self.from_ is None):
            raise ValueError("name either a `system` or, to go on from a checkpoint, `from`")
        if self.from_ is not None and (self.size is not None or set(self.changes) - {"dropout"}):
            raise ValueError("a model that comes `from` a checkpoint has its sizes already; dropout alone can be set")
        return self


class Codes(Section):
    """The folder of a network that makes codes of pictures. text_length: tokens of a text in DALL-E's layout, in which
    a document is a text, padded, and its picture."""

    from_: str = Field(alias="from")
    text_length: int | None = Field(default=None, ge=3)


class Tokenizer(Section):
    """bpe learns `size` pieces from the data; bytes and characters need no size; `file` is a tokenizer.json to use.

    `pictures: {from: FOLDER}` adds codes of pictures, so that one decoder reads and writes both. `dropout`: the share
    of merges that BPE leaves out of what is learnt (Provilkov et al. 2020; 0.1 as published); rows of texts are cut in
    so many `segmentations` (4) before training, captions of pictures anew each time.
    """

    kind: Literal["bpe", "bytes", "characters"] = "bpe"
    size: int = Field(default=8192, ge=300, le=1_000_000)
    file: str | None = None
    rows: int = Field(default=200_000, ge=1)  # of each source, at the most, that it is learned from
    pictures: Codes | None = None
    dropout: float | None = Field(default=None, ge=0.0, le=1.0)
    segmentations: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _cut_in_ways(self) -> "Tokenizer":
        if self.segmentations is not None and not self.dropout:
            raise ValueError("`segmentations` are of `dropout`, without which every text is cut in one way; set both")
        return self


class Cleaning(Section):
    """As `polytask.data.clean.Clean`, for each source by itself; `near: true` takes 0.8."""

    exact: bool = True
    near: bool | float | None = None
    decontaminate: list[str] = []
    ngram: int = Field(default=13, ge=1)
    columns: list[str] = []


class Source(Section):
    """Examples of one task, as `polytask.data.sources.SourceSpec`."""

    task: str
    from_: str = Field(alias="from")
    name: str = ""
    columns: dict[str, str] = {}
    fields: dict[str, Any] = {}
    where: dict[str, Any] = {}
    weight: float | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    split: str | None = None
    held_out: float | None = Field(default=None, ge=0, lt=1)
    validation: str | None = None
    objective: ObjectiveName | None = None
    together: int = Field(default=1, ge=1)
    options: dict[str, Any] = {}
    licence: str = ""
    attribution: str = ""


class Stage(Section):
    """Until a step, or a share of the run (0.8), the sources have these weights by name; the last goes on."""

    until: FiniteFloat | int = Field(default=1.0, gt=0)
    weights: dict[str, float]


class Mixing(Section):
    """by weight: the sources' own; by size: tokens ** (1 / temperature); by stages: weights that change."""

    by: Literal["weight", "size", "stages"] = "weight"
    temperature: float = Field(default=1.0, gt=0)
    stages: list[Stage] = []

    @model_validator(mode="after")
    def _stages(self) -> "Mixing":
        if (self.by == "stages") != bool(self.stages):
            raise ValueError("`by: stages` and a list of `stages` go together")
        return self


class Data(Section):
    """folder: where relative paths start; else the recipe's own folder, $POLYTASK_DATA, the current folder.

    fit: how pictures get the size that the network reads, where they have another.
    """

    sources: list[Source] = Field(min_length=1)
    folder: str | None = None
    mixture: Mixing = Mixing()
    held_out: float = Field(default=0.01, ge=0, lt=1)
    clean: Cleaning | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"


class Training(Section):
    """How to train; the names of `polytask.training.config.TrainingConfig`, and what decides the batch.

    Either steps or tokens; batch_rows or batch_tokens. picture_share: of the loss of a row with texts and pictures to
    predict, 0.875 in DALL-E. warmup and decay are steps, or a share of the run where they are below 1. dials: of the
    objective of a network for pictures, such as drop and min_snr of denoising.
    """

    steps: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    batch_rows: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    context_length: int = Field(default=512, ge=8)
    encoder_length: int | None = Field(default=None, ge=8)
    objective: ObjectiveName | None = None
    dials: dict[str, Any] = {}
    picture_share: float | None = Field(default=None, gt=0, lt=1)
    optimizer: Literal["adamw", "muon", "adafactor"] = "adamw"
    lr: float = Field(default=1e-3, gt=0, le=1e3)
    min_lr: float = Field(default=0.0, ge=0, le=1e3)
    betas: list[float] = Field(default=[0.9, 0.95], min_length=2, max_length=2)
    eps: float = Field(default=1e-8, gt=0, le=1)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0)
    schedule: Literal["cosine", "inverse_sqrt", "wsd", "constant"] = "cosine"
    warmup: FiniteFloat | int = Field(default=0.02, ge=0)
    decay: FiniteFloat | int = Field(default=0.2, ge=0)
    clip: float = Field(default=1.0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    dropout: float | None = Field(default=None, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    z_loss: float = Field(default=0.0, ge=0, le=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    spike: float = Field(default=10.0, ge=0)
    skips: int = Field(default=5, ge=1)
    save_every: int = Field(default=500, ge=0)
    keep: int = Field(default=2, ge=1)
    average_last: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, ge=1)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _length_and_batch(self) -> "Training":
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("say how long: either `steps` or `tokens`")
        if (self.batch_rows is None) == (self.batch_tokens is None):
            raise ValueError("say how much a step sees: either `batch_rows` or `batch_tokens`")
        if self.batch_tokens is not None and self.batch_tokens < self.context_length:
            raise ValueError(f"batch_tokens is less than one row of {self.context_length} tokens (context_length)")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is above lr ({self.lr:g})")
        return self


class EvaluationTask(Section):
    """A task scored on a source while training; sampling takes the names of `polytask.inference` Sampling."""

    task: str
    from_: str = Field(alias="from")
    name: str = ""
    columns: dict[str, str] = {}
    fields: dict[str, Any] = {}
    where: dict[str, Any] = {}
    split: str | None = "validation"
    options: dict[str, Any] = {}
    limit: int | None = Field(default=200, ge=1)
    shots: int = Field(default=0, ge=0)
    sampling: dict[str, Any] = {}
    metric: str | None = None


class KeepBest(Section):
    """The checkpoint that is best by `metric`, "validation_loss" or "NAME/metric" of an evaluated task.

    mode: unless said, "lowest" for losses and perplexities and "highest" for all others.
    """

    metric: str = "validation_loss"
    mode: Literal["lowest", "highest"] | None = None

    @property
    def best(self) -> str:
        lowest = re.search(r"(^|[/_])(loss|perplexity|bits_per_byte)(/|$)", self.metric)
        return self.mode or ("lowest" if lowest else "highest")


class Evaluation(Section):
    """every: steps between evaluations (0: none); samples: how many answers of each task are shown."""

    every: int = Field(default=500, ge=0)
    tasks: list[EvaluationTask] = []
    samples: int = Field(default=0, ge=0)
    keep_best: KeepBest | None = None
    patience: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _patient_for_something(self) -> "Evaluation":
        if self.patience and self.keep_best is None:
            raise ValueError("`patience` needs `keep_best`, the metric that must get better")
        return self


class Parallel(Section):
    """data: replicas, each with its share of the batch; "auto" takes as many as there are processes."""

    data: Literal["auto"] | int = "auto"
