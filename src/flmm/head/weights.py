"""Comparison of weights with a module's, and a digest that identifies weights."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from torch import Tensor, nn

_VALUES_PER_WEIGHT = 1024


def find_mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """Describe the first reason why ``found`` cannot be loaded as ``expected``; None if it can."""
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected)
    if missing or unknown:
        lacks = f"lacks {len(missing)} weights ({missing[0]})" if missing else ""
        has = f"has {len(unknown)} unknown weights ({unknown[0]})" if unknown else ""
        return " and ".join(filter(None, (lacks, has)))
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"has {name} as {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return None


def find_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Describe the first weight with values that are no finite numbers; None without any."""
    for name, tensor in sorted(weights.items()):
        if not tensor.isfinite().all():
            return f"has values in {name} that are no finite numbers (NaN or infinite)"
    return None


def fingerprint_weights(module: nn.Module) -> str:
    """Return a digest of a module's parameters, as ``fingerprint_named_weights`` does."""
    return fingerprint_named_weights(module.named_parameters())


def fingerprint_named_weights(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of each weight's name, shape, dtype and some of its values."""
    digest = blake2b(digest_size=16)
    for name, weight in weights:
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.device.type != "meta":
            values = weight.detach().flatten()
            sample = values[:: max(len(values) // _VALUES_PER_WEIGHT, 1)].float().cpu()
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
