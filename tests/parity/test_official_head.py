"""Parity of a whole head with the authors': the same weights give the same logits."""

import json
from pathlib import Path

import pytest
import torch
from conformance import Case, case_paths, read_case

from flmm.attention.merge import merge_token_maps
from flmm.head.conversion import convert_official_checkpoint
from flmm.head.model import HeadOutput
from flmm.types import ImageGeometry


def run_head(case: Case) -> HeadOutput:
    config = json.loads(case.metadata["config"])
    tensors = case.tensors
    head = convert_official_checkpoint(
        case.state(),
        merge=config["merge"],
        upsample_input=config["mask_decoder"]["upsample_input"],
        decoder_heads=config["sam"]["decoder_heads"],
    )
    sizes, padding = config["geometry"], config["geometry"]["padding"]
    height, width, _ = tensors["image"].shape
    geometry = ImageGeometry(
        picture=(height, width),
        resized=(sizes["image_shape"]["height"], sizes["image_shape"]["width"]),
        offset=(padding["before_height"], padding["before_width"]),
        canvas=(sizes["padded_shape"]["height"], sizes["padded_shape"]["width"]),
        grid=(config["grid"][0], config["grid"][1]),
    )
    attention = tensors["word_image_attention"]
    attention = attention.reshape(*attention.shape[:3], *geometry.grid)
    phrases = [
        torch.nonzero(tensors["phrase_ids"] == phrase).flatten().tolist()
        for phrase in sorted(set(tensors["phrase_ids"].tolist()))
        if phrase >= 0
    ]
    with torch.no_grad():
        output: HeadOutput = head(
            torch.stack(
                [merge_token_maps(attention[:, :, words], config["merge"]) for words in phrases]
            ),
            [tensors["hidden_states"][:, words] for words in phrases],
            geometry,
            head.refiner.encode(tensors["image"].numpy()),
        )
    return output


@pytest.mark.parametrize("path", case_paths("head"), ids=lambda path: path.name)
def test_logits_agree(path: Path) -> None:
    case = read_case(path)
    output = run_head(case)
    torch.testing.assert_close(output.mask_logits, case.tensors["mask_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        output.refined_logits, case.tensors["refined_mask_logits"], atol=1e-4, rtol=0
    )
