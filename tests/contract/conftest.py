"""Every family by itself: a new file in ``flmm/lmm`` is found and tested."""

import pytest

from flmm.lmm import Family, adapter_class, families
from flmm.lmm.base import LMMAdapter

# Key heads for each query head are rare by now; one family shows that they work too.
CASES = [(family, True) for family in families()] + [(families()[0], False)]


@pytest.fixture(
    params=CASES, ids=lambda case: f"{case[0].model_types[0]}{'' if case[1] else '-ungrouped'}",
    scope="module",
)  # fmt: skip
def adapter(request: pytest.FixtureRequest) -> LMMAdapter:
    """A tiny random model of the family."""
    family: Family
    family, grouped_queries = request.param
    return adapter_class(family).tiny(grouped_queries)
