"""Chats rendered as text and encoded as tokens."""

import pytest
from PIL import Image
from small_tokenizers import byte_level, llama_like
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.chat import RenderedChat, encode_chat, render_chat
from flmm.lmm.message import Message
from flmm.lmm.tiny_models import tiny_tokenizer

PARTS = """{% for m in messages %}{{ m.role }}: {% for part in m.content %}\
{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}</s>
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
STRINGS = """{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ '\n' + m.content + '</s>' }}\
{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"""
THOUGHTFUL = """{% for m in messages %}{% if m.role == 'assistant' %}assistant:<think/>\
{{ m.content }}{% else %}user:{{ m.content }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}assistant:{% endif %}"""
LIKE_LLAMA = """{{ messages[0]['content'] | trim }}{% for m in messages[1:] %}\
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}\
{{ part.text }}{% endfor %}{% endif %}{% endfor %}"""
WITHOUT_CONTENT = "{% for m in messages %}{{ m.role }}{% endfor %}"
TEMPLATES = {"none": None, "parts": PARTS, "strings": STRINGS, "thoughtful": THOUGHTFUL}


def tokenizer_with(template: str | None) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer("<image>")
    tokenizer.chat_template = template
    return tokenizer


def render(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str | None = None
) -> RenderedChat:
    message = Message("user", question, (Image.new("RGB", (2, 2)),))
    return render_chat(tokenizer, "<image>", [message], answer, "tiny")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what?", "the cat"),
        ("A", "s"),
        ("cat", "cat"),
        ("USER", "assistant"),
        ("é🐈", "🐈‍⬛ é"),
        ("", "x"),
    ],
)
def test_question_and_answer_are_found_in_every_template(
    name: str, question: str, answer: str
) -> None:
    tokenizer = tokenizer_with(TEMPLATES[name])
    chat = render(tokenizer, question, answer)
    assert chat.answer_span is not None
    assert chat.text[slice(*chat.answer_span)] == answer
    assert chat.text.endswith(answer)
    assert chat.text[slice(*chat.question_span)] == question
    assert chat.text.count("<image>") == 1
    opening = render(tokenizer, question)
    assert chat.text.startswith(opening.text)
    assert chat.question_span[0] >= opening.text.index("<image>") + len("<image>")
    encoded = encode_chat(tokenizer, chat, "<image>", ["<image>"])
    assert encoded.answer_offsets is not None
    texts = [answer[start:end] for start, end in encoded.answer_offsets]
    assert texts[0].startswith(answer[0])
    assert encoded.answer_start + len(encoded.answer_offsets) == len(encoded.token_ids)
    question_ids = encoded.token_ids[encoded.question_start :][: len(encoded.question_offsets)]
    assert question in tokenizer.decode(question_ids)


def test_prompt_without_template_is_that_of_llava() -> None:
    chat = render(tokenizer_with(None), "what?", "a cat")
    assert chat.text == "USER: <image>\nwhat? ASSISTANT: a cat"


def test_bos_token_is_not_added_twice() -> None:
    tokenizer = tokenizer_with(STRINGS)
    encoded = encode_chat(tokenizer, render(tokenizer, "what?"), "<image>", ["<image>"])
    assert encoded.token_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", [THOUGHTFUL, LIKE_LLAMA])
def test_template_that_would_write_lists_is_given_strings(template: str) -> None:
    messages = [Message("system", "Be brief."), Message("user", "what?")]
    chat = render_chat(tokenizer_with(template), "<image>", messages, None, "tiny")
    assert "[" not in chat.text
    assert chat.text.count("Be brief.") == chat.text.count("what?") == 1


def test_system_message_that_the_template_leaves_out_is_left_out_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    template = PARTS.replace("in messages %}", "in messages if m.role != 'system' %}", 1)
    question = Message("user", "what?")
    messages = [Message("system", "Be brief."), question]
    expected = render_chat(tokenizer_with(template), "<image>", [question], None, "deaf")
    for _ in range(2):
        chat = render_chat(tokenizer_with(template), "<image>", messages, None, "deaf")
        assert chat == expected
    assert [record.message for record in caplog.records if "'deaf'" in record.message] == [
        "LMM 'deaf' has no system message: its chat template leaves out what was given"
    ]
    # Everything else must be shown.
    answers = PARTS.replace("in messages %}", "in messages if m.role != 'assistant' %}", 1)
    with pytest.raises(InputError, match="leaves out"):
        render_chat(
            tokenizer_with(answers), "<image>", [Message("assistant", "a cat"), question], None, "?"
        )


def test_template_without_the_picture_is_refused() -> None:
    with pytest.raises(InputError, match="chat_template"):
        render(tokenizer_with(WITHOUT_CONTENT), "what?")


@pytest.mark.parametrize(
    ("question", "answer", "named"),
    [("is </s> there?", None, "question"), ("what?", "a <pad> cat", "answer")],
)
def test_special_token_in_a_text_is_refused(question: str, answer: str | None, named: str) -> None:
    with pytest.raises(InputError, match=f"the {named} .* controls the LMM; take it out") as caught:
        render(tokenizer_with(PARTS), question, answer)
    assert "\n" not in str(caught.value)


def test_a_long_text_with_a_special_token_is_quoted_by_its_beginning() -> None:
    with pytest.raises(InputError, match="contains '</s>', which") as caught:
        render(tokenizer_with(PARTS), "</s>" + "a cat " * 1000)
    assert len(str(caught.value)) < 500


def test_special_token_in_the_history_is_refused() -> None:
    messages = [
        Message("user", "hi"), Message("assistant", "</s>"), Message("user", "what?"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="the assistant's message '</s>' contains '</s>'"):
        render_chat(tokenizer_with(PARTS), "<image>", messages, None, "tiny")


def test_special_token_that_is_not_listed_is_refused() -> None:
    assert "<reserved>" not in byte_level().all_special_tokens
    message = Message("user", "a <reserved> cat?")
    with pytest.raises(InputError, match="'<reserved>', which controls the LMM"):
        render_chat(byte_level(), "<image>", [message], None, "tiny")


def test_added_token_that_is_text_is_read() -> None:
    message = Message("user", "a <think> cat?")
    chat = render_chat(byte_level(), "<image>", [message], None, "tiny")
    assert message.text in byte_level().decode(
        encode_chat(byte_level(), chat, "<image>", []).token_ids
    )


def test_space_that_the_tokenizer_inserts_is_no_part_of_the_question() -> None:
    # Llama 2's tokenizer inserts one after each special token too, here the picture's.
    chat = RenderedChat("<image>3 dogs?", (7, 14), None, has_special_tokens=True)
    encoded = encode_chat(llama_like(), chat, "<image>", ["<image>"])
    tokens = llama_like().convert_ids_to_tokens(encoded.token_ids)
    assert tokens[:3] == ["<image>", "▁", "3"]
    assert tokens[encoded.question_start] == "3"
    assert encoded.question_offsets[0] == (0, 1)
