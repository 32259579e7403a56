"""An answerer whose every answer is known beforehand."""

import math

from polytask.inference.scoring import Score
from polytask.inference.sequence import Completion


class Scripted:
    """Answers a prompt by `answer(text of its last segment, sample)`; scores a choice by `like(prompt, choice)`."""

    def __init__(self, answer=None, like=None):
        self.answer, self.like = answer, like
        self.prompts, self.calls = [], []

    def produce(self, prompts, sampling):
        self.prompts += prompts
        self.calls.append(len(prompts))
        return [
            [Completion(self.answer(prompt[-1].text, i), [], 0.0, "stop") for i in range(sampling.n)]
            for prompt in prompts
        ]

    def score(self, prompts, continuations):
        self.prompts += prompts
        pairs = [(prompt[-1].text, choice[-1].text) for prompt, choice in zip(prompts, continuations, strict=True)]
        return [Score(math.log(self.like(*pair)), len(pair[1]) + 1, False) for pair in pairs]
