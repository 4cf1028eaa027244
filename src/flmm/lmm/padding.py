"""Which prompts can share a batch that is padded on the left."""

from collections.abc import Sequence

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt


def group_for_padding(adapter: LMMAdapter, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the indices of the prompts that can share a padded batch, group by group.

    All are one group, unless the LLM's layers choose blocks of keys: those begin at a batch's first
    column, padding or not, so that padding would change which keys a token sees.
    """
    if getattr(adapter.text_model.config, "index_block_size", None) is None:
        return [list(range(len(prompts)))]
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.length, []).append(index)
    return list(groups.values())
