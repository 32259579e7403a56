"""A folder of LLaVA's as Hugging Face has them is a checkpoint like any other: ids, answers and chat beside
transformers' processor and generate."""

import shutil

import PIL.Image
import pytest
import torch

import polytask as pt
from polytask.inference.sampling import Sampling
from polytask.tasks.picture import png
from polytask.tasks.segment import Image, Text

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """(network, processor, folder) with shaken weights, in float32."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )  # fmt: skip

    folder = tmp_path_factory.mktemp("llava") / "theirs"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<s>", "</s>", "<image>"]
    tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size, do_resize=False, do_center_crop=False)
    processor = LlavaProcessor(
        images, fast, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=3, image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(fast), hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256, eos_token_id=1, bos_token_id=0,
        ),
        image_token_index=fast.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    network = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor, folder


def pictures(count: int):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (count, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return [PIL.Image.fromarray(one.numpy()) for one in noise]


def test_conversations_are_laid_out_and_answered_as_by_transformers(theirs):
    network, processor, folder = theirs
    model, shown = pt.load(folder), pictures(2)
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is <image> here?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "noise"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and here?"}]},
    ]
    said = [
        Image(png(shown[0]), role="user"), Text("What is <image> here?", role="user"), Text("noise", role="assistant"),
        Image(png(shown[1]), role="user"), Text("and here?", role="user"),
    ]  # fmt: skip
    request = model.request(said, Sampling())
    # A user's own "<image>" is text to us and a picture to them, so theirs is asked without it.
    plain = [
        Text("What is here?", role=one.role) if getattr(one, "text", "").startswith("What") else one for one in said
    ]
    turns[0]["content"][1]["text"] = "What is here?"
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(images=shown, text=text, return_tensors="pt")
    asked = model.request(plain, Sampling())
    assert asked.ids == inputs["input_ids"][0].tolist()
    assert len(request.ids) == len(asked.ids) + len("<image> ")
    assert len(request.given.places) == len(asked.given.places) == 8
    with torch.no_grad():
        wanted = network.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    (answer,) = model.produce([plain], Sampling(max_tokens=12))[0]
    ends = [*wanted.tolist(), 1].index(1)
    assert answer.ids == wanted.tolist()[:ends]


def test_a_conversation_begins_once_whether_or_not_its_template_says_so(theirs, tmp_path):
    from transformers import LlavaProcessor

    folder = shutil.copytree(theirs[2], tmp_path / "begun")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}" + TEMPLATE)
    turn = {"role": "user", "content": [{"type": "image", "image": pictures(1)[0]}, {"type": "text", "text": "Hm?"}]}
    said = [Image(png(pictures(1)[0]), role="user"), Text("Hm?", role="user")]
    for place in (theirs[2], folder):
        laid = LlavaProcessor.from_pretrained(place).apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = pt.load(place).request(said, Sampling()).ids
        assert ids == laid["input_ids"][0]
        assert ids.count(0) == 1


def test_tasks_about_pictures_are_among_its_own(theirs, polytask, tmp_path):
    model = pt.load(theirs[2])
    assert {"captioning", "answering", "chat"} <= set(model.able)
    assert "drawing" not in model.able
    file = tmp_path / "noise.png"
    pictures(1)[0].save(file)
    result = polytask("caption", theirs[2], file, "--max-tokens", 3)
    assert result.exit_code == 0, result.stderr


def test_an_export_and_a_save_of_it_are_read_again(theirs, tmp_path):
    model, picture = pt.load(theirs[2]), pictures(1)[0]
    first = model.caption(picture, max_tokens=8)
    model.save(tmp_path / "saved")
    model.export(tmp_path / "exported")
    for folder in ("saved", "exported"):
        again = pt.load(tmp_path / folder)
        assert again.tokenizer.pictures == model.tokenizer.pictures
        assert again.caption(picture, max_tokens=8) == first
