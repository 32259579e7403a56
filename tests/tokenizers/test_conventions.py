"""What models of other projects expect around texts: the ids are those of transformers' own tokenizers."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Tokenizer

from polytask.errors import TokenizerError
from polytask.tasks import Text
from polytask.tokenizers import TextTokenizer, encode, prompt_ids
from tests.tokenizers.sentencepieces import trained
from tests.tokenizers.test_sentencepiece import texts

CORPUS = ["the quick brown fox jumps over the lazy dog", "ein Hund rennt über die Straße"] * 20
SPECIAL = ["<|begin|>", "<|eot|>", "<|eom|>", "<|stop|>"]


def byte_level(begins: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
        )
    return tokenizer


def folder_with(folder, begins=True, generation=None, config=None, **said):
    byte_level(begins).save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|eot|>"} | said
    for name, content in (("tokenizer_config", said), ("generation_config", generation), ("config", config)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("begins", "said"),
    [(True, {}), (False, {}), (False, {"add_bos_token": True}), (True, {"add_bos_token": False})],
)
def test_a_prompt_is_what_transformers_feeds(begins, said, tmp_path):
    theirs = AutoTokenizer.from_pretrained(folder_with(tmp_path, begins, **said))
    ours = TextTokenizer.load(tmp_path)
    for text in ["the quick fox", "", *[t for t in texts(40, True) if "<|" not in t]]:
        wanted = theirs(text)["input_ids"]
        assert prompt_ids([Text(text, target=True)], ours) == (wanted or [ours.ends[0]])
    assert bool(ours.begin) == begins  # tokenizer.json has the last word


def test_the_ends_are_those_of_generation_config_the_tokenizers_own_first(tmp_path):
    ids = {text: byte_level(True).token_to_id(text) for text in SPECIAL}
    listed = [ids["<|stop|>"], ids["<|eot|>"], ids["<|eom|>"]]
    tokenizer = TextTokenizer.load(
        folder_with(tmp_path, generation={"eos_token_id": listed}, config={"eos_token_id": 3})
    )
    assert tokenizer.ends == (ids["<|eot|>"], ids["<|stop|>"], ids["<|eom|>"])
    assert tokenizer.special["<|end|>"] == ids["<|eot|>"]


@pytest.mark.parametrize("config", [{"eos_token_id": 299}, {"text_config": {"eos_token_id": [299, 10_000]}}])
def test_without_generation_config_the_ends_are_those_of_config(config, tmp_path):
    assert TextTokenizer.load(folder_with(tmp_path, config=config)).ends == (299,)


def test_without_either_the_end_is_the_tokenizers_own(tmp_path):
    tokenizer = TextTokenizer.load(folder_with(tmp_path))
    assert tokenizer.ends == (byte_level(True).token_to_id("<|eot|>"),)
    assert tokenizer.special["<|pad|>"] == tokenizer.ends[0]


def test_what_stands_in_front_of_a_document_stands_there_once(tmp_path):
    tokenizer = TextTokenizer.load(folder_with(tmp_path))
    (begin,), end = tokenizer.begin, tokenizer.ends[0]
    shots = [Text("one"), Text("1", target=True), Text("two"), Text("2", target=True)]
    encoded = encode(shots, tokenizer)
    assert encoded.ids.tolist() == [
        begin, *tokenizer.encode("one"), *tokenizer.encode("1"), end, *tokenizer.encode("two"), *tokenizer.encode("2"),
        end,
    ]  # fmt: skip
    assert encoded.weights.tolist()[0] == 0
    assert prompt_ids(shots[:3], tokenizer) == [begin, *encoded.ids.tolist()[1:-2]]
    assert prompt_ids([], tokenizer) == [begin]


def test_a_new_document_comes_after_the_end_of_another_where_nothing_opens_it(tmp_path):
    tokenizer = TextTokenizer.load(folder_with(tmp_path, begins=False))
    assert prompt_ids([], tokenizer) == [tokenizer.ends[0]]


@pytest.mark.parametrize("begins", [True, False])
def test_all_of_it_survives_saving(begins, tmp_path):
    first = TextTokenizer.load(
        folder_with(tmp_path, begins, generation={"eos_token_id": [298, 299]}, pad_token="<|eom|>")
    )
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    again = TextTokenizer.load(tmp_path / "saved")
    assert again.conventions == first.conventions
    assert (again.begin, again.ends, again.special) == (first.begin, first.ends, first.special)
    assert again.fingerprint == first.fingerprint
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("the fox")["input_ids"] == [*first.begin, *first.encode("the fox")]
    assert theirs.eos_token == "<|eot|>"


def test_gpt2_files_are_read_as_transformers_reads_them(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "Ġt", "he", "Ġthe", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\nĠt he\n")
    theirs, ours = GPT2Tokenizer.from_pretrained(tmp_path), TextTokenizer.load(tmp_path)
    for text in ["the the", " the", *texts(60, True)]:
        assert prompt_ids([Text(text, target=True)], ours) == (theirs(text)["input_ids"] or [259])
        assert ours.decode(ours.encode(text)) == text
    assert ours.ends == (259,)


def test_files_that_do_not_say_how_words_are_cut_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(TokenizerError, match="Qwen2Tokenizer"):
        TextTokenizer.load(tmp_path)


def test_a_llama_folder_begins_with_its_token(tmp_path):
    from transformers import LlamaTokenizer

    model = trained(model_type="bpe", byte_fallback=True, vocab_size=400, remove_extra_whitespaces=False)
    (tmp_path / "tokenizer.model").write_bytes(model)
    (tmp_path / "added_tokens.json").write_text('{"<pad>": 400}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "legacy": true, "add_bos_token": true}'
    )
    (tmp_path / "special_tokens_map.json").write_text(
        '{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": "<pad>"}'
    )
    ours, theirs = TextTokenizer.load(tmp_path), LlamaTokenizer.from_pretrained(tmp_path)
    assert (ours.begin, ours.ends, ours.special["<|pad|>"]) == ((1,), (2,), 400)
    for text in ["the quick brown fox", "straße 東京"]:
        assert prompt_ids([Text(text, target=True)], ours) == theirs(text)["input_ids"]


@pytest.mark.parametrize("name", ["tokenizer_config", "config", "generation_config", "special_tokens_map"])
def test_a_broken_file_is_named(name, tmp_path):
    folder_with(tmp_path)
    (tmp_path / f"{name}.json").write_text("{")
    with pytest.raises(TokenizerError, match=name):
        TextTokenizer.load(tmp_path)


def test_a_folder_without_a_tokenizer_says_what_is_looked_for(tmp_path):
    with pytest.raises(TokenizerError, match=r"spiece\.model"):
        TextTokenizer.load(tmp_path)
