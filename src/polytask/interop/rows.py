"""Which tensor of another project's checkpoint is which of ours: rows of a table that is read in both directions.

A view says how their tensor lies in ours, as pairs of equal parts; copying each pair one way imports, the other way
exports, and gradients compare through it as weights do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from polytask.models.networks import build
from polytask.nn.part import Part


class View:
    """Theirs is ours as it is."""

    def shape(self, ours: Tensor) -> tuple[int, ...]:
        """The shape that their tensor has."""
        return tuple(ours.shape)

    def pairs(self, theirs: Tensor, ours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of theirs and the same numbers of ours, as views; together they cover theirs once."""
        yield theirs, ours


SAME = View()


class Transposed(View):
    """Theirs is (in, out), as GPT-2's Conv1D keeps its matrices."""

    def shape(self, ours: Tensor) -> tuple[int, ...]:
        return tuple(reversed(ours.shape))

    def pairs(self, theirs: Tensor, ours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield theirs.t(), ours


class At(View):
    """Theirs is ours[index]: some rows of a Stacked, one expert of many, or with None one more dimension."""

    def __init__(self, *index: Any):
        self.index = index

    def shape(self, ours: Tensor) -> tuple[int, ...]:
        return tuple(ours[self.index].shape)

    def pairs(self, theirs: Tensor, ours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield theirs, ours[self.index]


@dataclass(frozen=True)
class Grouped(View):
    """Queries, keys and values in one matrix, by groups: the query heads of a key/value head, then its key, its value.

    With as many groups as heads it is [head, (q, k, v), channel] (BLOOM, GPT-NeoX); Falcon has fewer, or one.
    """

    heads: int
    groups: int
    head_dim: int

    def pairs(self, theirs: Tensor, ours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        each, start = self.heads // self.groups, 0
        grouped = theirs.unflatten(0, (self.groups, each + 2, self.head_dim))
        for first, count in ((0, each), (each, 1), (each + 1, 1)):
            rows = self.groups * count * self.head_dim
            mine = ours[start : start + rows].unflatten(0, (self.groups, count, self.head_dim))
            yield grouped[:, first : first + count], mine
            start += rows


def stacked(*parts: int) -> tuple[At, ...]:
    """The view of each part of a Stacked with so many rows a part."""
    ends = [sum(parts[: n + 1]) for n in range(len(parts))]
    return tuple(At(slice(end - size, end)) for size, end in zip(parts, ends))


@dataclass(frozen=True)
class Row:
    """Their tensor, ours, and how theirs lies in ours."""

    theirs: str
    ours: str
    view: View = SAME


Entry = tuple[str, str] | tuple[str, str, View]  # names of modules or tensors, with {i} for the layer


def spread(config: Part, table: Sequence[Entry]) -> list[Row]:
    """Rows of a table that names modules: one for each layer `{i}` and each tensor (weight, bias) that ours has.

    An entry of which our network has nothing (the output of a tied one, the bias of one without) gives no row.
    """
    ours = shapes(config)
    layers = 1 + max((int(word) for name in ours for word in name.split(".") if word.isdigit()), default=0)
    rows = []
    for theirs, mine, *view in table:
        for i in range(layers if "{i}" in mine else 1):
            module = mine.replace("{i}", str(i))
            for name in ours:
                if name == module or name.rpartition(".")[0] == module:
                    rows.append(Row(theirs.replace("{i}", str(i)) + name[len(module) :], name, *view))
    return rows


@lru_cache(maxsize=8)
def shapes(config: Part) -> dict[str, Tensor]:
    """Our tensors by name, without storage."""
    with torch.device("meta"):
        return dict(build(config).named_parameters())
