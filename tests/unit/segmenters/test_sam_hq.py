import torch
from tiny_head import random_picture, scramble
from torch import nn

from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.segmenters.sam import SamSegmenter
from flmm.segmenters.sam_hq import SamHQSegmenter


def test_without_the_finer_mask_the_masks_are_those_of_sam() -> None:
    """SAM-HQ is SAM with one more output token; to SAM, that token is one more sparse prompt."""
    sam_hq, sam = SamHQSegmenter.build_tiny(), SamSegmenter.build_tiny()
    scramble(sam_hq)
    # The finer mask is the product of this layer's output and the features: now it is 0.
    last = sam_hq.mask_decoder.get_submodule("hq_mask_mlp.proj_out")
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    weights = sam_hq.sam.state_dict()
    shared = {name: weights[name] for name in sam.sam.state_dict() if "vision_encoder" not in name}
    sam.sam.load_state_dict(shared, strict=False)

    embeddings = sam_hq.encode(random_picture(30, 50))
    boxes = torch.tensor([[2.0, 3.0, 20.0, 25.0]])
    token = sam_hq.sam.state_dict()["mask_decoder.hq_token.weight"]
    with torch.no_grad():
        found = sam_hq.decode(embeddings, (30, 50), SegmenterPrompts(boxes=boxes))
        expected = sam.decode(
            PictureEmbeddings(embeddings.tensors[:1]),
            (30, 50),
            SegmenterPrompts(boxes=boxes, extra=token[None]),
        )
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-4)
