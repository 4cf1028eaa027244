"""Upload of a head to the hub."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_head import tiny_head

from flmm.errors import InputError
from flmm.head.upload import build_model_card, push_head_to_hub


@pytest.mark.parametrize("name", ["someone/head", "not a repo name!"])
def test_upload_without_network_raises_input_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens on port 9 of this machine.
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "none")
    with pytest.raises(InputError, match=name) as caught:
        push_head_to_hub(tiny_head(), name)
    assert "\n" not in str(caught.value)


def test_upload_sends_the_saved_head_and_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, set[str]] = {}

    class Hub:
        def create_repo(self, repository: str, private: bool, exist_ok: bool) -> str:
            assert private
            assert exist_ok
            return f"https://hub/{repository}"

        def upload_folder(self, repo_id: str, folder_path: str) -> None:
            sent[repo_id] = set(os.listdir(folder_path))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert push_head_to_hub(tiny_head(), "someone/head", private=True) == "https://hub/someone/head"
    assert sent == {"someone/head": {"config.json", "model.safetensors", "README.md"}}


@pytest.mark.parametrize("field", ["base_model_name_or_path", "refiner_name_or_path"])
def test_head_that_names_a_folder_is_not_uploaded(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    head = tiny_head()
    head.config = replace(head.config, **{field: str(tmp_path)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"is the folder .*; put its hub id in {field}") as caught:
        push_head_to_hub(head, "someone/head")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "/a/folder", "embedded:lmm"])
def test_card_names_only_hub_ids_as_base_model(name: str) -> None:
    assert "base_model" not in build_model_card(tiny_head(base_model_name_or_path=name).config)
    card = build_model_card(tiny_head(base_model_name_or_path="someone/lmm").config)
    assert "\nbase_model: someone/lmm\n" in card
