"""Parts refuse fields of which no network can be made."""

import pytest

from polytask.errors import ConfigError
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import LinearScaling, Llama3Scaling, Rotary, Yarn


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (Attention, {"heads": 0}, "heads=0 must be a whole number of at least 1"),
        (Attention, {"heads": None}, "heads=None must be"),
        (Attention, {"heads": True}, "heads=True must be"),
        (Attention, {"heads": 4, "kv_heads": -1}, "kv_heads=-1 must be"),
        (Attention, {"heads": 4, "kv_heads": 3}, "heads=4 must be a multiple of kv_heads=3"),
        (Attention, {"heads": 4, "head_dim": 1.5}, "head_dim=1.5 must be"),
        (Attention, {"heads": 4, "head_dim": "8"}, "head_dim='8' must be"),
        (Attention, {"heads": 4, "window": 0}, "window=0 must be a whole number of at least 1"),
        (Attention, {"heads": 4, "cap": "5"}, "cap='5' must be a number above 0"),
        (Attention, {"heads": 4, "scale": -1.0}, "scale=-1.0 must be"),
        (MLP, {"width": None}, "MLP: width=None must be a whole number"),
        (GatedMLP, {"width": 1.5}, "GatedMLP: width=1.5 must be"),
        (GatedMLP, {"width": 8, "activation": "gellu"}, "did you mean 'gelu'"),
        (RMSNorm, {"eps": "1e-5"}, "RMSNorm: eps='1e-5' must be a number of at least 0"),
        (LayerNorm, {"eps": None}, "LayerNorm: eps=None must be"),
        (LayerNorm, {"eps": float("nan")}, "eps=nan must be"),
        (Rotary, {"theta": -1.0}, "theta=-1.0 must be a number above 0"),
        (Rotary, {"fraction": 1.5}, "fraction=1.5 must be at most 1"),
        (LinearScaling, {"factor": -2.0}, "factor=-2.0 must be"),
        (Llama3Scaling, {"factor": 2.0, "original": 8, "low": 0}, "low=0 must be"),
        (Yarn, {"factor": 2.0, "original": "8"}, "original='8' must be"),
        (Yarn, {"factor": 2.0, "size": -1.0}, "size=-1.0 must be"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(kind, words, said):
    with pytest.raises(ConfigError, match=said):
        kind(**words)


def test_what_a_field_may_leave_open():
    assert Attention(4).sizes(32) == (4, 4, 8)
    assert Yarn(2.0, 8).size is None
    assert RMSNorm(0).eps == 0
