"""Parity with a real SAM: MobileSAM's decoder says of two photographs what ONNX Runtime says.

``FLMM_REAL_SAM`` is the folder of weights and outputs; the default is ``shared/real_sam`` beside
the repository. The tests need it, and are left out without it.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from conformance import REPOSITORY, read_case
from transformers import SamConfig, SamModel

from flmm.head.official_weight_names import rename_sam
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.segmenters.sam import SamSegmenter

FOLDER = Path(os.environ.get("FLMM_REAL_SAM") or REPOSITORY.parent / "shared" / "real_sam")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder of a real SAM")


@pytest.fixture(scope="module")
def segmenter() -> SamSegmenter:
    # Prompt encoder and mask decoder are those of all SAMs; the vision encoder is not used.
    sam = SamModel(SamConfig(vision_config={"num_hidden_layers": 1, "global_attn_indexes": []}))
    weights = rename_sam(read_case(FOLDER / "mobile_sam_decoder.safetensors").tensors)
    weights["shared_image_embedding.positional_embedding"] = weights[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    loaded = sam.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys
    assert all(name.startswith("vision_encoder.") for name in loaded.missing_keys)
    segmenter = SamSegmenter(sam)
    return segmenter.eval()


@pytest.mark.parametrize("kind", ["point", "box", "box+mask"])
@pytest.mark.parametrize("photograph", ["china", "flower"])
def test_logits_agree(segmenter: SamSegmenter, photograph: str, kind: str) -> None:
    case = read_case(FOLDER / f"{photograph}.safetensors")
    described = json.loads(case.metadata["case"])
    height, width = described["size"]
    (expected,) = (entry for entry in described["cases"] if entry["name"] == kind)
    prompt = torch.tensor(expected["prompt"], dtype=torch.float32)
    is_point = kind == "point"
    prompts = SegmenterPrompts(
        points=prompt[None] if is_point else None,
        point_labels=torch.ones(1, 1) if is_point else None,
        boxes=None if is_point else prompt.reshape(1, 4),
        mask_logits=case.tensors[expected["mask"]][None] if "mask" in expected else None,
    )
    embeddings = PictureEmbeddings((case.tensors["image_embedding"].float(),))
    with torch.no_grad():
        masks = segmenter.decode(embeddings, (height, width), prompts, multimask=True)
    best = masks.scores[0].argmax()
    logits = masks.logits[:, best]
    torch.testing.assert_close(
        logits[0], case.tensors[f"{kind}.low_res_logits"].float(), atol=0.1, rtol=0
    )
    if f"{kind}.score" in case.tensors:
        score = case.tensors[f"{kind}.score"][0].float()
        torch.testing.assert_close(masks.scores[0, best], score, atol=0.001, rtol=0)
    area = (segmenter.upsample_to_picture(logits, (height, width)) > 0).sum().item()
    assert area == pytest.approx(expected["area"], rel=0.02)
