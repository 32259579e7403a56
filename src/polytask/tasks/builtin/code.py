"""Writing Python from a description or the head of a function, judged by running tests in the sandbox."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from polytask.errors import TaskError
from polytask.tasks.metrics import estimate_pass_at_k, pass_table
from polytask.tasks.scoring import matched, written
from polytask.tasks.segment import Segment, Text
from polytask.tasks.task import Field

FENCE = re.compile(r"^[ \t]*```[ \t]*[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """`tests` are asserts, or HumanEval's `def check(candidate)` with the function's name as `entry_point`.

    `k` are the numbers of samples for pass@k; those beyond the samples there are fall away. `seconds` and `memory_mb`
    limit each program. `unsafe` runs them without a sandbox where this machine has none: only for programs you trust.
    """

    k: tuple[int, ...] = (1, 10, 100)
    seconds: float = 5.0
    memory_mb: int = 512
    unsafe: bool = False
    _verdicts: dict[tuple[str, str], bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    name: ClassVar[str] = "code"
    metric_names: ClassVar[tuple[str, ...]] = ("pass@1",)
    primary: ClassVar[str] = "pass@1"
    fields: ClassVar[Mapping[str, Field]] = {
        "prompt": Field(help="what the program should do, or its first lines"),
        "solution": Field(required=False, help="a program that does it", answer=True),
        "tests": Field(list[str], required=False, help="asserts that hold for a right program", answer=True),
        "entry_point": Field(
            required=False, help="the function that HumanEval's check(candidate) is given", answer=True
        ),
    }

    def segments(self, example: dict[str, Any]) -> list[Segment]:
        given = Text(f"Write Python: {example['prompt']}")
        if example.get("solution") is None:
            return [given]
        return [given, Text(example["solution"], target=True)]

    def choices(self, example: dict[str, Any]) -> None:
        return None

    def parse(self, produced: list[Segment]) -> str:
        """The program: what stands in the first fenced block, or all of it; indents at its start are kept."""
        text = written(produced)
        fenced = FENCE.search(text)
        return (fenced.group(1) if fenced else text).rstrip()

    def metrics(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
        """pass@k over all samples (Chen et al. 2021). Raises SandboxError where the machine has no sandbox."""
        return pass_table(self._counts(answers, examples), self.k)

    def per_example(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[float]:
        return [estimate_pass_at_k(samples, passed, 1) for samples, passed in self._counts(answers, examples)]

    def _counts(self, answers: list[list[Any]], examples: list[dict[str, Any]]) -> list[tuple[int, int]]:
        """(samples, passed) of each example; each program runs once, however often it is asked about."""
        from polytask.tasks.sandbox import run_many

        matched(self.name, answers, examples)
        groups = []
        for number, (samples, example) in enumerate(zip(answers, examples)):
            tests = _tests(example, number + 1)
            groups.append([(program(example["prompt"], sample), tests) for sample in samples])
        new = list(dict.fromkeys(job for group in groups for job in group if job not in self._verdicts))
        results = run_many(new, seconds=self.seconds, memory_mb=self.memory_mb, unsafe=self.unsafe)
        self._verdicts.update((job, result.passed) for job, result in zip(new, results))
        return [(len(group), sum(self._verdicts[job] for job in group)) for group in groups]


def program(prompt: str, answer: str) -> str:
    """The whole program: an answer that starts indented goes on where the prompt ends, others follow a prompt of code.

    A prompt of code comes first even before a whole function, since HumanEval keeps imports and helpers there.
    """
    if answer[:1] in (" ", "\t"):
        return prompt + answer if prompt.endswith("\n") or "\n" not in answer else f"{prompt.rstrip()}\n{answer}"
    return f"{prompt.rstrip()}\n{answer}" if _is_code(prompt) else answer


def _is_code(prompt: str) -> bool:
    import ast

    if not re.search(r"^\s*(def|class|import|from|async def)\s", prompt, re.MULTILINE):
        return False
    try:
        ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _tests(example: Mapping[str, Any], number: int) -> str:
    given: str | Sequence[str] | None = example.get("tests")
    if not given:
        raise TaskError(f"Task 'code': example {number} has no 'tests' to run; give asserts, as a text or a list.")
    tests = given if isinstance(given, str) else "\n".join(given)
    entry = example.get("entry_point")
    if entry is None:
        return tests
    if not str(entry).isidentifier():
        raise TaskError(f"Task 'code': example {number}: entry_point '{entry}' is not the name of a function.")
    return f"{tests}\ncheck({entry})" if re.search(r"^def check\(", tests, re.MULTILINE) else tests
