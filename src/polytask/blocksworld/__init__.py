"""The embedded data: a small world of coloured shapes, from which come exact examples of every text task.

`example` and `examples` make rows, `judge` says by rule whether an answer is right, `baselines` what guessing reaches,
`distinct` how many rows there are at least.
"""

from polytask.blocksworld.baselines import baselines
from polytask.blocksworld.generate import TASKS, distinct, example, examples
from polytask.blocksworld.judge import judge
from polytask.blocksworld.scene import SPLITS

__all__ = ["SPLITS", "TASKS", "baselines", "distinct", "example", "examples", "judge"]
