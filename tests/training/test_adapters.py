"""LoRA against peft: files of either are read by the other, with equal outputs."""

import json

import pytest
import torch
from torch import nn

from polytask.errors import CheckpointError, ConfigError
from polytask.training import adapters
from polytask.training.adapters import LoRA
from polytask.training.config import TrainingConfig
from tests.training.toy import network, trainer


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(6, 9), "down": nn.Linear(9, 6)}) for _ in range(2))
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](x)))
        return self.head(x)


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def shaken(module):
    """Adapters that do something: B starts as zero."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return module


@pytest.mark.parametrize("root_scale", [False, True])
def test_peft_reads_ours(tmp_path, root_scale):
    peft = pytest.importorskip("peft")
    ours = Plain()
    adapters.apply(ours, LoRA(rank=3, alpha=5, targets=("up", "head"), root_scale=root_scale))
    shaken(ours)
    adapters.save(tmp_path, ours)
    theirs = peft.PeftModel.from_pretrained(Plain(), tmp_path)
    assert not torch.allclose(ours(X), Plain()(X), atol=1e-2)
    torch.testing.assert_close(theirs(X), ours(X))
    torch.testing.assert_close(theirs.merge_and_unload()(X), ours(X))


@pytest.mark.parametrize("root_scale", [False, True])
def test_we_read_pefts(tmp_path, root_scale):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["down", "blocks.1.up"], use_rslora=root_scale)
    theirs = shaken(peft.get_peft_model(Plain(), config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = Plain()
    assert sorted(adapters.load(ours, tmp_path)) == ["blocks.0.down", "blocks.1.down", "blocks.1.up"]
    torch.testing.assert_close(ours(X), theirs(X))


def test_a_fresh_adapter_changes_nothing_and_alone_learns():
    net = Plain()
    before = net(X)
    adapters.apply(net, LoRA(rank=2))
    assert torch.equal(net(X), before)
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        name for name, _ in net.named_parameters() if "lora_" in name
    }


def test_merging_keeps_the_outputs_and_the_names():
    net = Plain()
    names = list(net.state_dict())
    adapters.apply(net, LoRA(rank=2, alpha=3))
    shaken(net)
    adapted = net(X)
    plain = Plain()
    plain.load_state_dict(adapters.merged_weights(net, net.state_dict()))
    torch.testing.assert_close(plain(X), adapted)
    assert len(adapters.merge(net)) == 5
    torch.testing.assert_close(net(X), adapted)
    assert list(net.state_dict()) == names
    assert all(p.requires_grad for p in net.parameters())


def test_dropout_is_on_the_adapters_input_alone():
    net = Plain()
    adapters.apply(net, LoRA(rank=2, dropout=0.5))
    before = net.train()(X)
    assert torch.equal(before, Plain()(X)), "B is zero, so what A sees does not matter yet"
    shaken(net)
    assert not torch.equal(net(X), net(X))
    assert torch.equal(net.eval()(X), net(X))


@pytest.mark.parametrize("tied", [True, False])
def test_all_spares_the_output_matrix(tied):
    net = network(tied=tied)
    names = adapters.apply(net, LoRA())
    assert "output" not in names
    assert len(names) == 2 * 4
    named = adapters.apply(network(tied=tied), LoRA(targets="output"))
    assert named == ["blocks.0.attention.output", "blocks.1.attention.output"]


def test_training_an_adapter(tmp_path):
    net = network()
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    adapters.apply(net, LoRA(rank=4))
    config = TrainingConfig(30, lr=3e-2, log_every=10)

    def save(folder, weights, step):
        adapters.save(folder, net, weights)

    def losses(steps, resume=False):
        run = trainer(tmp_path / "run", TrainingConfig(steps, lr=3e-2, schedule="constant"), net, save=save)
        return run.run(resume).loss

    first, second = losses(1), losses(config.steps, resume=True)
    assert second < first
    for name, tensor in net.state_dict().items():
        if ".base." in name:
            assert torch.equal(tensor, base[name.replace(".base.", ".")])
    again = network()
    adapters.load(again, tmp_path / "run" / "model")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'down'"):
        adapters.apply(Plain(), LoRA(targets=("donw",)))
    with pytest.raises(ConfigError, match="rank"):
        LoRA(rank=0)
    net = Plain()
    with pytest.raises(ConfigError, match="no adapters"):
        adapters.save(tmp_path, net)
    adapters.apply(net, LoRA(rank=2))
    with pytest.raises(ConfigError, match="already"):
        adapters.apply(net, LoRA(rank=2))
    adapters.save(tmp_path, net)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.\w+.*another model"):
        adapters.load(network(), tmp_path)
    file = tmp_path / "adapter_config.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps(described | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        adapters.load(Plain(), tmp_path)
    file.write_text(json.dumps(described | {"r": 3}))
    with pytest.raises(CheckpointError, match="shape"):
        adapters.load(Plain(), tmp_path)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        adapters.load(Plain(), tmp_path / "nowhere")
