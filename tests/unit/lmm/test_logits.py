"""Logits of known states are the model's own, and the model stays as it is."""

import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from flmm.lmm.families.gemma4 import Gemma4Adapter
from flmm.lmm.logits import compute_logits


def test_logits_of_a_model_that_caps_them() -> None:
    model = Gemma4Adapter.build_tiny().model
    model.config.get_text_config().final_logit_softcapping = 0.5
    # As accelerate does with models that it spreads over devices.
    add_hook_to_module(model, ModelHook())
    ran: list[str] = []
    for module in (model, model.base_model):
        module.register_forward_hook(lambda module, *_: ran.append(type(module).__name__))
    token_ids = torch.arange(5, 12)[None]
    output = model(input_ids=token_ids, output_hidden_states=True)
    expected, states = output.logits[0], output.hidden_states[-1][0]
    assert expected.abs().max() <= 0.5
    ran.clear()
    torch.testing.assert_close(compute_logits(model, states[[0, 4, 2]]), expected[[0, 4, 2]])
    assert not ran, "the layers, or hooks that listen to the model, ran"
    assert torch.equal(model(input_ids=token_ids).logits[0], expected)
