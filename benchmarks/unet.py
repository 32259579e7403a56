"""A U-Net's forward pass beside diffusers' of the same form and size, and pictures a second end to end.

    python benchmarks/unet.py [--rows 2] [--quick]

Both networks are of improved DDPM's form with text beside the keys of pictures (DeepFloyd IF's, which diffusers calls
SimpleCrossAttn), and have the same numbers of parameters; tests/models/test_unet.py shows that they compute the same.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median as middle
from typing import Any

from harness import Report, answer, ask, median

WIDTH, TOKENS = 512, 32  # of text states


def ours(rows: int, kind: str, quick: bool) -> tuple[Callable[[], Any], int]:
    import torch

    from polytask import runtime
    from polytask.models.unet import UNet

    runtime.prepare()
    network = UNet(config(quick)).initialize(0).eval().to(getattr(torch, kind))
    x, t, text = inputs(rows, kind, quick)
    return (lambda: network(x, t, text)), sum(p.numel() for p in network.parameters())


def theirs(rows: int, kind: str, quick: bool) -> tuple[Callable[[], Any], int]:
    import torch
    from diffusers import UNet2DConditionModel

    c = config(quick)
    down = tuple("SimpleCrossAttnDownBlock2D" if c.pixels // f in c.attention else "ResnetDownsampleBlock2D"
                 for f in c.factors)  # fmt: skip
    up = tuple(name.replace("DownBlock", "UpBlock").replace("Downsample", "Upsample") for name in reversed(down))
    network = UNet2DConditionModel(
        sample_size=c.pixels, in_channels=3, out_channels=3, down_block_types=down, up_block_types=up,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=c.widths, layers_per_block=c.blocks,
        resnet_time_scale_shift="scale_shift", norm_num_groups=c.groups, cross_attention_dim=WIDTH,
        attention_head_dim=c.head_dim, only_cross_attention=False,
    ).eval().to(getattr(torch, kind))  # fmt: skip
    x, t, text = inputs(rows, kind, quick)
    return (lambda: network(x, t, encoder_hidden_states=text)), sum(p.numel() for p in network.parameters())


def config(quick: bool) -> Any:
    from polytask.models.unet import UNetConfig

    channels = 32 if quick else 128
    return UNetConfig(
        pixels=32, channels=channels, multipliers=(1, 2, 3, 4), blocks=2, attention=(16, 8, 4), text=WIDTH, head_dim=32
    )


def inputs(rows: int, kind: str, quick: bool) -> tuple[Any, Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, 32, 32, generator=generator).to(getattr(torch, kind))
    text = torch.randn(rows, TOKENS, WIDTH, generator=generator).to(getattr(torch, kind))
    return x, torch.arange(rows) * 400 + 3, text


CONTENDERS = {"polytask": ours, "diffusers": theirs}


def measure(name: str, rows: int, kind: str, seconds: float, quick: bool) -> None:
    """In a process of its own: milliseconds of a pass, the middle of those of some seconds."""
    import torch

    with torch.inference_mode():
        run, parameters = CONTENDERS[name](rows, kind, quick)
        for _ in range(2):
            run()
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
    answer({"ms": middle(times), "parameters": parameters})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--kinds", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--contender")
    words = parser.parse_args()
    if words.contender:
        return measure(words.contender, words.rows, words.kinds[0], words.seconds, words.quick)
    report, figures, rows = Report("unet"), {}, []
    rounds = 1 if words.quick else words.rounds
    for kind in words.kinds:
        runs: dict[str, list] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name in CONTENDERS:
                given = ["--contender", name, "--rows", str(words.rows), "--kinds", kind]
                given += ["--seconds", str(words.seconds), *(["--quick"] if words.quick else [])]
                runs[name].append(ask(__file__, given, sys.executable))
        counts = {name: found[0]["parameters"] for name, found in runs.items()}
        assert len(set(counts.values())) == 1, counts
        ms = {name: median(found, "ms") for name, found in runs.items()}
        figures[kind] = {"ms": ms, "ratio": ms["diffusers"] / ms["polytask"], "runs": runs}
        ratio = figures[kind]["ratio"]
        rows.append([kind, f"{ms['polytask']:,.1f}", f"{ms['diffusers']:,.1f}", f"{ratio:.2f}"])
    report.say(f"{words.rows} pictures of 32 x 32 pixels, {counts['polytask']:,} parameters, ms a pass")
    report.table(["products", "polytask", "diffusers", "ratio"], rows)
    if not words.quick:
        report.save(figures)


if __name__ == "__main__":
    main()
