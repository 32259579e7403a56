"""Conversations laid out by the template that a model brings.

A template writes special tokens, and so might a user. To tell them apart, the first and last characters of special
tokens are veiled in what users wrote before the template sees it: each becomes a character of the private use area.
After rendering, special tokens that are left are the template's own; the text between them is unveiled and encoded as
text. What the template itself looks for in texts ("</think>") stays unveiled where no part of it spells such a token.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from polytask.errors import TokenizerError
from polytask.tasks.segment import Image, texts
from polytask.tokenizers.broken import BROKEN, broken

if TYPE_CHECKING:
    from polytask.tasks.segment import Segment
    from polytask.tokenizers.sight import Sight

PRIVATE = range(0xF0000, 0xFFFFE)
_BORDER = "\U0010ffff"  # a noncharacter, which stands for each special token while the text between is encoded


class ChatTemplate:
    """A template (Jinja) over one tokenizer. tokens: texts of tokens by their part, as `Conventions.tokens`. sight: of
    a model that looks at pictures, whose template takes a turn as a list of texts and pictures; it may leave `begin`,
    which stands in front of every text, to the tokenizer. tool_source: the template where tools are given, if that is
    another one."""

    def __init__(
        self, source: str, tokenizer: Tokenizer, tokens: Mapping[str, str], sight: "Sight | None" = None,
        begin: Sequence[int] = (), tool_source: str | None = None,
    ):  # fmt: skip
        from polytask.tokenizers.jinja import literals

        self._source, self._tool_source = source, tool_source or source
        self._tokens, self._sight, self._begin = dict(tokens), sight, begin
        special = [token for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        special = sorted(special, key=lambda token: -len(token.content))
        self._texts = [token.content for token in special]
        self._ids = {text: i for text in self._texts if (i := tokenizer.token_to_id(text)) is not None}
        self._marks = re.compile("|".join(map(_pattern, special)) or "(?!)")
        looked_for = literals(source) | literals(self._tool_source)
        kept = [text for text in looked_for if not any(_touch(text, token) for token in self._texts)]
        self._kept = sorted(kept, key=len, reverse=True)
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.add_tokens([AddedToken(_BORDER, special=False, normalized=False)])
        self._border = self._tokenizer.token_to_id(_BORDER)

    def ids(self, segments: "Sequence[Segment]") -> list[int]:
        """The ids of a conversation, up to where the assistant's next turn begins; a last turn of the assistant is to
        be continued. Raises TokenizerError where the template is broken or refuses the conversation, and where a text
        is not valid Unicode or leaves no characters to veil with."""
        return self._laid(self._turns(segments), prompt=True)

    def conversation(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """As `ids`, for messages that may call tools or bring what tools gave, as the OpenAI API has them but with the
        arguments of calls as mappings. tools: what may be called, each {type, function: {name, parameters, ...}}."""
        return self._laid(messages, prompt=True, tools=tools)

    def parts(self, segments: "Sequence[Segment]", ends: Sequence[int]) -> list[tuple[list[int], bool]]:
        """A whole conversation in parts, and whether the model is to learn them: each turn of the assistant that is a
        target, with the end that closes it. A turn that the template lays out otherwise once more follows is not."""
        whole, parts, at = self._laid(self._turns(segments), prompt=False), list[tuple[list[int], bool]](), 0
        for number, segment in enumerate(segments):
            asked = self.ids(segments[:number]) if number and segment.target else []
            if not asked or len(asked) < at or whole[: len(asked)] != asked:
                continue
            end = next((i + 1 for i in range(len(asked), len(whole)) if whole[i] in ends), len(whole))
            parts += [(whole[at : len(asked)], False), (whole[len(asked) : end], True)]
            at = end
        return [*parts, (whole[at:], False)]

    def _laid(
        self, messages: Sequence[Mapping[str, Any]], prompt: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:  # fmt: skip
        from polytask.tokenizers.jinja import render

        said = "".join(_texts([*messages, *tools]))
        veil = self._veil(said)
        turns = [{**self._veiled_all(turn, veil), "role": turn["role"]} for turn in messages]
        begun = prompt and turns[-1]["role"] == "assistant"
        words = {
            "messages": turns,
            "add_generation_prompt": prompt and not begun,
            "tools": self._veiled_all(list(tools), veil) or None,
            "documents": None,
            **self._tokens,
        }
        text = render(self._tool_source if tools else self._source, len(said), words)
        last = _told(turns[-1].get("content")).strip()
        if begun and last in text:
            text = text[: text.rindex(last) + len(last)]
        ids, opener = self._encoded(text, {ord(new): old for old, new in veil.items()}), self._tokens.get("bos_token")
        opened = self._sight is None or (opener is not None and text.startswith(opener))  # as their processors see it
        return ids if opened else [*self._begin, *ids]

    def _veil(self, said: str) -> dict[str, str]:
        """A character that nobody wrote for each that a special token begins or ends with. Raises TokenizerError."""
        edges = sorted({edge for text in self._texts for edge in (text[0], text[-1])})
        taken = set(said)
        free = list(islice((chr(code) for code in PRIVATE if chr(code) not in taken), len(edges)))
        if len(free) < len(edges):
            raise TokenizerError(
                f"The conversation has nearly all characters of the private use area (U+{PRIVATE[0]:X} to "
                f"U+{PRIVATE[-1]:X}), and {len(edges)} are needed to tell it from the template; take some out."
            )
        return dict(zip(edges, free))

    def _veiled_all(self, value: Any, veil: Mapping[str, str]) -> Any:
        """The same with all texts in it veiled, names of fields too."""
        if isinstance(value, str):
            return self._veiled(value, veil)
        if isinstance(value, Mapping):
            return {self._veiled(str(name), veil): self._veiled_all(each, veil) for name, each in value.items()}
        return [self._veiled_all(each, veil) for each in value] if isinstance(value, list | tuple) else value

    def _veiled(self, text: str, veil: Mapping[str, str]) -> str:
        text = text.replace(_BORDER, "\N{REPLACEMENT CHARACTER}")
        pattern = "|".join(map(re.escape, [*self._kept, *veil]))
        return re.sub(pattern, lambda found: veil.get(found[0], found[0]), text) if veil else text

    def _encoded(self, text: str, unveil: Mapping[int, str]) -> list[int]:
        found = (match[0] for match in self._marks.finditer(text))
        marks = iter([self._ids[mark if mark in self._ids else mark.strip()] for mark in found])
        joined = self._marks.sub(_BORDER, text).translate(unveil)
        try:
            ids = self._tokenizer.encode(joined, add_special_tokens=False).ids
        except BROKEN as error:
            raise broken([joined]) from error
        return self._with_pictures([next(marks) if i == self._border else i for i in ids])

    def _with_pictures(self, ids: list[int]) -> list[int]:
        """A placeholder for each state of a picture where the template writes one for all."""
        if self._sight is None:
            return ids
        places = self._sight.vocabulary
        return [i for one in ids for i in ([one] * places.tokens if one == places.placeholder else [one])]

    def _turns(self, segments: "Sequence[Segment]") -> list[dict[str, Any]]:
        if self._sight is None:
            return [{"role": segment.role or "user", "content": segment.text} for segment in texts(segments)]
        turns: list[dict[str, Any]] = []
        for before, segment in zip((None, *segments), segments):
            beside = isinstance(segment, Image) or isinstance(before, Image)
            if before is None or before.role != segment.role or not beside:
                turns.append({"role": segment.role or "user", "content": []})
            said = {"type": "image"} if isinstance(segment, Image) else {"type": "text", "text": segment.text}
            turns[-1]["content"].append(said)
        return turns


def _told(content: Any) -> str:
    """The texts of a turn."""
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else content or ""


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in [*value, *value.values()] if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _touch(text: str, token: str) -> bool:
    """Whether a text could be a part of this token, or one of what spells it with what stands beside it."""
    shorter = range(1, min(len(text), len(token)) + 1)
    return text in token or token in text or any(text[-n:] == token[:n] or text[:n] == token[-n:] for n in shorter)


def _pattern(token: AddedToken) -> str:
    """What the tokenizer takes for this token, with the spaces that it swallows."""
    before, after = r"\s*" if token.lstrip else "", r"\s*" if token.rstrip else ""
    return f"{before}{re.escape(token.content)}{after}"
