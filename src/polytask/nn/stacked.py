"""Several projections of one input as one matrix: one large product is faster than several, forward and backward."""

from torch import nn


class Stacked(nn.Linear):
    """`parts`: how many rows each projection has, from the top.

    What treats a matrix as a whole (Muon, an initialisation by fan) is to treat each part by itself.
    """

    def __init__(self, in_features: int, parts: tuple[int, ...], bias: bool = False):
        super().__init__(in_features, sum(parts), bias=bias)
        self.parts = parts
