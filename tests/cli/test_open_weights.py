"""The verbs on a folder as Hugging Face has them, which is a checkpoint like any other."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama in shards with a byte-level tokenizer that is smaller than its embedding, and rows of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("open")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "theirs", max_shard_size="20KB")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet))
    tokenizer.save(str(folder / "theirs" / "tokenizer.json"))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n} of all"}) + "\n" for n in range(6)))
    return folder


def test_show_ask_eval_and_tune(polytask, folder, monkeypatch):
    monkeypatch.chdir(folder)
    shown = polytask("show", "theirs")
    assert shown.exit_code == 0
    assert "llama (LlamaForCausalLM)" in shown.stdout
    asked = polytask("ask", "theirs", "text", "--text", "row", "--max-tokens", "4")
    assert asked.exit_code == 0
    judged = polytask("eval", "theirs", "--task", "text", "--data", "rows.jsonl", "--json")
    assert judged.exit_code == 0, judged.stderr
    tuned = polytask(
        "tune", "theirs", "--task", "text", "--data", "rows.jsonl", "--lora", "--steps", "30", "--out", "t"
    )
    assert tuned.exit_code == 0, tuned.stderr
    again = polytask("eval", "t", "--task", "text", "--data", "rows.jsonl", "--json")
    before, after = (json.loads(found.stdout)["metrics"]["loss"] for found in (judged, again))
    assert after < before - 0.3
