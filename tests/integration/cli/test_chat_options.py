"""``flmm chat`` with earlier messages, several pictures, a system prompt and sampling."""

import json
from pathlib import Path

import pytest
from command import is_refused, list_files, run_in_process
from command_fixtures import Models
from PIL import Image

from flmm.grounding.conversation import ChatMessage
from flmm.grounding.grounder import Grounder

QUESTION = "What is in the picture?"

pytest_plugins = ("command_fixtures",)
pytestmark = pytest.mark.usefixtures("in_empty_folder")


def test_options_are_those_of_python(
    models: Models, scene: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.open(scene).rotate(90, expand=True).save("other.png")
    folder = tmp_path / "talks"
    folder.mkdir()
    Image.open(scene).save(folder / "first.png")

    def talk(path: str) -> list[ChatMessage]:
        parts = [{"type": "image", "path": path}, {"type": "text", "text": "Is it a dog?"}]
        return [{"role": "user", "content": parts}, {"role": "assistant", "content": "No."}]

    (folder / "talk.json").write_text(json.dumps(talk("first.png")), encoding="utf-8")
    sampling = ["--temperature", "5", "--seed", "3", "--max-new-tokens", "12"]
    ended = run_in_process(
        [
            "chat", scene, QUESTION, "--model", str(models.head), "--json",
            "--image", "other.png", "--system", "Be brief.",
            "--history", str(folder / "talk.json"), *sampling,
        ],
        capsys,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    content = json.loads(ended.out)
    answer = Grounder.from_pretrained(models.head).chat(
        [scene, "other.png"], QUESTION, history=talk(str(folder / "first.png")), system="Be brief.",
        temperature=5.0, seed=3, max_new_tokens=12,
    )  # fmt: skip
    assert content["text"] == answer.text
    assert content["phrases"] == answer.to_dict()["phrases"]
    assert len(answer.pictures) == 3


def test_several_pictures_are_named_in_the_table(
    models: Models, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(models.head), "--max-new-tokens", "20", "--no-refine"]
    ended = run_in_process(["chat", scene, QUESTION, "--image", scene, *options], capsys)
    assert (ended.code, ended.err) == (0, "")
    assert " picture " in ended.out
    assert list_files() == ["scene-chat.png"]
    ended = run_in_process(["chat", scene, QUESTION, *options], capsys)
    assert " picture " not in ended.out


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{}", "is no list; give"),
        ("nonsense", "is no JSON"),
        ('["a cat"]', "history[0] is 'a cat'; give"),
        ('[{"role": "user", "content": [{"type": "image", "path": "none.png"}]}]', "none.png"),
    ],
)
def test_a_file_of_another_form_is_refused(
    content: str, part: str, scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("talk.json").write_text(content, encoding="utf-8")
    arguments = ["chat", scene, QUESTION, "--history", "talk.json"]
    assert is_refused(run_in_process(arguments, capsys), part)
