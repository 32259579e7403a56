"""How well a training run uses its processors: the share of their peak, as publications count it."""


def mfu(flops_per_token: float, tokens_per_second: float, chips: int, peak: float) -> float:
    """Model FLOPs utilisation: what the model needs of what all chips could do, from 0 to 1 (Chowdhery et al. 2022,
    appendix B). `peak` is FLOP/s of one chip.

    What is computed again to save memory does not count. Where it does, the share is one of hardware (HFU): 57.8% for
    PaLM's 46.2%, which depends on how much is recomputed and so follows from no formula of the model alone.
    """
    return flops_per_token * tokens_per_second / (chips * peak)


def hardware_flops(layers: int, dim: int, vocab_size: int, rows: int, length: int) -> float:
    """FLOPs of one training step of a GPT whose activations are all computed again:
    96 B s L h^2 (1 + s/(6 h) + V/(16 L h)) (Narayanan et al. 2021, equation 3).

    Without the recomputation the factor would be 72.
    """
    inner = 1 + length / (6 * dim) + vocab_size / (16 * layers * dim)
    return 96 * rows * length * layers * dim**2 * inner
