"""What can be done to a picture whose embedding a network draws (Ramesh et al. 2022, section 3).

A picture is two things to unCLIP: CLIP's embedding of it, which says what it shows, and the noise from which DDIM draws
it by that embedding, which has all the rest.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.diffusion.process import spherical
from polytask.errors import ConfigError, TaskError
from polytask.inference.dials import NOISY
from polytask.inference.matching import Matcher
from polytask.pictures.painter import Painter, Start

ETA = 0.5  # of variations that keep details; the paper says "above 0"
WAY, TURN = 7, 5  # pictures from one to another, and from one caption to another, unless said
OWN = {"sampler": "ddim"}  # what draws a picture from the noise that was found for it, unless said


def variations(painter: Painter, picture: Tensor, said: Mapping[str, Any], details: bool) -> list[Tensor]:
    """n pictures of the embedding of a picture (1, 3, S, S). details: from its own noise, and what is new comes of the
    noise that eta adds on the way (section 3.1)."""
    embedding, wish = _matcher(painter).embed_pictures(picture), painter.wish(said)
    noise, first = None, dict[str, Any]()
    if details:
        if said.get("sampler", "ddim") not in NOISY:
            noisy = " and ".join(NOISY)
            raise ConfigError(f"drawing: with details variations differ by eta, which is of {noisy}.", "sampler")
        first = {**OWN, **said, "eta": ETA if said.get("eta") is None else said["eta"]}
        (noise,) = painter.invert(picture, embedding, first)
    starts = [Start(wish.seed + i, noise) for i in range(wish.n)]
    return painter.show(embedding.expand(wish.n, -1), said, starts, first)


def interpolation(
    painter: Painter, first: Tensor, second: Tensor, said: Mapping[str, Any], details: bool
) -> list[Tensor]:
    """n pictures from one (1, 3, S, S) to another: embeddings on the arc between both, and so the noise, unless details
    are of no concern, where all have the seed's (section 3.2)."""
    wish, own = painter.wish(said), {**OWN, **said} if details else {}
    if wish.n < 2:
        raise ConfigError(f"drawing: n={wish.n} pictures from one to another; at least both ends are drawn, n=2.", "n")
    both = torch.cat([first, second])
    embeddings = _matcher(painter).embed_pictures(both)
    shares = torch.linspace(0, 1, wish.n).tolist()
    noises: list[Tensor | None] = [None] * wish.n
    if details:
        one, other = painter.invert(both, embeddings, own)
        noises = [spherical(one, other, share) for share in shares]
    way = torch.cat([spherical(embeddings[:1], embeddings[1:], share) for share in shares])
    return painter.show(way, said, [Start(wish.seed, noise) for noise in noises], own)


def difference(
    painter: Painter, picture: Tensor, before: str, after: str, said: Mapping[str, Any], theta: float, details: bool
) -> list[Tensor]:  # fmt: skip
    """n pictures whose embeddings turn from that of a picture (1, 3, S, S) by equal steps up to the share `theta`
    of the arc to the difference of two captions, from the picture's own noise (section 3.3, "text diffs")."""
    matcher, wish, own = _matcher(painter), painter.wish(said), {**OWN, **said} if details else {}
    embedding = matcher.embed_pictures(picture)
    one, other = matcher.embed_texts([before, after])
    if torch.equal(one, other):
        raise TaskError(f"'{before}' and '{after}' are the same to CLIP; give two captions that differ.")
    direction = F.normalize(other - one, dim=-1)[None]
    noise = painter.invert(picture, embedding, own)[0] if details else None
    shares = torch.linspace(0, theta, wish.n).tolist() if wish.n > 1 else [theta]
    way = torch.cat([spherical(embedding, direction, share) for share in shares])
    return painter.show(way, said, [Start(wish.seed, noise)] * wish.n, own)


def _matcher(painter: Painter) -> Matcher:
    found = painter.matcher
    if found is None:
        raise TaskError("Variations need a model that draws CLIP's embeddings, such as one of system dalle2.")
    return found
