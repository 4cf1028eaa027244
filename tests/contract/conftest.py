"""The fixtures of all LMM and SAM families: a new one is found and tested."""

import pytest
from tiny_head import scramble
from tiny_types import tested_types, tiny_type_adapter

from flmm.lmm.auto import list_families, load_adapter_class
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.generic.adapter import GenericAdapter
from flmm.segmenters.auto import list_segmenter_families, load_segmenter_class
from flmm.segmenters.base import Segmenter

# LLMs with a key head for each query head are rare by now; one family tests them.
CASES = [
    *((family.model_types[0], load_adapter_class(family), True) for family in list_families()),
    ("llava-ungrouped", LlavaAdapter, False),
    ("generic", GenericAdapter, True),
    *((model_type, tiny_type_adapter(model_type), True) for model_type in tested_types()),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0], scope="module")
def adapter(request: pytest.FixtureRequest) -> LMMAdapter:
    """A tiny random model of the family."""
    family: type[LMMAdapter]
    _, family, grouped_queries = request.param
    return family.build_tiny(grouped_queries)


@pytest.fixture(params=list_segmenter_families(), ids=lambda family: family.model_types[0])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    """A tiny random model of the SAM family, with weights so large that every part matters."""
    tiny = load_segmenter_class(request.param).build_tiny()
    scramble(tiny)
    return tiny.eval()
