"""Which tokens a processor's inputs mark, and those that are no marks of image tokens."""

import pytest
import torch
from torch import Tensor

from flmm.lmm.generic.token_types import find_marked_tokens
from flmm.lmm.tiny_models import find_token_id, tiny_tokenizer

TOKENIZER = tiny_tokenizer("<image>", "<start>", "<end>")
IMAGE, START, END = (find_token_id(TOKENIZER, token) for token in ("<image>", "<start>", "<end>"))
TOKEN_IDS = torch.tensor([[40, START, IMAGE, IMAGE, END, 41]])


def find(**inputs: list[int]) -> dict[str, list[int]]:
    processed = {
        "input_ids": TOKEN_IDS,
        "attention_mask": torch.ones_like(TOKEN_IDS),
        "image_sizes": torch.tensor([[64, 80]]),
        **{name: torch.tensor([values]) for name, values in inputs.items()},
    }
    marked: dict[str, Tensor] = find_marked_tokens(
        processed, {"input_ids", "token_type_ids", "experts", "image_sizes"}, TOKENIZER, IMAGE
    )
    return {name: sorted(tokens.tolist()) for name, tokens in marked.items()}


def test_every_input_has_a_rule_of_its_own() -> None:
    assert find(token_type_ids=[0, 0, 1, 1, 0, 0], experts=[0, 1, 1, 1, 1, 0]) == {
        "token_type_ids": [IMAGE],
        "experts": sorted([IMAGE, START, END]),
    }


def test_inputs_that_the_model_does_not_take_have_none() -> None:
    assert find(mm_token_type_ids=[0, 0, 1, 1, 0, 0]) == {}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0, 0, 1, 0, 0, 0], id="one image token of two"),
        pytest.param([0, 0, 1, 1, 2, 0], id="three kinds"),
        pytest.param([0, 0, 1, 1, 0, 1], id="a word"),
        pytest.param([0, 1, 2, 3, 4, 5], id="positions"),
    ],
)
def test_other_numbers_are_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match="its input experts is not 1 for image tokens"):
        find(experts=values)
