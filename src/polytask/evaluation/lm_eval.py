"""The harness of EleutherAI (lm-eval) over a model of ours: simple_evaluate(model=PolytaskLM(model), tasks=[...]).

The harness asks in plain text, so a context is the beginning of a plain document: <|text|> context continuation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from polytask.errors import ConfigError, MissingExtra
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise MissingExtra("lm-eval", "eval") from error

NEW_TOKENS = 256  # of an answer, where a task of the harness does not say


class PolytaskLM(TemplateLM):
    """Takes a `polytask.model.Model`, or anything with its `network`, `tokenizer` and `engine`.

    Context and continuation are cut into tokens together and then split, as the harness does for models of
    transformers; what is too long loses its left end.
    """

    def __init__(self, model: Any, batch: int = 64):
        super().__init__()
        self.model, self.batch = model, batch
        special = model.tokenizer.special
        self._opener: int | None = special.get("<|text|>")
        self._encoder = [special["<|end|>"]] if model.config.encoder_layers else None
        self.max_length: int = model.config.context_length

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.special["<|end|>"]

    @property
    def prefix_token_id(self) -> int:
        """What a document begins with: the opener of plain text, else (tokenizers of other projects) the end."""
        return self.eot_token_id if self._opener is None else self._opener

    @property
    def tokenizer_name(self) -> str:
        return f"polytask-{self.model.tokenizer.fingerprint}"

    @property
    def max_gen_toks(self) -> int:
        return NEW_TOKENS

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids, after the opener unless `add_special_tokens` is False."""
        opener = [self._opener] if self._opener is not None and add_special_tokens is not False else []
        return [*opener, *self.model.tokenizer.encode(string)]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As the harness splits them; where a continuation vanishes into the context's last token, each by itself."""
        given, wanted = super()._encode_pair(context, continuation)
        return (given, wanted) if wanted else (given, self.tok_encode(continuation, add_special_tokens=False))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding gives it) of each continuation."""
        asked = [self._fit(context, continuation) for _, context, continuation in requests]
        results = []
        for start in self._batches(len(asked), "scoring", disable_tqdm):
            part = slice(start, start + self.batch)
            for (key, *_ids), (score,) in zip(requests[part], self.model.engine.score(asked[part])):
                results.append((score.logprob, score.greedy))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, results[-1])
        return results

    def _fit(self, context: list[int], continuation: list[int]) -> Request:
        """The last token is predicted and never read, so one more than the model's context fits."""
        if not continuation or len(continuation) > self.max_length:
            raise ConfigError(
                f"lm-eval asks for a continuation of {len(continuation)} tokens; this model scores 1 to "
                f"{self.max_length}."
            )
        room = self.max_length + 1 - len(continuation)
        context = context[-room:]
        return Request.scoring(context, [continuation], encoder_ids=self._encoder, prefix=self._prefix(context))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole documents, in windows as the harness cuts them."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text, add_special_tokens=False)
            rolling = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, continuation in map(make_disjoint_window, rolling):
                windows.append((None, context, continuation))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)):
            totals[owner] += logprob
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to one of the texts of `until`, which is not part of them."""
        asked = [self._request(*request.args) for request in requests]
        texts: list[str] = []
        for start in self._batches(len(asked), "answering", disable_tqdm):
            part = slice(start, start + self.batch)
            for request, (completion, *_) in zip(requests[part], self.model.engine.run(asked[part])):
                texts.append(completion.text)
                self.cache_hook.add_partial("generate_until", request.args, completion.text)
        return texts

    def _request(self, context: str, words: dict[str, Any]) -> Request:
        """From what the harness calls generation_kwargs. What changes answers and is not known is refused."""
        said = dict(words)
        until = said.pop("until", None) or []
        tokens = next((said.pop(k) for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if k in said), NEW_TOKENS)
        dials: dict[str, Any] = {"temperature": said.pop("temperature", None)}
        sampled = said.pop("do_sample", bool(dials["temperature"]))
        dials["temperature"] = (1.0 if dials["temperature"] is None else dials["temperature"]) if sampled else 0.0
        known = {field.name for field in fields(Sampling)} - {"n", "logprobs", "stop", "max_tokens"}
        if "num_beams" in said:
            said["beam_size"] = said.pop("num_beams")
        odd = sorted(set(said) - known)
        if odd:
            raise ConfigError(f"lm-eval asks for {', '.join(odd)} in generation_kwargs, which polytask does not have.")
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        ids = self.tok_encode(context)
        if not ids:
            ids = [self.prefix_token_id]
        room = max(1, self.max_length - tokens)
        sampling = Sampling(max_tokens=min(tokens, self.max_length - 1), stop=stop, **(dials | said))
        return Request(ids[-room:], sampling, self._encoder, prefix=self._prefix(ids[-room:]))

    def _prefix(self, context: list[int]) -> int:
        """All that the harness gives is read from both sides by a model that reads so."""
        return len(context) if self.model.config.prefix else 0

    def _batches(self, count: int, what: str, silent: bool) -> Iterable[int]:
        from tqdm import tqdm

        return tqdm(range(0, count, self.batch), desc=what, disable=silent)
