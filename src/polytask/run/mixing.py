"""How a run's rows are drawn where a step is of several micro-batches."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polytask.data.mixture import Mixture
from polytask.errors import ConfigError

if TYPE_CHECKING:
    from polytask.recipe import Recipe
    from polytask.training.parallel.data import World


def loader_options(recipe: "Recipe", world: "World | None") -> dict[str, Any]:
    """What every loader of a run is told: rows of one micro-batch over all processes, so that step x accumulate + micro
    counts its batches. Raises ConfigError where they cannot be shared out."""
    accumulate = recipe.training.accumulate
    if recipe.batch_rows % accumulate:
        raise ConfigError(f"training: {recipe.batch_rows} rows a step are no multiple of accumulate={accumulate}.")
    return {
        "batch_rows": recipe.batch_rows // accumulate,
        "mixture": by_micro_batch(recipe.mixture(), accumulate),
        "seed": recipe.seed,
        "rank": world.rank if world else 0,
        "world": world.size if world else 1,
        "total_steps": recipe.steps * accumulate,
    }


def by_micro_batch(mixture: Mixture, accumulate: int) -> Mixture:
    """Stages that end at a step, in micro-batches; a share of the run stays one."""

    def end(until: float | int) -> float | int:
        return until if isinstance(until, float) and until <= 1 else until * accumulate

    return replace(mixture, stages=tuple((end(until), weights) for until, weights in mixture.stages))
