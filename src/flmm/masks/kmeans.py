"""K-means masks, the training-free baseline (paper section 3.1, step 2).

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid.
"""

import numpy as np
import torch
from torch import Tensor

from flmm.errors import InputError


def compute_kmeans_mask(attention: Tensor, seed: int = 0) -> Tensor:
    """Split the image tokens into two clusters by their attention in all layers and heads.

    Args:
        attention: (M*N, h, w), one phrase's merged maps, not negative; each is divided by its sum
            first, so that all heads have the same weight.
        seed: of the clustering; the same seed gives the same mask.

    Returns:
        (h, w) bool on the CPU: the cluster with the higher mean attention; all False if all image
        tokens have the same attention.

    Raises:
        InputError: ``attention`` is not (maps, h, w) of finite numbers.
    """
    if attention.ndim != 3 or not attention.isfinite().all():
        raise InputError(
            f"attention is {tuple(attention.shape)} or not finite; give finite (maps, h, w)"
        )
    from sklearn.cluster import KMeans  # a second to import, and only this baseline needs it

    maps = attention.detach().float().cpu().flatten(1)
    total = maps.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    pixels: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (maps / total).double().numpy().T
    if (pixels == pixels[0]).all():
        return torch.zeros(attention.shape[1:], dtype=torch.bool)
    labels = KMeans(n_clusters=2, n_init=4, random_state=seed).fit_predict(pixels)
    means = [pixels[labels == cluster].mean() for cluster in (0, 1)]
    return torch.from_numpy(labels == np.argmax(means)).reshape(attention.shape[1:])
