"""llm, with a model of extra-openai-models.yaml."""

import os
import tempfile
from pathlib import Path

from client_checks import (
    BASE_URL,
    KEY,
    MODEL,
    PICTURE,
    QUESTION,
    SECOND_QUESTION,
    SYSTEM,
    run_checks,
)

os.environ["LLM_USER_PATH"] = folder = tempfile.mkdtemp()
Path(folder, "extra-openai-models.yaml").write_text(
    f"- model_id: flmm\n  model_name: {MODEL!r}\n  api_base: {BASE_URL!r}\n  vision: true\n",
    encoding="utf-8",
)

import llm  # noqa: E402 - reads the folder when it is imported

model = llm.get_model("flmm")
model.key = KEY


def picture_attachment():
    return llm.Attachment(path=PICTURE)


def text():
    return model.prompt("Hello!", stream=False).text()


def picture():
    return model.prompt(
        QUESTION, system=SYSTEM, attachments=[picture_attachment()], stream=False
    ).text()


def stream():
    return "".join(model.prompt(QUESTION, attachments=[picture_attachment()]))


def history():
    conversation = model.conversation()
    conversation.prompt(QUESTION, attachments=[picture_attachment()]).text()
    return conversation.prompt(SECOND_QUESTION).text()


run_checks(globals())
