"""Whether recorded attention is eager attention's, and recording changes no answer."""

import torch
from PIL import Image

from flmm.attention.eager import LayerInputs, compute_eager_rows
from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.model_check.outcome import CheckOutcome

_QUESTION = "What is in the picture?"
_ANSWER = "There is a cat on the grass, and a dog."
_NEW_TOKENS = 20
_MAX_DIFFERENCE, _MAX_DIFFERENCE_IN_HALF = 1e-5, 1e-3


def check_recorded_attention(adapter: LMMAdapter, picture: Image.Image) -> CheckOutcome:
    """Compare the recorded rows of a short text with eager attention's."""
    check = "recorded attention"
    prompt = adapter.build_prompt(picture, _QUESTION, _ANSWER)
    inputs = LayerInputs(adapter)
    try:
        with inputs.capture():
            trace = trace_text(adapter, prompt)
        expected = compute_eager_rows(adapter, prompt, inputs)
    except InputError as error:
        return CheckOutcome(check, "not checked", str(error))
    rows = trace.picture_attention.rows
    recorded = rows.token_rows(range(rows.num_tokens), slice(0, expected.shape[-1]))
    difference = float((recorded.cpu() - expected).abs().max())
    most = _MAX_DIFFERENCE if adapter.dtype == torch.float32 else _MAX_DIFFERENCE_IN_HALF
    dtype = str(adapter.dtype).removeprefix("torch.")
    detail = (
        f"{difference:.1e} from eager attention's at most, in {adapter.layers} layers of"
        f" {adapter.heads} heads; in {dtype}, {most:.0e} is allowed"
    )
    measured = {
        "max_difference": difference,
        "allowed": most,
        "max_attention": float(expected.max()),
        "tokens": rows.num_tokens,
    }
    return CheckOutcome(check, "ok" if difference <= most else "not ok", detail, measured)


def check_answers(adapter: LMMAdapter, picture: Image.Image) -> CheckOutcome:
    """Compare an answer that is recorded with the LMM's own."""
    prompt = adapter.build_prompt(picture, _QUESTION)
    alone = adapter.generate(prompt, _NEW_TOKENS).token_ids
    try:
        trace, _ = trace_generation(adapter, prompt, _NEW_TOKENS)
    except InputError as error:
        return CheckOutcome("answer", "not checked", str(error))
    recorded = trace.token_ids.cpu()
    if recorded.equal(alone):
        detail = f"{len(alone)} tokens, the same recorded and alone"
        return CheckOutcome("answer", "ok", detail, {"tokens": len(alone)})
    same = 0
    while same < min(len(alone), len(recorded)) and recorded[same] == alone[same]:
        same += 1
    return CheckOutcome(
        "answer", "not ok", f"recorded, it is another from token {same + 1} on", {"tokens": same}
    )
