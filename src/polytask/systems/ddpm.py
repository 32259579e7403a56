"""Improved DDPM (Nichol and Dhariwal 2021; Dhariwal and Nichol 2021): a U-Net that draws a picture of a label.

What is its own: the variance is learned beside the mean, the schedule is a cosine, and a label's vector is added to the
embedding of the step. Guidance is classifier-free here (Ho and Salimans 2022) in place of a classifier's gradient.
"""

from polytask.models.diffusion import DiffusionConfig
from polytask.models.unet import UNetConfig


def ddpm(
    pixels: int = 32, channels: int = 64, *, multipliers: tuple[int, ...] = (1, 2, 2), blocks: int = 1,
    attention: tuple[int, ...] = (8,), head_dim: int = 32, groups: int = 32, dropout: float = 0.0,
    learned_variance: bool = False, classes: int = 10,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains. classes: labels, by default as many as its data has."""
    unet = UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
        head_dim=head_dim, groups=groups, dropout=dropout, pooled=4 * channels, learned_variance=learned_variance,
    )  # fmt: skip
    return DiffusionConfig(unet, classes=classes)
