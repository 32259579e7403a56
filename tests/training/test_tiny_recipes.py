"""The recipes of the systems at a size to be trained within minutes: alike in data and budget, and they train."""

import pytest

from polytask.models import cost
from polytask.models.catalogue import SYSTEMS, draws, looks
from polytask.recipe import load_recipe, names
from polytask.run.assembly import read_recipe
from polytask.run.plan import plan_recipe
from polytask.run.train import train_recipe

TINY = [name for name in names() if name.endswith("-tiny")]
TOKENS = 300 * 32 * 128


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    """One tokenizer and one preparation for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def few(name):
    """Two steps on some thirty examples of each task."""
    recipe = read_recipe(name, ["training.steps=2", "training.warmup=1", "training.batch_rows=2", "evaluation.every=0"])
    sources = [source.model_copy(update={"limit": 30, "validation": None}) for source in recipe.data.sources]
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"sources": sources})})


def test_every_system_with_a_network_of_its_own_has_a_recipe():
    # GPT-3's network; those whose data are pictures
    others = {"instructgpt", "dalle", *filter(draws, SYSTEMS), *filter(looks, SYSTEMS)}
    assert {name.removesuffix("-tiny") for name in TINY} == set(SYSTEMS) - others


@pytest.mark.parametrize("name", TINY)
def test_they_differ_in_the_model_alone(name):
    recipe, other = load_recipe(name), load_recipe("gpt3-tiny")
    assert (recipe.data, recipe.tokenizer, recipe.evaluation) == (other.data, other.tokenizer, other.evaluation)
    both_sides = recipe.network(1024).encoder_layers > 0  # its rows hold a source and a target
    rows = other.training.batch_rows // (2 if both_sides else 1)
    assert recipe.training == other.training.model_copy(update={"batch_rows": rows})


@pytest.mark.parametrize("name", TINY)
def test_their_plans_are_alike(name):
    made = plan_recipe(name, measure=False)
    assert made.tokens == TOKENS
    active = cost.active_parameters(load_recipe(name).network(1024))
    assert 1_800_000 < active < 2_100_000
    assert active <= made.total_parameters < 4_000_000


@pytest.mark.parametrize("name", TINY)
def test_they_train(name, tmp_path):
    result = train_recipe(few(name), tmp_path / "run")
    assert result.step == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
