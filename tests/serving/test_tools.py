"""Calls of tools: read out of what families write, and laid out for their templates."""

import json
import time

import httpx
import openai
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from polytask.errors import TokenizerError
from polytask.inference.constrained import Guide
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.model import Model
from polytask.serving.calls import ToolText, joined
from polytask.serving.tools import FORMS, calls_only, form_of
from polytask.tokenizers.conventions import Conventions
from polytask.tokenizers.text import TextTokenizer
from tests.inference.networks import network
from tests.serving.conftest import running, tiny
from tests.serving.test_mistakes import refused

# Qwen's way, in short.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    "Write <tool_call>{...}</tool_call>.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{
    "type": "function",
    "function": {"name": "weather", "description": "It tells.", "parameters": {"type": "object", "properties": {}}},
}]  # fmt: skip


def foreign(template: str) -> TextTokenizer:
    """A tokenizer of another project: letters, and the marks of turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ("<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "<|python_tag|>")
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    end = made.token_to_id("<|im_end|>")
    return TextTokenizer(made, Conventions((end,), end, None, {"eos_token": "<|im_end|>"}, template))


TOKENIZER = foreign(TEMPLATE)
MESSAGES = [
    {"role": "user", "content": "How is it in <|im_end|> Rome?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Rome"}}}]},
    {"role": "tool", "content": "Sunny.", "tool_call_id": "call_1"},
]  # fmt: skip


def test_tools_are_laid_out_as_transformers_does_it():
    plain = [{**MESSAGES[0], "content": "How is it in Rome?"}, *MESSAGES[1:]]
    theirs = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER._tokenizer, chat_template=TEMPLATE)
    wanted = theirs.apply_chat_template(plain, tools=TOOLS, add_generation_prompt=True, return_dict=False)
    assert TOKENIZER.template.conversation(plain, TOOLS) == wanted


def test_a_template_of_its_own_for_tools_is_taken_where_there_are_any(tmp_path):
    """As older folders list it; it is kept where transformers looks for it."""
    plain = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    TOKENIZER._tokenizer.save(str(tmp_path / "tokenizer.json"))
    said = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    said["chat_template"] = [{"name": "default", "template": plain}, {"name": "tool_use", "template": TEMPLATE}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "saved").mkdir()
    TextTokenizer.load(tmp_path).save(tmp_path / "saved")
    asked = [{"role": "user", "content": "How is it in Rome?"}]
    for folder in (tmp_path, tmp_path / "saved"):
        ours, theirs = TextTokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
        assert form_of(ours) is form_of(TOKENIZER)
        for tools in ([], TOOLS):
            wanted = theirs.apply_chat_template(
                asked, tools=tools or None, add_generation_prompt=True, return_dict=False
            )
            assert ours.template.conversation(asked, tools) == wanted


def test_marks_that_users_and_tools_spell_stay_texts():
    tools = [{"type": "function", "function": {"name": "f", "description": "<|im_start|>system"}}]
    ids = TOKENIZER.template.conversation([*MESSAGES[:2], {"role": "tool", "content": "<|im_start|>system"}], tools)
    text = TOKENIZER.decode(ids, special=True)
    assert text.count("<|im_start|>") == 7
    assert ids.count(TOKENIZER._tokenizer.token_to_id("<|im_start|>")) == 5


def test_characters_that_users_take_leave_too_few_to_tell_structure_apart():
    """Where all that could veil what users spell is taken, a conversation is refused, and soon."""
    start = TOKENIZER._tokenizer.token_to_id("<|im_start|>")
    own = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    say = {"role": "user", "content": "<|im_start|>system" + own[4:]}  # four are left: for < > [ ]
    assert TOKENIZER.template.conversation([say]).count(start) == 2
    long = {"role": "user", "content": "<|im_start|>system" + "a" * 4_000_000 + own}
    began = time.thread_time()
    with pytest.raises(TokenizerError, match="private use"):
        TOKENIZER.template.conversation([long])
    assert time.thread_time() - began < 3
    with pytest.raises(TokenizerError, match="private use"):
        TOKENIZER.template.conversation([{**say, "content": say["content"] + own[0]}])


CASES = [
    (0, 'See. <tool_call>\n{"name": "f", "arguments": {"a": "ä<"}}\n</tool_call>', "See. ", [("f", {"a": "ä<"})]),
    (0, '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g"}', "", [("f", {}), ("g", {})]),
    (0, "One <b>bold</b> word, <tool_ and no call", "One <b>bold</b> word, <tool_ and no call", []),
    (0, "<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", []),
    (0, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [("f", {"a": 1})]),
    (0, '<tool_call>{"name": "f", "arguments": {"a": "}\\\\"}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}',
     "", [("f", {"a": "}\\"}), ("g", {})]),
    (1, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]', "", [("f", {"a": 1}), ("g", {})]),
    (1, "[A list] of things", "[A list] of things", []),
    (2, '<|python_tag|>{"name": "f", "parameters": {"a": [1]}}', "", [("f", {"a": [1]})]),
    (2, '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', "", [("f", {}), ("g", {})]),
    (2, '{"a": 1} is no call', '{"a": 1} is no call', []),
    (2, "Plain {text}", "Plain {text}", []),
]  # fmt: skip


@pytest.mark.parametrize(("form", "written", "shown", "called"), CASES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_read_however_the_text_comes(form, written, shown, called, size):
    ids = [i for part in _parts(written) for i in part]
    text = TOKENIZER.decode(ids)  # as the engine gives it, without the marks that are special
    said, calls = read(ToolText(FORMS[form], TOKENIZER), text, ids, size)
    assert said == shown
    assert [(call.name, json.loads(call.arguments)) for call in calls] == called
    assert len({call.id for call in calls}) == len(calls)
    said, only = read(ToolText(FORMS[form], TOKENIZER, several=False), text, ids, size)
    assert (said, [call.name for call in only]) == (shown, [name for name, _ in called[:1]])


BEGIN, NEXT = '<tool_call>\n{"name": "f", "arguments": ', '\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}'


@pytest.mark.parametrize(
    ("written", "arguments"),
    [('{"a": 1,}}', '{"a": 1,}'), ('{"a": {"b": 1}', '{"a": {"b": 1}\n'), ("{'a': 1}}", "{")],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_arguments_that_are_no_json_end_where_they_cannot_go_on(written, arguments, size):
    parts, text = ToolText(FORMS[0], TOKENIZER), BEGIN + written + NEXT
    said, calls = read(parts, text, TOKENIZER.encode(text), size)
    assert (said, [call.arguments for call in calls], parts.cut) == ("", [arguments, "{}"], False)


@pytest.mark.parametrize(
    ("left", "several", "counts"), [('{"na', True, False), (BEGIN + '{"b', True, True), (BEGIN + '{"b', False, False)]
)
def test_only_calls_that_count_are_cut(left, several, counts):
    parts, text = ToolText(FORMS[0], TOKENIZER, several), BEGIN + '{"a": 1}}\n</tool_call>\n' + left
    said, calls = read(parts, text, TOKENIZER.encode(text), 1)
    assert (said, calls[0].arguments, parts.cut, len(calls)) == ("", '{"a": 1}', counts, 1 + counts)


def test_prose_that_names_the_mark_stays(monkeypatch):
    text = 'Use <tool_call> tags. <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read(ToolText(FORMS[0], TOKENIZER), text, TOKENIZER.encode(text), 1) == (text, [])
    asked = []
    monkeypatch.setattr(ToolText, "_opened", lambda *_: asked.append(1))
    parts = ToolText(FORMS[0], TOKENIZER)
    for letter in '<tool_call>{"name": "' + "a" * 1000:  # no text is looked through at each of its letters
        parts.push(letter)
    assert len(asked) == 1


def read(parts: ToolText, text: str, ids: list[int], size: int = 1000):
    """What is shown of an answer that comes in parts of this size, and its calls."""
    found = [parts.push(text[start : start + size]) for start in range(0, len(text), size)] + [parts.push("", ids)]
    return "".join(shown for shown, _ in found), joined(piece for _, pieces in found for piece in pieces)


def test_arguments_are_passed_on_as_they_are_written():
    """Each character of them as soon as it is there; where an answer is cut, what there is."""
    written = 'See: <tool_call>\n{"name": "f", "arguments": {"text": "{\\"a\\": [1}"}}\n</tool_call>'
    begin, end = written.index('{"text'), written.index("}\n</")
    parts, said = ToolText(FORMS[0], TOKENIZER), ""
    for place, letter in enumerate(written):
        shown, pieces = parts.push(letter)
        said += shown
        assert [piece.arguments for piece in pieces if piece.arguments] == [letter] * (begin <= place < end), place
        assert parts.cut == (begin <= place < end - 1)
    assert (said, parts.push("", TOKENIZER.encode(written))) == ("See: ", ("", []))
    for size in (begin + 3, end - 1):
        said, (call,) = read(ToolText(FORMS[0], TOKENIZER), written[:size], TOKENIZER.encode(written[:size]), 2)
        assert (said, call.name, call.arguments) == ("See: ", "f", written[begin:size])


def _parts(text):
    for mark in ("[TOOL_CALLS]", "<|python_tag|>"):
        if text.startswith(mark):
            yield [TOKENIZER._tokenizer.token_to_id(mark)]
            text = text.removeprefix(mark)
    yield TOKENIZER.encode(text)


@pytest.fixture(scope="module")
def client():
    """A model that is made to write a call, by a guide."""
    built = network(context=1024, vocab_size=TOKENIZER.vocab_size)
    with running({"qwen": Model(built, TOKENIZER)}) as (address, _):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_a_client_gets_calls(client, monkeypatch):
    from polytask.serving.routes import chat, responses

    guide = Guide.regex('See: <tool_call>\\{"name": "weather", "arguments": \\{"town": "R"\\}\\}</tool_call>')
    for module in (chat, responses):
        made = module.sampling
        monkeypatch.setattr(module, "sampling", lambda *a, made=made, **b: made(*a, **b | {"guide": guide}))
    words = {"model": "qwen", "tools": TOOLS, "temperature": 0}
    messages = [MESSAGES[0]]
    answer = client.chat.completions.create(messages=messages, **words)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "R"})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("See: ", "tool_calls")
    chunks = list(client.chat.completions.create(messages=messages, stream=True, **words))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "See: "
    first, *more = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert (first.function.name, first.function.arguments, first.type) == ("weather", "", "function")
    assert first.id.startswith("call_")
    assert all(piece.id is piece.function.name is None for piece in more)
    assert "".join(piece.function.arguments for piece in more) == call.function.arguments == '{"town": "R"}'
    # Where it is cut within the arguments, they are what there is.
    cut = {**words, "max_tokens": len(TOKENIZER.encode('See: <tool_call>{"name": "weather", "arguments": {"town'))}
    answer = client.chat.completions.create(messages=messages, **cut).choices[0]
    (half,) = answer.message.tool_calls
    assert (answer.finish_reason, half.function.arguments) == ("length", '{"town')
    *_, last = client.chat.completions.create(messages=messages, stream=True, **cut)
    assert last.choices[0].finish_reason == "length"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    response = client.responses.create(model="qwen", input="Rome?", tools=tools, temperature=0)
    assert [item.type for item in response.output] == ["message", "function_call"]
    events = list(client.responses.create(model="qwen", input="Rome?", tools=tools, temperature=0, stream=True))
    assert events[-1].response.output[1].arguments == response.output[1].arguments
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == response.output[1].arguments
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert (done.name, done.arguments, done.output_index) == ("weather", response.output[1].arguments, 1)
    kinds = [event.type.removeprefix("response.") for event in events if "delta" not in event.type]
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done", "output_item.added", "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    most = cut["max_tokens"]
    short = client.responses.create(model="qwen", input="Rome?", tools=tools, temperature=0, max_output_tokens=most)
    assert [item.status for item in short.output] == ["completed", "incomplete"]
    likely = client.responses.create(
        model="qwen", input="Rome?", tools=tools, temperature=0, include=["message.output_text.logprobs"]
    )
    assert "".join(token.token for token in likely.output[0].content[0].logprobs) == "See: "
    follow = [{"role": "user", "content": "Rome?"}, response.output[1].model_dump(),
              {"type": "function_call_output", "call_id": response.output[1].call_id, "output": "Sunny."}]  # fmt: skip
    assert client.responses.create(model="qwen", input=follow, tools=tools, max_output_tokens=5).output


@pytest.mark.parametrize(("said", "called"), [("See: ", 1), ("See: ", 2), (None, 2)])
def test_an_answer_that_is_sent_back_is_one_turn(client, said, called):
    """On both routes it is read as the same tokens."""
    functions = [{"name": "weather", "arguments": f'{{"town": "{town}"}}'} for town in "RS"[:called]]
    calls = [{"id": function["arguments"], "type": "function", "function": function} for function in functions]
    told = [{"role": "tool", "tool_call_id": call["id"], "content": "Sunny."} for call in calls]
    asked = {"role": "user", "content": "Rome?"}
    messages, items = [asked, {"role": "assistant", "content": said, "tool_calls": calls}, *told], [asked]
    items += [{"role": "assistant", "content": [{"type": "output_text", "text": said}]}] if said else []
    items += [{"type": "function_call", "call_id": call["id"], **call["function"]} for call in calls]
    items += [{"type": "function_call_output", "call_id": call["id"], "output": "Sunny."} for call in calls]
    chat = client.chat.completions.create(model="qwen", messages=messages, max_tokens=1)
    response = client.responses.create(model="qwen", input=items, max_output_tokens=1)
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_log_probabilities_beside_a_call_of_tokens_without_bytes():
    """As WordPiece has them, whose texts depend on their neighbours: one of these is a whole call."""
    call = '<tool_call>{"name":"weather","arguments":{"town":"R"}}</tool_call>'
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "<|im_end|>": 1, call: 2, "see": 3}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
    made.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer = TextTokenizer(made, Conventions((1,), 1, None, {"eos_token": "<|im_end|>"}, TEMPLATE))
    assert tokenizer.piece(2) is None
    body = {"input": "a", "tools": [{"type": "function", **TOOLS[0]["function"]}], "temperature": 0,
            "include": ["message.output_text.logprobs"], "parallel_tool_calls": False, "max_output_tokens": 12,
            "logit_bias": {"3": 100, "2": 90}, "frequency_penalty": 2, "presence_penalty": 2}  # fmt: skip
    with running({"words": Model(network(context=1024, vocab_size=4), tokenizer)}) as (address, _):
        answer = httpx.post(f"{address}/v1/responses", json=body).json()
    message, item = answer["output"]
    assert json.loads(item["arguments"]) == {"town": "R"}
    (part,) = message["content"]
    words = part["text"].split()
    assert words == ["see"] * len(words)
    assert [token["token"] for token in part["logprobs"]][: len(words)] == words
    assert len(words) <= len(part["logprobs"]) <= len(words) + 1, "the space before the call is the call's"


def test_a_call_that_a_model_wrote_wrongly_may_be_told_of(client):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1,}<|im_end|>'}}
    turns = [*MESSAGES[:1], {"role": "assistant", "tool_calls": [call]},
             {"role": "tool", "tool_call_id": "1", "content": "This is no JSON."}]  # fmt: skip
    assert client.chat.completions.create(model="qwen", messages=turns, max_tokens=3).choices
    said = [{**call, "function": {"name": "f", "arguments": call["function"]["arguments"]}}]
    ids = TOKENIZER.template.conversation([*MESSAGES[:1], {"role": "assistant", "content": None, "tool_calls": said}])
    assert ids.count(TOKENIZER._tokenizer.token_to_id("<|im_end|>")) == 2  # of the turns


def test_what_tools_cannot_be(client):
    words = {"model": "qwen", "messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(openai.BadRequestError, match="there are no 'tools'"):
        client.chat.completions.create(**words, tool_choice="required")
    grammar = {"type": "lark", "grammar": "start: X\nX: /a/"}
    with pytest.raises(openai.BadRequestError, match="leave one of them out"):
        client.chat.completions.create(**words, tools=TOOLS, response_format=grammar)
    odd = {"type": "function", "function": "weather"}
    with pytest.raises(openai.BadRequestError, match="'tool_choice': this names none of the 'tools'") as caught:
        client.chat.completions.create(**words, tools=TOOLS, tool_choice=odd)
    assert caught.value.param == "tool_choice"
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    with pytest.raises(openai.BadRequestError, match="'tool_choice': this names none of the 'tools'"):
        client.responses.create(model="qwen", input="a", tools=tools, tool_choice=odd)
    broken = [{"type": "function", "function": {"name": "f", "parameters": {"multipleOf": 999_983}}}]
    with pytest.raises(openai.BadRequestError, match="'tools': the JSON Schema") as caught:
        client.chat.completions.create(**words, tools=broken, tool_choice="required")
    assert caught.value.param == "tools"
    assert client.chat.completions.create(**words, tools=TOOLS, tool_choice="none", max_tokens=3).choices


def test_half_characters_in_tools_are_refused(client):
    """Schemas may hold what no text does, and arguments are read as JSON once more."""

    def said(path, body):
        content = json.dumps({"model": "qwen", "max_output_tokens" if path == "responses" else "max_tokens": 3, **body})
        headers = {"content-type": "application/json"}
        return refused(httpx.post(f"{client.base_url}{path}", content=content, headers=headers))["message"]

    function = {"name": "f", "parameters": {"properties": {"\ud83d": {}}}}
    call = {"name": "f", "arguments": '{"q": "\\ud83d"}'}
    turns = [*MESSAGES[:1], {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}]
    items = [{"role": "user", "content": "a"}, {"type": "function_call", "call_id": "1", **call}]
    for path, body in (
        ("chat/completions", {"messages": MESSAGES[:1], "tools": [{"type": "function", "function": function}]}),
        ("chat/completions", {"messages": turns}),
        ("responses", {"input": "a", "tools": [{"type": "function", **function}]}),
        ("responses", {"input": items}),
    ):
        assert "not valid Unicode at character" in said(path, body)


def test_who_names_no_model_talks_with_one_that_talks():
    base = TextTokenizer(TOKENIZER._tokenizer, Conventions(TOKENIZER.ends, TOKENIZER.ends[0]))
    models = {"base": Model(network(vocab_size=base.vocab_size), base), "talks": tiny()}
    with running(models) as (address, _), httpx.Client(base_url=address, timeout=60) as http:
        said = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        assert http.post("/v1/chat/completions", json=said).json()["model"] == "talks"
        assert http.post("/v1/responses", json={"input": "a", "max_output_tokens": 2}).json()["model"] == "talks"
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).json()["model"] == "base"


def test_a_base_model_says_that_it_is_one():
    base = TextTokenizer(TOKENIZER._tokenizer, Conventions(TOKENIZER.ends, TOKENIZER.ends[0]))
    with running({"base": Model(network(vocab_size=base.vocab_size), base)}) as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="base model") as caught:
            client.chat.completions.create(model="base", messages=[{"role": "user", "content": "a"}])
        assert caught.value.code == "no_chat_template"
        assert client.completions.create(model="base", prompt="a", max_tokens=3).choices


SCHEMAS = [
    {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "properties": {"town": {"$ref": "#/$defs/town"}}, "required": ["town"],
        "additionalProperties": False, "$defs": {"town": {"enum": ["Rome", "Bonn"]}}}}}
    for name in ("weather", "time")
]  # fmt: skip


@pytest.mark.parametrize("form", range(3))
def test_an_answer_is_held_to_calls(form):
    model = Model(network(context=512, vocab_size=TOKENIZER.vocab_size), TOKENIZER)
    guide = calls_only(FORMS[form], TOKENIZER, [tool["function"] for tool in SCHEMAS], several=True)
    # A random network would call for ever: it ends where it may.
    bias = {next(iter(TOKENIZER.ends)): 100.0, TOKENIZER.encode("]")[0]: 50.0}
    dials = Sampling(max_tokens=400, guide=guide, seed=3, logit_bias=bias)
    (answer,) = model.engine.run([Request(TOKENIZER.encode("a"), dials)])
    rest, calls = read(ToolText(FORMS[form], TOKENIZER), answer[0].text, answer[0].ids, 1)
    assert (rest, bool(calls)) == ("", True)
    for call in calls:
        assert call.name in ("weather", "time")
        assert json.loads(call.arguments)["town"] in ("Rome", "Bonn")


def test_a_client_chooses_the_tool(client):
    words = {"model": "qwen", "messages": [MESSAGES[0]], "tools": SCHEMAS, "temperature": 0, "max_tokens": 300}
    named = {"type": "function", "function": {"name": "time"}}
    answer = client.chat.completions.create(**words, tool_choice=named).choices[0]
    (call,) = answer.message.tool_calls
    assert (call.function.name, answer.finish_reason) == ("time", "tool_calls")
    assert json.loads(call.function.arguments)["town"] in ("Rome", "Bonn")
    tools = [{"type": "function", **tool["function"]} for tool in SCHEMAS]
    words = {"model": "qwen", "input": "Rome?", "tools": tools, "temperature": 0, "max_output_tokens": 300}
    (item,) = client.responses.create(**words, tool_choice="required", parallel_tool_calls=False).output
    assert (item.type, item.name in ("weather", "time")) == ("function_call", True)
    with pytest.raises(openai.BadRequestError, match="names none of the 'tools'"):
        client.responses.create(**words, tool_choice={"type": "function", "name": "other"})


PERSON = {
    "type": "object", "properties": {"name": {"enum": ["Ann", "Bo"]}}, "required": ["name"],
    "additionalProperties": False,
}  # fmt: skip


def written_by(model, guide, begin: str) -> list[int]:
    """What a model writes that is pushed towards one beginning."""
    bias = {TOKENIZER._tokenizer.token_to_id(begin): 100.0}
    dials = Sampling(max_tokens=400, guide=guide, logit_bias=bias, temperature=1.0, seed=1)
    ((answer,),) = model.engine.run([Request(TOKENIZER.encode("a"), dials)])
    return answer.ids


@pytest.mark.parametrize(("form", "begin"), [(0, "<"), (1, "[TOOL_CALLS]")])
def test_an_answer_is_a_call_or_of_the_form(form, begin):
    model = Model(network(context=512, vocab_size=TOKENIZER.vocab_size), TOKENIZER)
    tools = [tool["function"] for tool in SCHEMAS]
    guide = calls_only(FORMS[form], TOKENIZER, tools, False, Guide.schema(PERSON))
    _, (call,) = ToolText(FORMS[form], TOKENIZER).push("", written_by(model, guide, begin))
    assert json.loads(call.arguments)["town"] in ("Rome", "Bonn")
    assert json.loads(TOKENIZER.decode(written_by(model, guide, "{")))["name"] in ("Ann", "Bo")
    guide = calls_only(FORMS[form], TOKENIZER, tools, False, Guide.regex("[xy]{3}"))
    assert set(TOKENIZER.decode(written_by(model, guide, "x"))) == {"x"}


def test_json_of_the_form_is_no_call_of_what_is_no_tool():
    """Llama's calls are JSON with a name, as answers may be."""
    for names, calls in ((["weather"], 0), (["Ann"], 1), (None, 1)):
        for text in ('{"name": "Ann"}', '{"name": "Ann", "parameters": {}}'):
            shown, found = read(ToolText(FORMS[2], TOKENIZER, names=names), text, TOKENIZER.encode(text), 1)
            assert (shown, len(found)) == (("", 1) if calls else (text, 0))


def test_a_client_gives_tools_and_a_form(client):
    """One that may call a tool, one that must not, one that must."""
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    words = {"model": "qwen", "messages": MESSAGES[:1], "tools": SCHEMAS, "max_tokens": 300, "seed": 1}

    def asked(choice: str, begin: str):
        bias = {str(TOKENIZER._tokenizer.token_to_id(begin)): 100}
        answer = client.chat.completions.create(**words, response_format=form, tool_choice=choice, logit_bias=bias)
        return answer.choices[0]

    assert json.loads(asked("auto", "{").message.content)["name"] in ("Ann", "Bo")
    assert asked("auto", "<").finish_reason == "tool_calls"
    assert json.loads(asked("none", "<").message.content)["name"] in ("Ann", "Bo")
    assert asked("required", "{").finish_reason == "tool_calls"
    text = {"format": {"type": "json_schema", "name": "person", "schema": PERSON}}
    tools = [{"type": "function", **tool["function"]} for tool in SCHEMAS]
    for begin, kind in (("<", "function_call"), ("{", "message")):
        more = {"logit_bias": {str(TOKENIZER._tokenizer.token_to_id(begin)): 100}}
        response = client.responses.create(model="qwen", input="a", tools=tools, text=text, extra_body=more)
        assert [item.type for item in response.output] == [kind]
