"""What a network that looks at pictures sees of those in a prompt."""

from collections.abc import Sequence

import torch

from polytask.inference.sequence import Given
from polytask.models.vision_language import VisionLanguage
from polytask.tasks.segment import Image, Segment
from polytask.tokenizers.sight import Sight


@torch.inference_mode()
def look(network: VisionLanguage, sight: Sight, segments: Sequence[Segment], ids: Sequence[int]) -> Given | None:
    """Their states, in the places that the prompt's ids have for them; None where there is no picture. Raises TaskError
    for a broken one."""
    files = [segment.data for segment in segments if isinstance(segment, Image)]
    if not files:
        return None
    places = [place for place, i in enumerate(ids) if i == sight.vocabulary.placeholder]
    pixels = sight.seen(files).to(network.first.weight.device)
    return Given(places, network.look(pixels).flatten(0, 1))
