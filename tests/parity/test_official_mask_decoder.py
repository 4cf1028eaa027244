"""Parity of the U-Net with the authors': the same weights give the same logits."""

import json
from pathlib import Path

import pytest
import torch
from conformance import case_paths, read_case

from flmm.head.conversion import convert_mask_decoder


@pytest.mark.parametrize("path", case_paths("mask_decoder"), ids=lambda path: path.name)
def test_logits_agree(path: Path) -> None:
    case = read_case(path)
    config = json.loads(case.metadata["config"])
    decoder = convert_mask_decoder(case.state(), upsample_input=config["upsample_input"])
    with torch.no_grad():
        logits = decoder(case.tensors["input"])
    torch.testing.assert_close(logits, case.tensors["output"], atol=1e-4, rtol=0)
