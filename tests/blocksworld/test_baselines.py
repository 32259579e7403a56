"""The scenes of the demo, of one or two objects, are small; still guessing does not pay in any task."""

import pytest

from polytask.blocksworld import TASKS, baselines, examples
from polytask.run.demo import KNOWN, OBJECTS, UNSEEN


@pytest.mark.parametrize("task", TASKS)
def test_guessing_does_not_pay_in_the_demo(task):
    """At most 0.40, and for labels at most ten points above chance."""
    rows = list(examples(task, UNSEEN, split="test", objects=OBJECTS))
    chance = max(1 / len(row["labels"]) for row in rows) if task == "classification" else 0.30
    found = baselines(task, rows, list(examples(task, KNOWN, objects=OBJECTS)))
    assert set(found) == {"majority", "copy", "nearest"}
    assert all(0 <= share <= chance + 0.10 for share in found.values()), found
