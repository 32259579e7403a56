"""The U-Net beside diffusers', of the form that DeepFloyd IF has, and what it does with its conditions."""

import copy
import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from polytask.errors import ConfigError
from polytask.models.unet import UNet, UNetConfig
from polytask.nn.convolution import Convolution

TINY = UNetConfig(
    pixels=16, channels=32, multipliers=(1, 2), blocks=2, attention=(8,), head_dim=16, groups=8, text=24,
    learned_variance=True,
)  # fmt: skip
EFFICIENT = UNetConfig(
    pixels=32, channels=16, multipliers=(1, 2, 4), blocks=(1, 2, 2), text_attention=(4,), heads=2, attention_width=2,
    form="efficient", skip_scale=2**-0.5, text=24, text_pooling=True, low=True, augmentation=True, groups=8,
)  # fmt: skip


def filled(config, seed=0):
    """With random numbers everywhere, those that begin as 0 included."""
    network, generator = UNet(config).initialize(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.5 if parameter.ndim < 2 else math.prod(parameter.shape[1:]) ** -0.5
            parameter.normal_(std=spread, generator=generator)
    return network.eval()


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_diffusers(config):
    down = ["SimpleCrossAttnDownBlock2D" if config.pixels // f in config.attention else "ResnetDownsampleBlock2D"
            for f in config.factors]  # fmt: skip
    up = [kind.replace("DownBlock", "UpBlock").replace("Downsample", "Upsample") for kind in reversed(down)]
    return UNet2DConditionModel(
        sample_size=config.pixels, in_channels=3, out_channels=6, down_block_types=down, up_block_types=up,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=config.widths,
        layers_per_block=config.blocks, resnet_time_scale_shift="scale_shift", norm_num_groups=config.groups,
        cross_attention_dim=config.text, attention_head_dim=config.head_dim, only_cross_attention=False,
        flip_sin_to_cos=True, freq_shift=0,
    ).eval()  # fmt: skip


def residual(ours, theirs):
    pairs = {
        ours.norm: theirs.norm1, ours.inner: theirs.conv1, ours.embedding: theirs.time_emb_proj,
        ours.inner_norm: theirs.norm2, ours.outer: theirs.conv2,
    }  # fmt: skip
    return pairs | ({ours.shortcut: theirs.conv_shortcut} if ours.shortcut is not None else {})


def copy_weights(ours, theirs):
    """Ours into theirs, every number of either once."""
    pairs = {
        ours.first: theirs.conv_in, ours.time.hidden: theirs.time_embedding.linear_1, ours.norm: theirs.conv_norm_out,
        ours.time.output: theirs.time_embedding.linear_2, ours.last: theirs.conv_out,
    }  # fmt: skip
    blocks, attentions = [], []
    for part in (*theirs.down_blocks, theirs.mid_block, *theirs.up_blocks):
        more = [*(getattr(part, "downsamplers", None) or []), *(getattr(part, "upsamplers", None) or [])]
        blocks += [*part.resnets, *more]
        attentions += getattr(part, "attentions", [])
    stages = [*ours.down, *ours.middle, *ours.up]
    for stage, block in zip(stages, blocks, strict=True):
        pairs |= residual(stage.block, block)
    mixed = [stage.attention for stage in stages if stage.attention is not None]
    written = set()

    def put(to, value):
        assert to not in written
        written.add(to)
        to.data.copy_(value)

    for own, their in pairs.items():
        put(their.weight, own.weight)
        put(their.bias, own.bias)
    for own, their in zip(mixed, attentions, strict=True):
        layers = [
            (own.norm, [their.group_norm]), (own.qkv, [their.to_q, their.to_k, their.to_v]),
            (own.text, [their.add_k_proj, their.add_v_proj]), (own.output, [their.to_out[0]]),
        ]  # fmt: skip
        for one, several in layers:
            for kind in ("weight", "bias"):
                for to, value in zip(several, getattr(one, kind).chunk(len(several)), strict=True):
                    put(getattr(to, kind), value)
    assert written == set(theirs.parameters())
    assert sum(p.numel() for p in written) == sum(p.numel() for p in ours.parameters())


def test_outputs_and_gradients_are_those_of_diffusers():
    ours = filled(TINY)
    theirs = of_diffusers(TINY)
    with torch.no_grad():
        copy_weights(ours, theirs)
    x, t, text = noise(1, 3, 3, 16, 16), torch.tensor([0, 37, 999]), noise(2, 3, 5, 24)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    given = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
    found, wanted = ours(x, t, text, mask), theirs(x, t, **given).sample
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    found.square().mean().backward()
    wanted.square().mean().backward()
    torch.testing.assert_close(ours.first.weight.grad, theirs.conv_in.weight.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        ours.time.hidden.weight.grad, theirs.time_embedding.linear_1.weight.grad, atol=1e-4, rtol=1e-3
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, text, mask), wanted.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_weights_laid_out_once_give_the_same(kernel, stride, kind):
    layer = Convolution(6, 10, kernel, stride).eval()
    with torch.no_grad():
        layer.weight.copy_(noise(0, 10, 6, kernel, kernel))
        layer.bias.copy_(noise(1, 10))
    layer.to(kind)
    close = {"atol": 1e-5, "rtol": 1e-5} if kind == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    for size in (8, 5, 12):  # the layout is made for the first and serves all
        x = noise(size, 2, 6, size, size).to(kind)
        wanted = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride, kernel // 2)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), wanted, **close)
            with torch.inference_mode():
                torch.testing.assert_close(layer(x.clone()), wanted, **close)


def test_a_changed_weight_is_laid_out_anew():
    layer, x = Convolution(4, 4).eval(), noise(2, 1, 4, 8, 8)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.zero_()
        first = layer(x)
        layer.weight.mul_(2)  # as an optimizer or a moving average does
        torch.testing.assert_close(layer(x), 2 * first)
        layer.load_state_dict({"weight": layer.weight / 4, "bias": layer.bias})
        torch.testing.assert_close(layer(x), first / 2)
        layer(x)
        layer.train()
        torch._fused_adamw_([layer.weight], [torch.ones_like(layer.weight)], [torch.zeros_like(layer.weight)],
                            [torch.zeros_like(layer.weight)], [], [torch.ones(())], lr=1.0, beta1=0.9, beta2=0.9,
                            weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False)  # fmt: skip
        layer.eval()
        torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1))
        layer.load_state_dict({"weight": (layer.weight + 1), "bias": layer.bias})
        twin = copy.deepcopy(layer)
        twin.weight.zero_()
        assert float(twin(x).abs().max()) == 0
        torch.testing.assert_close(layer(x), first / 2)


@pytest.mark.parametrize("config", [TINY, EFFICIENT], ids=["improved", "efficient"])
def test_masked_text_is_not_seen(config):
    network, x, t = filled(config), noise(1, 2, 3, 32, 32), torch.tensor([5, 700])
    low = noise(5, 2, 3, 16, 16) if config.low else None
    text, mask = noise(2, 2, 6, 24), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    other = torch.where(mask[..., None], text, 9.0)
    with torch.no_grad():
        found = network(x, t, text, mask, low=low)
        torch.testing.assert_close(network(x, t, other, mask, low=low), found)
        torch.testing.assert_close(network(x[:1], t[:1], text[:1, :4], low=None if low is None else low[:1]), found[:1],
                                   atol=1e-4, rtol=1e-4)  # fmt: skip
        assert not torch.allclose(network(x, t, text.flip(0), mask, low=low), found, atol=1e-3)
        assert not torch.allclose(network(x, t, None, low=low), found, atol=1e-3)


def test_every_condition_is_seen():
    config = UNetConfig(
        pixels=16, channels=16, multipliers=(1, 2), blocks=1, attention=(8,), head_dim=8, groups=8, text=24, pooled=12,
        pooled_tokens=4, low=True, augmentation=True, self_conditioning=True,
    )  # fmt: skip
    network = filled(config)
    given = {
        "x": noise(0, 1, 3, 16, 16), "t": torch.tensor([300]), "text": noise(1, 1, 5, 24), "pooled": noise(2, 1, 12),
        "low": noise(3, 1, 3, 8, 8), "augmentation": torch.tensor([0.3]), "guess": noise(4, 1, 3, 16, 16),
    }  # fmt: skip
    with torch.no_grad():
        found = network(**given)
        for name, value in given.items():
            other = network(**given | {name: value + 100 if name == "t" else value * 2})
            assert not torch.allclose(other, found, atol=1e-4), name


def test_the_efficient_form_has_its_published_structure():
    """Strides before a level's blocks and enlarges after them, most blocks where maps are small."""
    network = filled(EFFICIENT)
    kinds = [type(stage.block).__name__ for stage in network.down]
    assert kinds == ["Resample", *["ResidualBlock"] * 1, *(["Resample"] + ["ResidualBlock"] * 2) * 2]
    kinds = [type(stage.block).__name__ for stage in network.up]
    assert kinds == [*(["ResidualBlock"] * 2 + ["Resample"]) * 2, "ResidualBlock", "Resample"]
    assert sum(stage.keeps for stage in network.down) == sum(stage.takes for stage in network.up) == 2
    attending = [stage.attention for stage in (*network.down, *network.up) if stage.attention is not None]
    assert len(attending) == 2
    assert all(len(attention.parts) == 1 and attention.text.in_features == 24 for attention in attending)


def test_fresh_networks_predict_nothing_and_learn():
    network = UNet(TINY).initialize(0)
    x, t = noise(0, 2, 3, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        assert float(network(x, t).abs().max()) == 0
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), UNet(TINY).initialize(0).parameters(), strict=True)
    )
    network(x, t).sub(1).square().mean().backward()
    assert float(network.last.bias.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"form": "eficient"}, "improved, efficient"),
        ({"pixels": 17}, "multiple of 2"),
        ({"attention": (5,)}, r"attention at 5, but the maps have sides of \[16, 8\]"),
        ({"groups": 7}, "must divide"),
        ({"blocks": (1, 2, 3)}, "3 numbers of blocks for 2 levels"),
        ({"dropout": 1.0}, "below 1"),
        ({"head_dim": 20}, "3 heads cannot share the 64 channels"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    words = {"pixels": 16, "channels": 32, "multipliers": (1, 2), "blocks": 1} | changes
    with pytest.raises(ConfigError, match=sentence):
        UNetConfig(**words)
    with pytest.raises(ConfigError, match="multiples of 2"):
        UNet(TINY)(torch.zeros(1, 3, 15, 16), torch.tensor([1]))
