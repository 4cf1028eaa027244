"""Which weights these are: whether a file has a module's, and a digest to know them again by."""

from collections.abc import Mapping
from hashlib import blake2b

from torch import Tensor, nn

_VALUES_PER_WEIGHT = 1024


def find_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What first keeps ``found`` from being loaded as ``wanted``, in words; None when nothing."""
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected)
    if missing or unknown:
        lacks = f"lacks {len(missing)} weights ({missing[0]})" if missing else ""
        has = f"has {len(unknown)} unknown weights ({unknown[0]})" if unknown else ""
        return " and ".join(filter(None, (lacks, has)))
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"has {name} as {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return None


def fingerprint_weights(module: nn.Module) -> str:
    """A digest of each weight's name, shape and some of its values."""
    digest = blake2b(digest_size=16)
    for name, weight in module.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta":
            values = weight.detach().flatten()
            some = values[:: max(len(values) // _VALUES_PER_WEIGHT, 1)].float().cpu()
            digest.update(some.numpy().tobytes())
    return digest.hexdigest()
