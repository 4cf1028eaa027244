"""Whether weights read from a file are those that a module has."""

from collections.abc import Mapping

from torch import Tensor


def misfit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What first keeps ``found`` from being loaded as ``wanted``, in words; None when nothing."""
    missing, unknown = sorted(wanted.keys() - found), sorted(found.keys() - wanted)
    if missing or unknown:
        lacks = f"lacks {len(missing)} weights ({missing[0]})" if missing else ""
        has = f"has {len(unknown)} unknown weights ({unknown[0]})" if unknown else ""
        return " and ".join(filter(None, (lacks, has)))
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            return f"has {name} as {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return None
