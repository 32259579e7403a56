"""Every family of open weights against transformers: logits, loss, gradients, padding, packing, cache, and back."""

import pytest
import torch

from polytask.interop import hf
from polytask.models.heads import cross_entropy
from polytask.nn.cache import Context
from polytask.nn.paged import Row
from tests.interop.families import CASES, VOCABULARY, case
from tests.models.cached import cached


def ids_of(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def places(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


def network(name: str):
    return hf.load_network(case(name).folder, torch.float64)


def test_logits_loss_and_gradients(name):
    theirs, ours, ids = case(name), network(name), ids_of(2, 12)
    theirs.oracle.zero_grad()
    with theirs.precise():
        expected = theirs.oracle(ids).logits
    loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    hidden = ours(ids, Context(places(ids)))
    assert (ours.logits(hidden) - expected).abs().max() < theirs.exact
    total, _ = cross_entropy(hidden[:, :-1], ours.head, ids[:, 1:], torch.ones(2, 11).double())
    (total / 22).backward()
    assert abs(total / 22 - loss) < theirs.exact
    family = hf.family_of(theirs.folder)
    names = [theirs_name for theirs_name, _ in theirs.oracle.named_parameters()]
    rows = {row.theirs: row for row in family.rows_of(ours.config, names)}
    covered = set()
    for theirs_name, parameter in theirs.oracle.named_parameters():
        row = rows[family.full_name(theirs_name, rows)]
        covered.add(row.theirs)
        for one, other in row.view.pairs(parameter.grad, ours.get_parameter(row.ours).grad):
            assert (one - other).abs().max() < theirs.exact, theirs_name
    assert covered == set(rows)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma", "gemma 2"])
def test_embeddings_in_bfloat16(family):
    """Their factor is rounded to it as well."""
    import transformers

    folder, ids = case(family).folder, torch.arange(VOCABULARY)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).get_input_embeddings()
    assert torch.equal(hf.load_network(folder, torch.bfloat16).embed(ids, places(ids)), theirs(ids))


def test_left_padding(name):
    theirs, ours, ids = case(name), network(name), ids_of(2, 12)
    real = torch.ones(2, 12, dtype=torch.long)
    real[1, :5] = 0
    positions = (real.cumsum(1) - 1).clamp(min=0)
    oracle, ours, exact = theirs.oracle, ours, theirs.exact
    if name == "bloom":  # in float64 the oracle gives NaN for rows of which all is masked
        oracle, ours, exact = oracle.float(), ours.float(), 1e-5
    with theirs.precise(), torch.no_grad():
        words = {} if name == "bloom" else {"position_ids": positions}
        expected = oracle(ids, attention_mask=real, **words).logits
    logits = ours.logits(ours(ids, Context(positions, documents=real)))
    oracle.double()
    assert (logits - expected)[real.bool()].abs().max() < exact


def test_packed_documents(name):
    theirs, ours = case(name), network(name)
    first, second = ids_of(1, 7, seed=4), ids_of(1, 9, seed=5)
    positions, documents = torch.cat([places(first), places(second)], 1), torch.tensor([[1] * 7 + [2] * 9])
    with theirs.precise(), torch.no_grad():
        expected = torch.cat([theirs.oracle(ids).logits for ids in (first, second)], 1)
    logits = ours.logits(ours(torch.cat([first, second], 1), Context(positions, documents)))
    assert (logits - expected).abs().max() < theirs.exact


@torch.no_grad()
def test_cache_and_greedy_continuation(name):
    theirs, ours, ids = case(name), network(name), ids_of(2, 9)
    with theirs.precise():
        expected = theirs.oracle.generate(
            ids, max_new_tokens=32, do_sample=False, eos_token_id=VOCABULARY, pad_token_id=1,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    cache, chunk, at, made = ours.new_cache(blocks=6), ids[:, :4], 0, []
    while len(made) < 32:
        hidden = cached(ours, cache, chunk, [Row(table, at, chunk.shape[1]) for table in ([0, 1, 2], [5, 3, 4])])
        at += chunk.shape[1]
        if at == 4:
            chunk = ids[:, 4:]
            continue
        logits = ours.logits(hidden[:, -1])
        assert (logits - expected.logits[len(made)]).abs().max() < 1e-5  # it gives them in float32
        made.append(logits.argmax(-1))
        chunk = made[-1][:, None]
    assert torch.equal(torch.stack(made, 1), expected.sequences[:, 9:])


def test_export_gives_transformers_the_same_bits(name, tmp_path):
    import transformers

    theirs, ours = case(name), network(name)
    hf.export(tmp_path / "out", ours, None, shard_bytes=20_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    words = {"dtype": torch.float64, "experts_implementation": "eager"}
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", **words)
    # Without a window Mistral is Llama.
    kept = "LlamaForCausalLM" if name == "mistral, without a window" else type(theirs.oracle).__name__
    assert type(again).__name__ == kept
    before, after = theirs.oracle.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    ids = ids_of(2, 12)
    plain = transformers.AutoModelForCausalLM.from_pretrained(theirs.folder, **words)
    with torch.no_grad():
        # Not to the last bit: the several forms of GELU by tanh are one to us.
        assert (again.eval()(ids).logits - plain.eval()(ids).logits).abs().max() < 1e-6
    assert hf.read_config(tmp_path / "out") == ours.config
