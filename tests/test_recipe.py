import json
from dataclasses import fields, replace

import pytest
import yaml

from polytask.blocksworld import TASKS
from polytask.data.prepare import share_of
from polytask.data.sources import GENERATORS, SourceSpec, read
from polytask.errors import ConfigError
from polytask.models.cost import parameters
from polytask.recipe import RECIPES, Recipe, load_recipe, names
from polytask.recipe.schema import Network, Training
from polytask.systems.generalist import generalist
from polytask.tasks import get_task
from polytask.training.config import TrainingConfig

TEXT = """\
# a recipe of a user
seed: 7
model:
  system: generalist
  depth: 2
data:
  held_out: 0.1
  sources:
    - task: translation
      from: pairs.jsonl
      fields: {source_lang: en, target_lang: no}
      weight: 2
    - {task: text, from: pairs.jsonl, columns: {text: source}}
training:
  steps: 200
  batch_tokens: 1024
  context_length: 64
  lr: 1e-3
  warmup: 0.1
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"source": "a dog", "target": "en hund"}) + "\n")
    (tmp_path / "mine.yaml").write_text(TEXT)
    return tmp_path / "mine.yaml"


def changed(path, old, new):
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    return path


def test_a_recipe_says_all_of_a_run(path):
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seed, recipe.steps, recipe.batch_rows) == ("mine", 7, 200, 16)
    assert recipe.network(500) == generalist(2, vocab_size=500, context_length=64)
    config = recipe.training_config()
    assert (config.lr, config.warmup, config.decay, config.seed) == (1e-3, 20, 40, 7)
    first, second = recipe.sources()
    assert (first.name, second.name) == ("pairs", "pairs-2")
    assert first.fields == {"source_lang": "en", "target_lang": "no"}, "Norwegian is not false"
    assert recipe.mixture().weights == {"pairs": 2.0, "pairs-2": 1.0}


def test_a_network_reads_prompts_as_it_learned_them(path):
    assert not load_recipe(path).network(500).prefix
    for change in ("training.objective=prefix", "model.prefix=true"):
        recipe = load_recipe(path, [change])
        assert recipe.network(500) == replace(generalist(2, vocab_size=500, context_length=64), prefix=True)
        assert recipe.objective_of(recipe.network(500)) == "prefix"
    with pytest.raises(ConfigError, match="a model reads its prompts one way"):
        load_recipe(path, ["data.sources.0.objective=prefix"]).network(500)


def test_relative_paths_start_beside_the_recipe(path, tmp_path, monkeypatch):
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("POLYTASK_DATA", raising=False)
    assert next(read(load_recipe(path).sources()[1])) == {"text": "a dog"}
    (tmp_path / "elsewhere" / "pairs.jsonl").write_text('{"source": "a cat"}')
    assert next(read(load_recipe(path, data_dir="../elsewhere").sources()[1])) == {"text": "a cat"}
    named = changed(path, "  held_out: 0.1", "  folder: elsewhere")
    assert next(read(load_recipe(named).sources()[1])) == {"text": "a cat"}


def test_a_task_of_ones_own_lies_beside_the_recipe(path, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "praise.yaml").write_text('name: praise\nprompt: "{text}"\ntarget: "{label}"\n')
    before = "task: text, from: pairs.jsonl, columns: {text: source}"
    now = "task: praise.yaml, from: pairs.jsonl, columns: {text: source, label: target}"
    recipe = load_recipe(changed(path, before, now))
    spec = recipe.sources()[1]
    assert get_task(spec.task).name == "praise"
    assert next(read(spec)) == {"text": "a dog", "label": "en hund"}


def test_every_training_field_can_be_said_and_arrives():
    elsewhere = {"seed", "evaluate_every", "keep_best", "best", "patience"}
    assert {field.name for field in fields(TrainingConfig)} - elsewhere <= set(Training.model_fields)
    values = {"optimizer": "muon", "betas": [0.8, 0.9], "clip": 2.0, "accumulate": 3, "ema": 0.9, "z_loss": 0.1,
              "min_lr": 1e-5, "schedule": "wsd", "decay": 50, "momentum": 0.5, "keep": 4, "tensorboard": True,
              "precision": "bfloat16", "checkpointing": True, "label_smoothing": 0.2, "spike": 3.0, "skips": 2,
              "save_every": 20, "log_every": 2, "weight_decay": 0.3, "eps": 1e-6, "compile": True}  # fmt: skip
    overrides = [f"training.{key}={json.dumps(value)}" for key, value in values.items()]
    extra = ["evaluation.every=30", "evaluation.keep_best={metric: bleu, mode: highest}", "evaluation.patience=3"]
    config = load_recipe("shakespeare", overrides + extra).training_config()
    for key, value in values.items():
        assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value), key
    assert (config.evaluate_every, config.keep_best, config.best, config.patience) == (30, "bleu", "highest", 3)


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("{}", "lowest"),
        ("{metric: validation_loss/pairs}", "lowest"),
        ("{metric: text/bits_per_byte}", "lowest"),
        ("{metric: multi30k/bleu}", "highest"),
        ("{metric: glossary/exact_match}", "highest"),
        ("{metric: a/b, mode: lowest}", "lowest"),
    ],
)
def test_the_best_is_the_highest_of_a_score_and_the_lowest_of_a_loss(path, said, mode):
    assert load_recipe(path, [f"evaluation.keep_best={said}"]).training_config().best == mode


def test_precision_auto_is_what_the_machine_says(path):
    assert load_recipe(path).training_config().precision == "float32"
    assert load_recipe(path).training_config("bfloat16").precision == "bfloat16"
    assert load_recipe(path, ["training.precision=float32"]).training_config("bfloat16").precision == "float32"


def test_tokens_become_steps(path):
    recipe = load_recipe(path, ["training.tokens=1_000_000"])
    assert recipe.steps == -(-1_000_000 // (16 * 64)), "an override of tokens takes the place of the file's steps"


def test_overrides_are_typed_as_yaml_and_reach_into_lists(path):
    recipe = load_recipe(
        path,
        ["training.lr=5e-4", "data.sources.1.weight=3", "model.feedforward={kind: MLP, width: 96}", "name=other",
         "evaluation.tasks=[{task: translation, from: pairs.jsonl}]", "model.tied=false", "training.batch_rows=4"],
    )  # fmt: skip
    assert recipe.training.lr == 5e-4
    assert recipe.sources()[1].weight == 3
    assert recipe.name == "other"
    assert recipe.batch_rows == 4
    network = recipe.network(500)
    assert (type(network.feedforward).__name__, network.tied) == ("MLP", False)
    (task, spec) = recipe.evaluated()[0]
    assert (task.shots, spec.split) == (0, "validation")


def test_what_is_said_to_be_nothing_stays_nothing(path, tmp_path):
    """A limit of null is all rows, where the key left out means 200."""
    recipe = load_recipe(path, ["evaluation.tasks=[{task: text, from: pairs.jsonl, limit: null, split: null}]"])
    (tmp_path / "again.yaml").write_text(recipe.dump())
    again = load_recipe(tmp_path / "again.yaml").evaluation.tasks[0]
    assert (again.limit, again.split) == (None, None)


def test_the_dropout_of_training_counts(path):
    options = ["model.dropout=0.3", "training.dropout=0.0"]
    assert load_recipe(path, options[:1]).network(100).dropout == 0.3
    assert load_recipe(path, options).network(100).dropout == 0.0


def test_dump_reads_back_to_an_equal_recipe(path, tmp_path):
    options = ["data.sources.0.where={lang: 'no', year: [1, 2]}", "tokenizer={kind: bytes}", "name='1e5'"]
    for recipe in (load_recipe(path, options), *map(load_recipe, names())):
        (tmp_path / "dumped").mkdir(exist_ok=True)
        (tmp_path / "dumped" / "again.yaml").write_text(recipe.dump())
        again = load_recipe(tmp_path / "dumped" / "again.yaml", data_dir=recipe.data.folder)
        same = {"data": again.data.model_copy(update={"folder": recipe.data.folder})}
        assert again.model_copy(update=same) == recipe
        assert yaml.safe_load(recipe.dump())["seed"] == recipe.seed


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  lr: 1e-3", "  learning_rat: 1e-3", 18, "training.learning_rat: there is no such key"),
        ("  warmup: 0.1", "  warmp: 0.1", 19, "did you mean 'warmup'"),
        ("seed: 7", "lr: 7", 2, "it belongs under `training`"),
        ("  lr: 1e-3", "  lr: -1e-3", 18, "greater than 0"),
        ("  lr: 1e-3", "  lr: fast", 18, "'fast'"),
        ("  lr: 1e-3", "  lr: true", 18, "True"),
        ("  lr: 1e-3", "  optimizer: adamv", 18, "did you mean 'adamw'"),
        ("  steps: 200", "  steps: 2.5", 15, "2.5"),
        ("  steps: 200\n", "", 14, "either `steps` or `tokens`"),
        ("  warmup: 0.1", "  warmup: 300", 19, "longer than the run"),
        ("  lr: 1e-3", "  context_length: 64", 18, "twice"),
        ("  depth: 2", "  dept: 2", 5, "did you mean 'depth'"),
        ("  system: generalist", "  system: generalst", 4, "did you mean 'generalist'"),
        ("  depth: 2", "  heads: 7\n  dim: 64", 6, "heads=7"),
        ("      weight: 2", "      wait: 2", 12, "did you mean 'weight'"),
        ("from: pairs.jsonl, columns", "form: pairs.jsonl, columns", 13, "data.sources.1.from is missing"),
        ("  held_out: 0.1", "  held_out: 1.5", 7, "less than 1"),
        ("  depth: 2", "  depth: [2", 6, "not YAML"),
        ("  depth: 2", "  depth: 2  # \x07", 5, "the character 0x7 cannot be in YAML"),
        ("seed: 7", "name: {{ something }}", 2, "cannot be a key; quote"),
        ("  warmup: 0.1", "  warmup: .inf", 19, "inf will not do: it must be a finite number."),
        ("  warmup: 0.1", "  decay: .inf", 19, "inf will not do: it must be a finite number."),
        (
            "  held_out: 0.1",
            "  mixture: {by: stages, stages: [{until: .inf, weights: {pairs: 1}}]}",
            7,
            "finite number.",
        ),
        ("  depth: 2", "  depth: 2\ntokenizer: {segmentations: 3}", 6, "`segmentations` are of `dropout`"),
        ("  held_out: 0.1", "  mixture: {by: stages, stages: [{until: 0.5, weights: {piars: 1}}]}", 7, "'pairs'"),
    ],
)
def test_errors_name_file_line_key_and_what_is_near(path, old, new, line, words):
    with pytest.raises(ConfigError) as error:
        load_recipe(changed(path, old, new))
    assert f"mine.yaml line {line}" in str(error.value)
    assert words in str(error.value)
    assert str(error.value).count("will not do") <= 1, "one sentence for one mistake"


def test_errors_about_drawing_name_file_and_line(tmp_path):
    text = (RECIPES / "imagen-blocks.yaml").read_text()
    number = text[: text.index("\ndrawing:")].count("\n") + 2
    (tmp_path / "mine.yaml").write_text(text.replace("sampler: dpm_solver", "\n  smapler: dpm_solver"))
    with pytest.raises(ConfigError) as error:
        load_recipe(tmp_path / "mine.yaml")
    assert f"mine.yaml line {number + 1}: drawing: there is no 'smapler': did you mean 'sampler'" in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lr", "key=value"),
        ("training.lr=[", "YAML"),
        ("training.lr=-2", "override training.lr=-2"),
        ("training.lrr=2", "did you mean 'lr'"),
        ("data.sources.5.weight=1", "list of 2"),
        ("seed.deep=1", "without keys"),
        ("model.dept=3", "override model.dept=3"),
    ],
)
def test_errors_of_overrides_name_the_override(path, override, words):
    with pytest.raises(ConfigError) as error:
        load_recipe(path, [override])
    assert words in str(error.value)


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'shakespeare'"):
        load_recipe("shakespear")
    with pytest.raises(ConfigError, match="folder"):
        load_recipe(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_recipes_are_frozen(path):
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(path).seed = 3


def test_a_model_comes_from_a_checkpoint_or_a_system(path):
    recipe = load_recipe(path, ["model={from: out/model}"])
    assert (recipe.model.from_, recipe.model.system) == ("out/model", None)
    with pytest.raises(ConfigError, match="come"):
        recipe.network(500)
    for wrong in ("{from: out/model, system: gpt3}", "{from: out/model, depth: 3}"):
        with pytest.raises(ConfigError, match="model"):
            load_recipe(path, [f"model={wrong}"])
    assert Network(system="gpt3", size="small").changes == {}


@pytest.mark.parametrize("name", names())
def test_shipped_recipes_are_sound(name):
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    specs = recipe.sources()
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in (*specs, *(spec for _, spec in recipe.evaluated())):
        assert isinstance(spec, SourceSpec)
        assert isinstance(spec.task, str)
        assert {*spec.fields, *spec.columns} <= set(get_task(spec.task).fields)
    for task, _ in recipe.evaluated():
        assert task.metric is None or task.metric in get_task(task.task).metric_names
    if recipe.draws:
        assert recipe.picture_network(vocab_size=recipe.tokenizer.size).build
    else:
        assert recipe.network(recipe.tokenizer.size).decoder.vocab_size == recipe.tokenizer.size


@pytest.mark.parametrize("name", names())
def test_no_shipped_recipe_trains_on_rows_that_it_holds_out(name):
    """Sources of one file hold out the same rows of it, which they do by a row's content, or none."""
    recipe = load_recipe(name)
    held = {}
    for spec in recipe.sources():
        if spec.from_ not in GENERATORS:
            share = share_of(spec, recipe.data.held_out)
            held.setdefault(spec.from_, []).append((share, spec.columns, spec.fields) if share else None)
    for file, said in held.items():
        assert all(one == said[0] for one in said), file


def test_shipped_recipes_have_the_sizes_that_they_state():
    def millions(name):
        recipe = load_recipe(name)
        return parameters(recipe.network(recipe.tokenizer.size)) / 1e6

    assert millions("transformer-multi30k") <= 5
    assert 9.5 <= millions("multitask") <= 10.5
    assert 28 <= millions("mini") <= 32
    shakespeare = load_recipe("shakespeare").network(100)
    assert (shakespeare.layers, shakespeare.attentions[0].heads, shakespeare.dim) == (4, 4, 128)


def test_the_demo_needs_no_files_and_learns_every_task_of_texts():
    recipe = load_recipe("demo")
    assert {spec.task for spec in recipe.sources()} == set(TASKS)
    for spec in recipe.sources():
        assert next(read(spec))


def test_the_released_model_learns_from_nothing_it_may_not():
    forbidden = {"openstax_nc", "aeslc", "dialogsum", "dream", "mctest", "ag_news", "multi30k", "conala", "babi",
                 "rotten_tomatoes", "sst2", "sst5", "subj", "trec", "t0_mix", "hate_offensive", "synthetic_stories",
                 "synthetic_instructions", "wikipedia_en", "wikitext2", "onestop_english", "open_trivia", "sgd",
                 "arc_easy", "arc_challenge", "boolq"}  # fmt: skip
    recipe = load_recipe("mini")
    for spec in recipe.sources():
        folder = spec.from_.split("/")[0]
        assert folder not in forbidden
        assert not folder.startswith("tweet_")
        assert spec.licence
        assert spec.attribution
        assert not {"NC", "SA"} & set(spec.licence.replace("-", " ").split())
        assert "license" in spec.where or folder != "storybooks"
    assert recipe.data.clean is not None
    assert recipe.data.clean.decontaminate
