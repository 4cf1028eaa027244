"""What a model's generation settings do to its logits, such as a repetition penalty."""

from collections.abc import Callable
from typing import cast

from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.logits_process import LogitsProcessorList

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt


def build_logits_processors(adapter: LMMAdapter, prompt: Prompt) -> LogitsProcessorList:
    """Return transformers' processors of the model's generation settings, for greedy decoding.

    They take the (1, L) tokens so far and the (1, V) logits; most models need none.
    """
    model = adapter.model
    # transformers types its models' methods as tensors.
    prepare = cast(Callable[..., tuple[GenerationConfig, object]], model._prepare_generation_config)
    config, _ = prepare(None, do_sample=False, temperature=None, top_p=None, top_k=None)
    cast(Callable[..., None], model._prepare_special_tokens)(config, True, device=adapter.device)
    build = cast(Callable[..., LogitsProcessorList], model._get_logits_processor)
    return build(
        config,
        input_ids_seq_length=prompt.length,
        encoder_input_ids=prompt.inputs["input_ids"].to(adapter.device),
        device=str(adapter.device),
    )
