"""Folders of others as users meet them: names, shards, precisions, keys of their config.json."""

import json

import pytest
import torch
from safetensors.torch import load_file

from polytask.errors import CheckpointError
from polytask.interop import hf
from polytask.models import cost
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from tests.interop.editing import change, same_weights, tensors
from tests.interop.families import CASES, case


@pytest.mark.parametrize("name", list(CASES))
def test_the_table_inverts_and_covers_every_number_once(name):
    """Ours out by the table and in again is ours; every number of ours has exactly one place there."""
    family = hf.family_of(case(name).folder)
    config = hf.read_config(case(name).folder)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(config).named_parameters()}
    assert cost.parameters(config) == sum(shape.numel() for shape in shapes.values())
    for rows in filter(None, (family.rows, family.other_rows)):
        ours = {key: torch.arange(shape.numel()).view(shape) for key, shape in shapes.items()}
        back = {key: torch.full(shape, -1) for key, shape in shapes.items()}
        places = 0
        table = rows(config)
        assert len({row.theirs for row in table}) == len(table)
        for row in table:
            theirs = torch.full(row.view.shape(ours[row.ours]), -1)
            for whole, part in row.view.pairs(theirs, ours[row.ours]):
                whole.copy_(part)
            assert theirs.min() >= 0
            places += theirs.numel()
            for whole, part in row.view.pairs(theirs, back[row.ours]):
                part.copy_(whole)
        assert places == sum(tensor.numel() for tensor in ours.values())
        assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_blooms_matrix_is_by_head():
    """[head, (q, k, v), channel]: the rows of the second head's key, by hand."""
    folder = case("bloom").folder
    theirs = load_file(folder / "model.safetensors")["transformer.h.0.self_attention.query_key_value.weight"]
    ours = hf.load_network(folder, torch.float64).get_parameter("blocks.0.attention.qkv.weight")
    heads, width = 6, 6
    assert torch.equal(
        ours[heads * width + width : heads * width + 2 * width], theirs[(3 + 1) * width : (3 + 2) * width]
    )


def test_falcons_groups_end_with_key_and_value():
    folder = case("falcon 40b").folder
    theirs = load_file(folder / "model.safetensors")["transformer.h.1.self_attention.query_key_value.weight"]
    ours = hf.load_network(folder, torch.float64).get_parameter("blocks.1.attention.qkv.weight")
    heads, groups, width = 6, 2, 8
    start = (heads + groups) * width + width  # the second group's value
    second = (heads // groups + 2) * width
    assert torch.equal(ours[start : start + width], theirs[2 * second - width : 2 * second])


def test_gpt_neo_does_not_scale_its_scores():
    attention = hf.read_config(case("gpt neo").folder).attention
    assert [part.scale for part in attention] == [1.0, 1.0, 1.0]
    assert [part.window for part in attention] == [None, 5, 5]


def test_mixtrals_balance_loss_is_top_k_at_an_even_load(tmp_path):
    import transformers

    _, words = CASES["mixtral"]
    config = transformers.MixtralConfig(**(words | {"num_hidden_layers": 1}), output_router_logits=True)
    torch.manual_seed(0)
    oracle = transformers.MixtralForCausalLM._from_config(config).eval()
    ids = torch.randint(2, 97, (2, 12))
    for even in (False, True):
        if even:
            oracle.model.layers[0].mlp.gate.weight.data.zero_()
        oracle.save_pretrained(tmp_path / str(even))
        ours = hf.load_network(tmp_path / str(even))
        context = Context(torch.arange(12).expand(2, 12))
        ours(ids, context)
        assert float(context.routing[0].balance) == pytest.approx(float(oracle(ids).aux_loss), abs=1e-5)
    assert float(context.routing[0].balance) == pytest.approx(2.0, abs=1e-5)


def test_experts_in_one_tensor_load_as_well(copy):
    folder = copy("mixtral")
    ours = hf.load_network(folder, torch.float64)
    rows = hf.family_of(folder).other_rows(ours.config)

    def fuse(state):
        state.clear()
        state.update({r.theirs: next(iter(r.view.pairs(None, ours.get_parameter(r.ours))))[1].clone() for r in rows})

    tensors(folder, fuse)
    same_weights(folder, "mixtral")


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama", "opt"])
def test_names_without_the_prefix(copy, name):
    folder = copy(name)
    prefix = hf.family_of(folder).prefix
    tensors(folder, lambda s: [s.update({key.removeprefix(prefix): s.pop(key)}) for key in list(s)])
    same_weights(folder, name)


def test_buffers_and_copies_of_old_folders_are_no_weights(copy):
    folder = copy("gpt2")

    def old(state):
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        state["lm_head.weight"] = state["transformer.wte.weight"].clone()

    tensors(folder, old)
    same_weights(folder, "gpt2")
    tensors(folder, lambda state: state["lm_head.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"lm_head.weight, which differs from transformer.wte.weight.*tie_word"):
        hf.load_network(folder)


def test_old_words_for_rotary_positions(copy):
    folder = copy("llama, wide heads and biases")
    said = json.loads((folder / "config.json").read_text())["rope_parameters"]
    new = hf.read_config(folder)
    theta = said.pop("rope_theta")
    change(folder, rope_parameters=..., rope_theta=theta, rope_scaling=said)
    assert hf.read_config(folder) == new
    assert new.position.theta == 700.0
    said["type"] = said.pop("rope_type")
    change(folder, rope_scaling=said)
    assert hf.read_config(folder) == new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_any_precision(copy, dtype, monkeypatch):
    monkeypatch.setattr("polytask.interop.shards.SCRATCH", 1000)
    found = hf.load_network(case("gpt2").folder, dtype).state_dict()
    expected = hf.load_network(case("gpt2").folder, torch.float64).state_dict()
    assert all(torch.equal(found[key], expected[key].to(dtype)) for key in expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma 2", {"hidden_activation": "gelu"}),
        ("gemma", {"hidden_act": "gelu"}),
        ("gpt neo", {"attention_layers": ["local", "local", "local"]}),
        ("gpt-neox", {"rope_parameters": ..., "rope_theta": 100.0, "partial_rotary_factor": 0.5}),
        ("gpt-neox", {"rope_parameters": ..., "rope_theta": 100.0, "rotary_emb_base": 500, "rotary_pct": 0.5}),
        ("gpt-neox", {"rotary_pct": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
    ],
)
def test_keys_that_rule_each_other_out_are_read_as_transformers_does(copy, name, words):
    import transformers

    folder, ids = copy(name), torch.arange(2, 38)[None]
    change(folder, **words)
    network, positions = hf.load_network(folder), torch.arange(36)[None]
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        assert (network.logits(network(ids, Context(positions))) - expected).abs().max() < 2e-5
