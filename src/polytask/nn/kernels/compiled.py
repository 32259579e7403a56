"""Functions that torch compiles for a GPU, where many small kernels would each go through memory."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from polytask.errors import Notice, out_of_memory


class Compiled:
    """`function`, compiled at the first call; as it is from then on where that fails (no Triton, no C compiler)."""

    def __init__(self, function: Callable):
        self.function, self._run = function, None

    def __call__(self, *words: Any) -> Any:
        if self._run is None:
            self._run = torch.compile(self.function)
        try:
            return self._run(*words)
        except Exception as error:
            if out_of_memory(error) or self._run is self.function:
                raise
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"torch could not compile {self.function.__name__}, which is slower so: {reason}", Notice, 2)
            self._run = self.function
            return self.function(*words)
