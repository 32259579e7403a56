"""How a preset states what a publication printed beside what we build."""

from dataclasses import dataclass, field
from typing import Any

from polytask.nn.part import Part

NEAR = 0.05  # how far, relatively, a count as built may be from the printed one without a word


@dataclass(frozen=True)
class Publication:
    """What all sizes of a system share: where it was published, what is its own, and what no source states."""

    title: str
    year: int
    paper: str
    special: str
    unpublished: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """One row of a publication's table: the configuration we build and the figures as printed, with their source.

    config: of a language network a TransformerConfig, of others what builds them; None where the architecture is not
    public. parameters and active: the printed counts, of all and of what one
    token meets; `counts` names the parts of `models.cost.parameters_by_part` that they count (none named: all).
    tolerance: how far, relatively, our counts may be from the printed ones; None where those contradict the rest of the
    table, so that they are held as printed and compared with nothing. exact and exact_active: the counts of our
    configuration over the parts of `convention`. training: printed hyperparameters (batch in tokens, learning rate,
    ...). printed: values of the table that nobody can build, or that contradict it. difference: why the whole count of
    our configuration and the printed one are more than `NEAR` apart, where they are.
    """

    config: Part | None
    publication: Publication
    source: str
    parameters: float | None = None
    active: float | None = None
    counts: tuple[str, ...] = ()
    tolerance: float | None = 0.02
    exact: int | None = None
    exact_active: int | None = None
    convention: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    printed: dict[str, Any] = field(default_factory=dict)
    difference: str = ""
