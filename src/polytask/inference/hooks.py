"""What others plug into generation, and what generation offers to those who ask."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from polytask.inference.sampling import Sampling
    from polytask.inference.scoring import Score
    from polytask.inference.sequence import Completion
    from polytask.tasks.segment import Segment


class LogitsHook(Protocol):
    """Changes what may come next: a watermark, a filter, a grammar."""

    def __call__(self, logits: Tensor, ids: Sequence[Sequence[int]], prompts: Sequence[int]) -> Tensor:
        """New scores (B, V) from `logits` (B, V, float32, not to be changed in place), -inf for what must not come.

        ids: of each row, the prompt and all that was produced (not to be changed); prompts: how many of them are the
        prompt's. With beam search the scores are log-probabilities.
        """
        ...


class Answerer(Protocol):
    """What can be asked: a local model, or one behind a server."""

    def produce(self, prompts: "list[list[Segment]]", sampling: "Sampling") -> "list[list[Completion]]":
        """sampling.n completions for each prompt."""
        ...

    def score(self, prompts: "list[list[Segment]]", continuations: "list[list[Segment]]") -> "list[Score]":
        """How likely continuations[i] is after prompts[i]."""
        ...
