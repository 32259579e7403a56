"""CLIP against transformers' own, tiny and random, and its weights both ways."""

from types import SimpleNamespace

import pytest
import torch

from polytask.errors import CheckpointError, ConfigError
from polytask.interop import hf
from polytask.models.clip import CLIP
from polytask.models.resnet import ResNetConfig
from polytask.systems.clip import clip
from polytask.systems.open_weights.clip import DEVIATION, MEAN
from polytask.training.objectives.contrastive import Contrastive

TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 12, "bos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
VISION = {
    "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 24,
    "patch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module", params=[2, 57], ids=["end is the highest id", "end is an id"])
def pair(request, tmp_path_factory):
    """(theirs, ours, folder) in float64, with shaken weights."""
    import transformers

    torch.manual_seed(0)
    text = TEXT | {"eos_token_id": request.param}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=20)
    theirs = transformers.CLIPModel(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(folder / "theirs")
    return theirs, hf.load_network(folder / "theirs", torch.float64), folder


def inputs():
    """Five pictures in [-1, 1], and texts of different length with an end in the middle of the padding's ids."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(5, 3, 24, 24, generator=generator, dtype=torch.float64) * 2 - 1
    ids = torch.randint(3, 50, (5, 12), generator=generator)
    for row, end in enumerate((11, 4, 7, 1, 9)):
        ids[row, end] = 98 if row % 2 else 57  # some rows have the one, some the other, all have their highest id
        ids[row, end + 1 :] = 1
        ids[row, max(0, end - 1)] = 57
    return pixels, ids, torch.ones_like(ids, dtype=torch.bool)


def pairs_of(pixels, ids, mask):
    """A batch with one more row, which only fills it up."""
    parts = {"pixels": pixels, "ids": ids, "mask": mask}
    more = {name: torch.cat([part, part[:1]]) for name, part in parts.items()}
    return SimpleNamespace(**more, sources=torch.tensor([0] * len(ids) + [-1]))


def as_theirs(pixels):
    mean, deviation = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, DEVIATION))
    return ((pixels + 1) / 2 - mean) / deviation


def test_embeddings_logits_loss_and_gradients_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    pixels, ids, mask = inputs()
    said = theirs(ids, as_theirs(pixels), return_loss=True)
    torch.testing.assert_close(ours.encode_image(pixels), said.image_embeds, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.encode_text(ids, mask), said.text_embeds, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours(pixels, ids, mask), said.logits_per_image, rtol=0, atol=1e-9)
    loss = Contrastive().loss(ours, pairs_of(pixels, ids, mask))
    torch.testing.assert_close((loss.sum / loss.weight).double(), said.loss, rtol=0, atol=1e-5)  # float32 softmax
    logits, right = ours(pixels, ids, mask), torch.arange(5)
    cross = torch.nn.functional.cross_entropy
    ours.zero_grad()
    theirs.zero_grad()
    ((cross(logits, right) + cross(logits.mT, right)) / 2).backward()
    said.loss.backward()
    named = dict(theirs.named_parameters())
    for row in hf.FAMILIES.get("clip").rows(ours.config):
        for mine, other in row.view.pairs(named[row.theirs].grad, ours.get_parameter(row.ours).grad):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_text(pair, side):
    theirs, ours, _ = pair
    _, ids, _ = inputs()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :1] = side == "right"
    mask[:, -1:] = side == "left"
    torch.testing.assert_close(
        ours.encode_text(ids, mask)[[1, 2, 4]],
        torch.nn.functional.normalize(theirs.get_text_features(ids, mask.long()).pooler_output, dim=-1)[[1, 2, 4]],
        rtol=0, atol=1e-10,
    )  # fmt: skip


def test_weights_go_out_and_come_back(pair):
    import transformers

    theirs, ours, folder = pair
    if not (folder / "ours").exists():
        hf.export(folder / "ours", ours)
    again = transformers.CLIPModel.from_pretrained(folder / "ours", dtype=torch.float64)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert hf.read_config(folder / "ours") == ours.config == hf.read_config(folder / "theirs")


def test_states_of_the_second_last_layer_are_those_of_transformers(pair):
    theirs, ours, _ = pair
    pixels, _, _ = inputs()
    states = theirs.vision_model(as_theirs(pixels), output_hidden_states=True).hidden_states
    torch.testing.assert_close(ours.vision(pixels, left_out=1), states[-2], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.vision(pixels), states[-1], rtol=0, atol=1e-10)


def test_a_process_may_have_no_pair_of_a_last_batch(pair):
    pixels, ids, mask = inputs()
    nothing = SimpleNamespace(pixels=pixels[:1], ids=ids[:1], mask=mask[:1], sources=torch.tensor([-1]))
    loss = Contrastive().loss(pair[1].eval(), nothing)
    assert [value.item() for value in (loss.sum, loss.weight, *loss.log.values())] == [0.0, 0.0, 0.0, 0.0]


def test_the_scale_begins_at_its_published_value_and_stays_below_100(pair):
    ours = CLIP(pair[1].config).initialize(3)
    assert abs(ours.scale.item() - 1 / 0.07) < 1e-2  # transformers rounds its logarithm to 2.6592
    with torch.no_grad():
        ours.log_scale.fill_(9.0)
    ours.clip_scale()
    assert abs(ours.scale.item() - 100) < 1e-3


def test_pairs_are_learnt_and_the_same_seed_draws_the_same_weights(pair):
    model, again = (CLIP(pair[1].config).initialize(3) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    pixels, ids, mask = inputs()
    batch = pairs_of(pixels.float(), ids, mask)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    for _ in range(25):
        loss = Contrastive().loss(model, batch)
        losses.append((loss.sum / loss.weight).item())
        optimizer.zero_grad()
        loss.sum.backward()
        optimizer.step()
    assert losses[-1] < 0.05 < 1.0 < losses[0]


def test_a_picture_of_another_size_is_refused(pair):
    with pytest.raises(ConfigError, match=r"resize"):
        pair[1].encode_image(torch.zeros(1, 3, 20, 24, dtype=torch.float64))


def test_a_clip_folder_is_no_language_model(pair):
    from polytask.interop.folder import read_folder

    with pytest.raises(CheckpointError, match="clip network"):
        read_folder(pair[2] / "theirs")


def residual():
    network = CLIP(
        clip(ResNetConfig(64, (1, 2, 1, 1), 8, 4), 20, text_dim=32, text_layers=1, vocab_size=60, text_heads=2)
    )
    network = network.initialize(0).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.vision.parameters(), *network.vision.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return network


def test_the_residual_network_is_the_published_one():
    """Written out once more, attention by torch's own function. The released code gives ours, bit by bit."""
    network, f = residual(), torch.nn.functional
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1

    def layer(part, x):
        convolution, norm = part
        x = f.conv2d(x, convolution.weight, None, convolution.stride, padding=convolution.kernel_size[0] // 2)
        return f.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    expected = x
    for part in network.vision.stem:
        expected = layer(part, expected).relu()
    expected = f.avg_pool2d(expected, 2)
    for number, stage in enumerate(network.vision.stages):
        for place, block in enumerate(stage):
            halved = number > 0 and place == 0
            y = layer(block.second, layer(block.first, expected).relu()).relu()
            y = layer(block.third, f.avg_pool2d(y, 2) if halved else y)
            if place == 0:
                expected = layer(block.identity, f.avg_pool2d(expected, 2) if halved else expected)
            expected = (expected + y).relu()
    pool = network.vision.pool
    tokens = expected.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + pool.position[:, None]
    linears = (pool.query, pool.key, pool.value)
    expected, _ = f.multi_head_attention_forward(
        tokens[:1], tokens, tokens, 256, 4, None, torch.cat([one.bias for one in linears]), None, None, False, 0.0,
        pool.output.weight, pool.output.bias, training=False, use_separate_proj_weight=True,
        q_proj_weight=pool.query.weight, k_proj_weight=pool.key.weight, v_proj_weight=pool.value.weight,
    )  # fmt: skip
    torch.testing.assert_close(network.vision(x), expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(network.encode_image(x), f.normalize(expected[0], dim=-1), rtol=0, atol=1e-10)


def test_a_residual_network_begins_as_its_identities_and_has_no_open_format(tmp_path):
    network = residual()
    fresh = CLIP(network.config).initialize(0)
    assert all((block.third[1].weight == 0).all() for stage in fresh.vision.stages for block in stage)
    with pytest.raises(CheckpointError, match="No open format"):
        hf.export(tmp_path / "out", network)
    with pytest.raises(ConfigError, match="multiple of 32"):
        ResNetConfig(40, (1, 1, 1, 1), 8, 4)
