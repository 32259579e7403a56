"""What a request must be, so that an engine can ever run it."""

from polytask.errors import ConfigError, TooLong
from polytask.inference.blocks import BLOCK
from polytask.inference.sequence import Request
from polytask.models.config import TransformerConfig


def longest(request: Request, length: int, cache_tokens: int) -> int:
    """How many tokens a sequence of the request has at most, where one has at most `length` and the cache holds the
    text to read beside it."""
    return min(length, max(cache_tokens - _read(request) * BLOCK, len(request.ids) + 1))


def _read(request: Request) -> int:
    """Blocks of the text that an encoder reads."""
    return -(-len(request.encoder_ids or []) // BLOCK)


def samples_at_once(
    request: Request, config: TransformerConfig, length: int, max_requests: int, cache_tokens: int
) -> int:  # fmt: skip
    """How many samples of the request form a group, and so run at once, in an engine for sequences of `length` tokens,
    of which it writes `max_requests`, and with so many tokens of cache. Raises ConfigError where it can never run.
    """
    _check_prompt(request, config, length)
    _check_answer(request, config, length)
    beam = request.sampling.beam_size
    if beam > max_requests:
        raise ConfigError(
            f"A beam of {beam} needs an engine that writes as many answers at once, and this one writes "
            f"{max_requests}; make the beam smaller.",
            "beam_size",
        )
    most = len(request.ids) + request.limit(length)
    each, read = -(-most // BLOCK), _read(request)
    if (beam * each + read) * BLOCK > cache_tokens:
        raise ConfigError(
            f"The request may need {(beam * each + read) * BLOCK} tokens of key/value cache, and there is room for "
            f"{cache_tokens}; shorten the text, lower max_tokens, or give the engine more memory."
        )
    if request.continuations:
        return 1  # each goes its own way, as room comes free
    return beam if beam > 1 else min(max_requests, (cache_tokens // BLOCK - read) // each)


def _check_prompt(request: Request, config: TransformerConfig, length: int) -> None:
    if not request.ids:
        raise ConfigError("A request needs at least one token to go on from.")
    for ids in (request.ids, request.encoder_ids or [0]):
        if min(ids) < 0 or max(ids) >= config.vocab_size:
            raise ConfigError(
                f"The prompt has the id {min(ids) if min(ids) < 0 else max(ids)}, but those of the model go from 0 to "
                f"{config.vocab_size - 1}; use its own tokenizer."
            )
    if request.continuations:
        _check_continuations(request, config, length)
    elif len(request.ids) >= length:
        raise TooLong(
            f"The prompt has {len(request.ids)} tokens, but the context holds {length} with at least one of "
            "the answer; shorten the text or drop examples."
        )
    given = request.given
    if given is not None and (
        len(given.places) != len(given.states) or max(given.places, default=0) >= len(request.ids)
    ):
        raise ConfigError(
            "The states of pictures are not as many as the places for them in the prompt; make both anew."
        )
    reads = bool(config.encoder_layers)
    if reads != (request.encoder_ids is not None):
        raise ConfigError("An encoder-decoder needs encoder_ids, and only an encoder-decoder takes them.")
    if reads and len(request.encoder_ids or []) > config.context_length:
        raise ConfigError(
            f"The text to read has {len(request.encoder_ids or [])} tokens, but the model reads "
            f"{config.context_length}; shorten it."
        )


def _check_continuations(request: Request, config: TransformerConfig, length: int) -> None:
    if request.sampling.n != len(request.continuations) or not all(request.continuations):
        raise ConfigError("Continuations to be scored have at least one token each, and n is their number.")
    if wrong := [i for ids in request.continuations for i in ids if not 0 <= i < config.vocab_size]:
        raise ConfigError(f"A continuation has the id {wrong[0]}, and the model has {config.vocab_size}.")
    if len(request.ids) + (longest := max(map(len, request.continuations))) > length + 1:
        raise TooLong(
            f"{len(request.ids)} tokens of prompt and {longest} to score do not fit the context of {length}; shorten "
            "the text."
        )


def _check_answer(request: Request, config: TransformerConfig, length: int) -> None:
    sampling, drawing = request.sampling, request.drawing
    if wrong := [i for i in sampling.logit_bias if i >= config.vocab_size]:
        raise ConfigError(
            f"sampling: logit_bias names the id {wrong[0]}, but the model has {config.vocab_size}; "
            "the tokenizer knows the ids of a text.",
            "logit_bias",
        )
    if drawing is None:
        return
    if drawing.first + drawing.codes > config.vocab_size:
        raise ConfigError(
            f"A picture's tokens go up to {drawing.first + drawing.codes - 1}, but the model has {config.vocab_size} "
            "ids; use the image tokenizer that belongs to the model."
        )
    if len(request.ids) + drawing.tokens > length:
        raise TooLong(
            f"A picture of {drawing.tokens} tokens does not fit behind {len(request.ids)} of the prompt, as the "
            f"context holds {length}; shorten the text."
        )
    if sampling.beam_size > 1 or sampling.guide is not None or sampling.stop:
        raise ConfigError("sampling: a picture is drawn without beam search, guide and stop; leave them out.")
