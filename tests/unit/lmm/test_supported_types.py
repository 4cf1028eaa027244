"""What is known of every type of transformers, and the page that says so."""

from pathlib import Path

import pytest
from families_document import render_document
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from flmm.lmm import supported_types
from flmm.lmm.supported_types import (
    list_installed_types,
    list_supported_types,
    read_supported_types,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "families.md"


def test_the_installed_types_are_those_of_transformers() -> None:
    assert set(list_installed_types()) == set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_every_type_is_known_and_says_why_not() -> None:
    content = read_supported_types()
    assert [entry.model_type for entry in content.types] == sorted(list_installed_types())
    for entry in content.types:
        # What only answers says why it does no more.
        expected = entry.verified and entry.reader != "text only"
        assert expected == (entry.reason is None), entry.model_type
        assert entry.reader != "none" or not entry.verified, entry.model_type


def test_the_page_is_what_the_command_writes() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render_document(read_supported_types())


def test_a_type_that_was_never_tried_is_left_to_the_generic_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supported_types, "list_installed_types", lambda: ("llava", "newer"))
    llava, newer = list_supported_types().types
    assert (llava.reader, llava.verified) == ("own file", True)
    assert (newer.reader, newer.verified) == ("generic adapter", False)
