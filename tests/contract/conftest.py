"""The fixture of all adapters: a new file in ``flmm/lmm/families`` is found and tested."""

import pytest

from flmm.lmm.auto import list_families, load_adapter_class
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.generic import GenericAdapter

# LLMs with a key head for each query head are rare by now; one family tests them.
CASES = [
    *((family.model_types[0], load_adapter_class(family), True) for family in list_families()),
    ("llava-ungrouped", LlavaAdapter, False),
    ("generic", GenericAdapter, True),
]


@pytest.fixture(params=CASES, ids=lambda case: case[0], scope="module")
def adapter(request: pytest.FixtureRequest) -> LMMAdapter:
    """A tiny random model of the family."""
    family: type[LMMAdapter]
    _, family, grouped_queries = request.param
    return family.build_tiny(grouped_queries)
