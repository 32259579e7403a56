"""What a user spells is text, never structure.

The `tokenizers` library can be told to leave special tokens alone that a text spells. Where the vocabulary of its model
holds them once more, the text "</s>" would still become the end: Unigram finds the likeliest pieces of a text, and a
model that looks whole words up finds such a word.
"""

import re

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

BYTE = re.compile("<0x[0-9A-F]{2}>")


def guarded(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the same ids for any text that spells no special token, and ordinary ids for one that does.

    It is `tokenizer` itself, told so, where its model cannot find such pieces; else a copy that cuts them in two.
    Pieces that stand for bytes ("<0x41>") are cut likewise.
    """
    tokenizer.encode_special_tokens = True
    own, model = tokenizer.get_vocab(with_added_tokens=False), tokenizer.model
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    spelled = sorted(text for text in own if len(text) > 1 and (text in special or BYTE.fullmatch(text)))
    if not isinstance(model, models.Unigram) and not getattr(model, "ignore_merges", False):
        spelled = [text for text in spelled if own[text] in tokenizer.encode(text, add_special_tokens=False).ids]
    if not spelled:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    pattern = "|".join(f"{literally(text[0])}(?={literally(text[1:])})" for text in spelled)
    cut = pre_tokenizers.Split(Regex(pattern), "merged_with_previous")
    copy.pre_tokenizer = pre_tokenizers.Sequence([copy.pre_tokenizer, cut]) if copy.pre_tokenizer else cut
    return copy


def literally(text: str) -> str:
    """A pattern of the library's regular expressions that matches this text alone."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)
