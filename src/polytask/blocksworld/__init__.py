"""The embedded data: a small world of coloured shapes, from which come exact examples of every task, with pictures too.

`example` and `examples` make rows, `judge` says by rule whether an answer in text is right, `baselines` what guessing
reaches, `distinct` how many rows there are at least. `render.render` draws a scene, `read.read` reads a picture back,
and `drawn.compare` says by rule what is right in a picture that was drawn, or in what is said of one.
"""

from polytask.blocksworld.baselines import baselines
from polytask.blocksworld.generate import TASKS, distinct, example, examples
from polytask.blocksworld.judge import judge
from polytask.blocksworld.scene import SPLITS

__all__ = ["SPLITS", "TASKS", "baselines", "distinct", "example", "examples", "judge"]
