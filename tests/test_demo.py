"""The demo: what it leaves behind, that it can be stopped, and that its accuracy is the world's own judgement."""

import json

import pytest

from polytask.blocksworld import TASKS
from polytask.run import demo as demos
from polytask.run.assembly import read_recipe


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The demo's own recipe with few rows and a tiny network."""

    def read(name, changes):
        recipe = read_recipe(name, [*changes, "model={system: generalist, depth: 1, dim: 32, heads: 2, band: 4}",
                                    "tokenizer.size=400", "training.batch_rows=4", "training.context_length=256",
                                    "evaluation.every=2", "training.save_every=1", "training.log_every=1"])  # fmt: skip
        few = [source.model_copy(update={"limit": 30}) for source in recipe.data.sources]
        tasks = [judged.model_copy(update={"limit": 2}) for judged in recipe.evaluation.tasks]
        data = recipe.data.model_copy(update={"sources": few})
        evaluation = recipe.evaluation.model_copy(update={"tasks": tasks})
        return recipe.model_copy(update={"data": data, "evaluation": evaluation})

    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demos, "read_recipe", read)
    for name, value in {"UNSEEN": 3, "KNOWN": 20, "LONGEST": 4}.items():
        monkeypatch.setattr(demos, name, value)
    return tmp_path / "demo"


def test_the_demo_leaves_a_model_figures_and_a_page(small):
    report = demos.demo(small, steps=3)
    kept = json.loads((small / "report.json").read_text())
    assert kept["accuracy"] == report.accuracy
    assert list(kept["accuracy"]) == list(kept["compositional"]) == list(kept["baselines"]) == list(TASKS)
    assert kept["steps"] == 3
    page = (small / "report.html").read_text()
    assert "<svg" in page
    assert report.examples["translation"][0].wanted in page
    assert (
        demos.Model.load(str(small / "model")).translate("A red circle is at the top.", to="de", max_tokens=3)
        is not None
    )


def test_a_finished_demo_begins_anew_and_an_unfinished_one_goes_on(small, monkeypatch):
    demos.demo(small, steps=1)
    assert demos.demo(small, steps=2).steps == 2
    (small / "report.json").unlink()
    resumed = []
    train = demos.train_recipe

    def watch(*args, resume, **more):
        resumed.append(resume)
        return train(*args, resume=resume, **more)

    monkeypatch.setattr(demos, "train_recipe", watch)
    demos.demo(small, steps=2)
    assert resumed == [True]


def test_right_answers_are_judged_right(small):
    """A model that always says what is wanted has an accuracy of one in every task."""

    class Knows:
        def __init__(self, answers):
            self.answers = answers

        def produce(self, prompts, sampling):
            from types import SimpleNamespace

            return [[SimpleNamespace(text=text)] for text in self.answers]

    for task in TASKS:
        rows = demos.unseen(task, 5)
        answers = [demos.wanted(task, row) for row in rows]
        judged = demos.ask_all(Knows(answers), task, rows)
        assert [one.right for one in judged] == [True] * 5, task
        others = demos.ask_all(Knows(["nonsense"] * 5), task, rows)
        assert not any(one.right for one in others), task
