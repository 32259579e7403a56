"""import and export: what transformers made answers here as it does there, and what we made there as it does here."""

import json
import shutil

import pytest
import torch
import transformers

import polytask as pt
from polytask.interop.folder import write_folder
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Rotary
from polytask.systems.gpt3 import gpt3
from polytask.systems.transformer import transformer
from polytask.tasks import Text
from polytask.tokenizers import SPECIAL, TextTokenizer
from tests.cli.test_mistakes import refused
from tests.tokenizers.sentencepieces import trained as sentencepiece
from tests.tokenizers.test_conventions import byte_level
from tests.tokenizers.test_sentencepiece import marian as marian_tokenizer

PROMPT = "the quick fox"
TEMPLATE = "{% for m in messages %}<|begin|>{{ m.content }}{% endfor %}"


def random_network(kind, **words):
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**words)
    name = {"Marian": "MarianMTModel", "T5": "T5ForConditionalGeneration", "GPT2": "GPT2LMHeadModel"}.get(
        kind, f"{kind}ForCausalLM"
    )
    made = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a tokenizer that begins texts, a template, and two ends, the second of which the model writes."""
    folder = tmp_path_factory.mktemp("theirs") / "llama"
    tokenizer = byte_level(True)
    made = random_network(
        "Llama", vocab_size=310, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=299,
    )  # fmt: skip
    ids = torch.tensor([tokenizer.encode(PROMPT).ids])
    free = made.generate(ids, max_new_tokens=32, do_sample=False, eos_token_id=309, pad_token_id=0)[
        0, ids.shape[1] :
    ].tolist()
    stop = next(i for place, i in enumerate(free) if place > 3 and i not in free[:place])
    made.generation_config.eos_token_id = [tokenizer.token_to_id("<|eot|>"), stop]
    made.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|eot|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"chat_template": TEMPLATE}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A llama\n")
    return folder


def greedy(model, **words):
    return model.ask("text", {"text": PROMPT}, temperature=0, max_tokens=32, details=True, **words).completion


def theirs_greedy(folder, **words):
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    ids = made.generate(**inputs, max_new_tokens=32, do_sample=False, **words)[
        0, inputs["input_ids"].shape[1] :
    ].tolist()
    return ids


def test_import_answers_as_transformers_does_and_stops_where_it_does(polytask, llama, tmp_path):
    out = tmp_path / "ours"
    result = polytask("import", llama, out)
    assert result.exit_code == 0, result.stderr
    assert "llama (LlamaForCausalLM)" in result.stdout
    assert f"polytask chat {out}" in " ".join(result.stdout.split())
    expected = theirs_greedy(llama)
    for place in (llama, out):
        model = pt.load(place, dtype="float32")
        completion = greedy(model)
        assert completion.finish == "stop"
        assert completion.ids == expected[:-1]  # transformers keeps the end
        assert model.tokenizer.conventions.template == TEMPLATE
        assert len(model.tokenizer.ends) == 2
    assert pt.load(out).about["licence"] == "apache-2.0"
    assert "A llama" in (out / "README.md").read_text()
    first = next(iter(pt.load(out, dtype="bfloat16").network.parameters()))
    assert first.dtype == torch.bfloat16
    assert (out / "model.safetensors").stat().st_size < 1.2 * (llama / "model.safetensors").stat().st_size


def test_an_imported_model_goes_out_again_as_it_came(polytask, llama, tmp_path):
    assert polytask("import", llama, tmp_path / "ours").exit_code == 0
    result = polytask("export", tmp_path / "ours", "--to", "hf", tmp_path / "again")
    assert result.exit_code == 0, result.stderr
    assert theirs_greedy(tmp_path / "again") == theirs_greedy(llama)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again.chat_template == TEMPLATE
    words = json.loads((tmp_path / "again" / "config.json").read_text())
    assert words["dtype"] == "bfloat16"
    assert len(words["eos_token_id"]) == 2


def test_a_trained_model_runs_in_transformers(polytask, trained, tmp_path):
    run, _ = trained
    result = polytask("export", run / "model", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "qwen3 (Qwen3ForCausalLM)" in result.stdout
    assert f"vllm serve {tmp_path / 'out'} polytask" in " ".join(result.stdout.split())
    model = pt.load(run / "model")
    never = [model.tokenizer.special[name] for name in SPECIAL if name != "<|end|>"]
    completion = greedy(model, min_tokens=32)
    expected = theirs_greedy(tmp_path / "out", suppress_tokens=never, min_new_tokens=32)
    assert completion.ids == expected
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(expected, skip_special_tokens=True) == completion.text
    back = pt.load(tmp_path / "out")
    assert greedy(back, min_tokens=32).ids == completion.ids
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Is <|end|> it?"}]
    assert model._ids([Text("Be kind.", role="system"), Text("Is it?", role="user")])[
        0
    ] == tokenizer.apply_chat_template(
        [messages[0], {"role": "user", "content": "Is it?"}], add_generation_prompt=True, return_dict=False
    )
    turns = [
        *messages[:1],
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "?"},
    ]
    segments = [Text(turn["content"], role=turn["role"], target=turn["role"] == "assistant") for turn in turns]
    assert back._ids(segments)[0] == tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)


def test_a_dense_gpt3_is_a_gpt2_to_others(tmp_path):
    tokenizer = TextTokenizer.bytes()
    network = Transformer(gpt3(2, 32, 4, band=None, vocab_size=tokenizer.vocab_size, context_length=64)).initialize(1)
    model = pt.Model(network, tokenizer)
    model.export(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "gpt2"
    never = [i for name, i in tokenizer.special.items() if name != "<|end|>"]
    assert theirs_greedy(tmp_path / "out", suppress_tokens=never, min_new_tokens=32) == greedy(model, min_tokens=32).ids


@pytest.mark.parametrize(("windows", "option"), [((None, 4), " --model-impl transformers"), ((4, 4), "")])
def test_the_command_for_vllm_is_one_that_it_takes(polytask, tmp_path, windows, option):
    """Its own code for Qwen3 has one window for all layers."""
    tokenizer, norm = TextTokenizer.bytes(), RMSNorm()
    attentions = tuple(Attention(2, window=window, qk_norm=norm) for window in windows)
    config = TransformerConfig(tokenizer.vocab_size, 32, 2, 32, attentions, GatedMLP(48), norm, Rotary())
    write_folder(tmp_path / "made", Transformer(config).initialize(0), tokenizer, card="# A", about={})
    result = polytask("export", tmp_path / "made", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    said = [line.strip() for line in result.stdout.splitlines() if "vllm serve" in line]
    assert said == [f"vllm serve {tmp_path / 'out'}{option}"]


def test_t5_and_marian_read_as_transformers_does(polytask, tmp_path):
    t5 = tmp_path / "t5"
    made = random_network(
        "T5", vocab_size=170, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    made.save_pretrained(t5)
    (t5 / "spiece.model").write_bytes(sentencepiece(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    said = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 100}
    (t5 / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "T5Tokenizer"}))
    marian = tmp_path / "marian"
    marian.mkdir()
    marian_tokenizer(marian)
    size = len(json.loads((marian / "vocab.json").read_text()))
    random_network(
        "Marian", vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=64,
        pad_token_id=size - 1, eos_token_id=1, decoder_start_token_id=size - 1, forced_eos_token_id=None,
        bad_words_ids=[[size - 1]],
    ).save_pretrained(marian)  # fmt: skip
    for folder in (t5, marian):
        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        inputs = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
        pad = theirs.config.pad_token_id
        expected = theirs.generate(**inputs, max_new_tokens=32, do_sample=False, num_beams=1, bad_words_ids=[[pad]])[
            0
        ].tolist()
        result = polytask("import", folder, tmp_path / f"{folder.name}-ours")
        assert result.exit_code == 0, result.stderr
        for place in (folder, tmp_path / f"{folder.name}-ours"):
            completion = greedy(pt.load(place))
            assert [i for i in expected[1:] if i != 1] == completion.ids
        result = polytask("export", tmp_path / f"{folder.name}-ours", tmp_path / f"{folder.name}-again")
        assert result.exit_code == 0, result.stderr
        assert "vllm serve" not in result.stdout  # which reads no encoders
        again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / f"{folder.name}-again").eval()
        read = transformers.AutoTokenizer.from_pretrained(tmp_path / f"{folder.name}-again")(
            PROMPT, return_tensors="pt"
        )
        assert torch.equal(read["input_ids"], inputs["input_ids"])
        assert again.generation_config.decoder_start_token_id == pad
        made = again.generate(
            input_ids=read["input_ids"], max_new_tokens=32, do_sample=False, num_beams=1, bad_words_ids=[[pad]]
        )
        assert made[0].tolist() == expected


# Mistakes


def test_import_of_what_is_ours_or_over_other_files_is_refused(polytask, babbler, llama, tmp_path):
    refused(polytask("import", babbler, tmp_path / "out"), "is a polytask checkpoint already")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused(polytask("import", llama, tmp_path / "mine"), "holds other files")
    refused(polytask("export", babbler, tmp_path / "mine"), "exists; choose another place")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_export_to_an_unknown_format_or_of_what_none_holds_is_refused(polytask, babbler, tmp_path):
    refused(polytask("export", babbler, "--to", "gguff", tmp_path / "out"), "Unknown format 'gguff'", "hf")
    tokenizer = TextTokenizer.bytes()
    network = Transformer(transformer(1, 32, 2, vocab_size=tokenizer.vocab_size)).initialize()
    pt.Model(network, tokenizer).save(tmp_path / "model")
    refused(polytask("export", tmp_path / "model", tmp_path / "out"), "marian, has another attention, position")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_larger_than_the_embedding_says_by_how_much(polytask, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "wide")
    tokenizer = byte_level(True)
    tokenizer.add_tokens([f"<{n}>" for n in range(12)])
    tokenizer.save(str(folder / "tokenizer.json"))
    refused(polytask("import", folder, tmp_path / "out"), "has 316 tokens, 6 more than the 310")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_pickles_alone_is_refused_and_says_how_to_convert_it(polytask, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(polytask("import", folder, tmp_path / "out"), "pytorch_model.bin, a pickle", "save_pretrained")


def test_a_sentencepiece_file_that_is_none_is_refused(polytask, llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "spm")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 499723\n")
    refused(polytask("import", folder, tmp_path / "out"), "tokenizer.model", "not a SentencePiece model")


def test_a_name_of_the_hub_without_a_network_is_refused(polytask, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    refused(polytask("import", "org/name", tmp_path / "out"), "no checkpoint at org/name", "HF_HUB_OFFLINE is set")
    refused(polytask("ask", "org/name", "text", "--text", "a"), "no checkpoint at org/name")


def test_import_from_nowhere_says_what_it_takes(polytask, tmp_path):
    result = polytask("import", "nothing/there/x", tmp_path / "z")
    refused(result, "There is no folder at nothing/there/x", "as Hugging Face has them", "owner/name")
    assert "polytask train" not in result.stderr


def test_a_place_that_cannot_be_written_brings_no_advice_on_training(polytask, llama, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for verb in ("import", "export"):
        result = polytask(verb, llama, tmp_path / "file" / "out")
        refused(result, "Cannot save to", "Not a directory")
        assert "--resume" not in result.stderr
