"""Pictures from a decoder over text and picture tokens (Ramesh et al. 2021): drawn by the engine, ranked by CLIP."""

from collections.abc import Sequence as Listing
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polytask.errors import ConfigError
from polytask.inference.engine import Engine
from polytask.inference.matching import Matcher, expect_candidates
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Completion, Drawing, Request
from polytask.tasks.picture import at_home, exact, opened, to_tensor
from polytask.tokenizers.image import ImageTokenizer


@dataclass(frozen=True)
class Wishes:
    """upper: a picture of which `rows` rows of tokens are kept (half of them by default); resize: where it has another
    size, it is fitted. clip: takes the best pictures out of `candidates` (1 to 512)."""

    upper: Any = None
    rows: int | None = None
    resize: bool = False
    clip: Matcher | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.upper is None:
            raise ConfigError(f"rows={self.rows!r} are of a picture to be completed; give it as `upper`.")
        if self.resize and self.upper is None:
            raise ConfigError("`resize` is of a picture to be completed; give it as `upper`.")
        if (self.clip is None) != (self.candidates is None):
            raise ConfigError("`clip` and `candidates` go together: a CLIP chooses the best out of so many pictures.")


WISHES = tuple(Wishes.__dataclass_fields__)


def exact_for(tokenizer: ImageTokenizer | None, picture: Any, resize: bool) -> Any:
    """A picture that a user of Python gives, as large as those that are drawn. Raises TaskError where it has another
    size and may not be resized."""
    if tokenizer is None:
        return picture  # and what is asked of it is refused
    return exact(opened(at_home(picture)), tokenizer.size, resize)


def fulfil(
    engine: Engine, tokenizer: ImageTokenizer, asked: Listing[Request], wishes: Wishes, n: int, words: Listing[str]
) -> list[Tensor]:  # fmt: skip
    """n pictures (n, 3, H, W) for each request of a whole picture, whose sampling is the same; words[i]: what a CLIP
    compares those of asked[i] with."""
    if wishes.candidates is not None:
        expect_candidates(wishes.candidates, n)
    upper: list[int] = []
    if wishes.upper is not None:
        half = tokenizer.vocabulary.height // 2
        kept = to_tensor(exact_for(tokenizer, wishes.upper, wishes.resize))
        upper = upper_part(kept, half if wishes.rows is None else wishes.rows, tokenizer)
    drawn = draw(engine, tokenizer, [one.ids for one in asked], asked[0].sampling, [upper] * len(asked))
    if wishes.clip is None:
        return drawn
    wanted = wishes.clip.embed_texts(words, cut=True)
    return [pixels[wishes.clip.rank(pixels, one)[0][:n]] for pixels, one in zip(drawn, wanted, strict=True)]


def request(
    prompt: list[int], tokenizer: ImageTokenizer, sampling: Sampling, upper: Listing[int] = ()
) -> Request:  # fmt: skip
    """Asks for sampling.n pictures behind a prompt's ids; upper: the first ids of each, from which they go on."""
    vocabulary = tokenizer.vocabulary
    if len(upper) >= vocabulary.tokens:
        raise ConfigError(f"The picture has all of its {vocabulary.tokens} tokens, so there is nothing to complete.")
    drawing = Drawing(vocabulary.first, vocabulary.codes, vocabulary.tokens - len(upper))
    return Request([*prompt, *upper], sampling, drawing=drawing)


def show(answers: Listing[Completion], tokenizer: ImageTokenizer) -> None:
    """Gives completions of whole pictures what they show, a PNG; one that was cut short stays without."""
    whole = [one for one in answers if one.finish == "stop"]
    for one, picture in zip(whole, tokenizer.drawn([one.ids for one in whole])):
        one.picture = picture


def upper_part(pixels: Tensor, rows: int, tokenizer: ImageTokenizer) -> list[int]:
    """The ids of the first `rows` rows of tokens of a picture (3, H, W)."""
    height, width = tokenizer.vocabulary.height, tokenizer.vocabulary.width
    if not 0 < rows < height:
        raise ConfigError(f"rows={rows!r} of a picture are given, and there are {height}; give 1 to {height - 1}.")
    return tokenizer.encode(pixels[None])[0][: rows * width]


def draw(
    engine: Engine, tokenizer: ImageTokenizer, prompts: Listing[list[int]], sampling: Sampling,
    uppers: Listing[Listing[int]] | None = None,
) -> list[Tensor]:  # fmt: skip
    """sampling.n pictures (n, 3, H, W) in [-1, 1] for each prompt, by chance of its own: of seed, seed + 1, ... where
    `sampling` has one. uppers: see `request`, one for each prompt."""
    given, seed = uppers or [()] * len(prompts), sampling.seed
    chances = [sampling if seed is None else replace(sampling, seed=seed + i) for i in range(len(prompts))]
    asked = [request(ids, tokenizer, one, upper) for ids, one, upper in zip(prompts, chances, given, strict=True)]
    answers = engine.run(asked)
    return [tokenizer.decode([[*upper, *one.ids] for one in each]) for upper, each in zip(given, answers)]
