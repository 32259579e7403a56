"""A classifier of pictures: the residual network for small ones (He et al. 2016a, arXiv:1512.03385, section 4.2).

What it is for: its labels judge what networks draw by label, and its features are those of which Fréchet distances are.
"""

from polytask.models.classifier import ClassifierConfig


def classifier(
    image: int = 32, width: int = 16, blocks: int = 3, *, groups: int = 8, classes: int = 10
) -> ClassifierConfig:  # fmt: skip
    """What a recipe trains. classes: labels, by default as many as its data has. blocks=3 is ResNet-20 of the paper."""
    return ClassifierConfig(image, classes, width, blocks, groups)
