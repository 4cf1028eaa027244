"""Every family's saved weights are taken, and one that is missing is named."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.pretrained_weights import load_pretrained


def test_saved_weights(adapter: LMMAdapter, tmp_path: Path) -> None:
    adapter.model.save_pretrained(tmp_path)
    loaded = load_pretrained(type(adapter.model), "LMM", tmp_path).state_dict()
    for name, weight in adapter.model.state_dict().items():
        assert torch.equal(loaded[name], weight), name

    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    # Of the first layer, whatever the files call their list of layers.
    missing = next(name for name in weights if re.search(r"\.0\..*norm\.weight$", name))
    del weights[missing]
    save_file(weights, file, metadata={"format": "pt"})
    ending = re.escape(missing.split(".", 2)[-1])
    if not any(name.endswith(missing.split(".", 2)[-1]) for name in adapter.model.state_dict()):
        # The type's files have other names than its model, which is what the error tells.
        ending = r"\.0\.\S*norm\.weight"
    with pytest.raises(InputError, match=rf"files lack 1 weight \(\S*{ending}\)"):
        load_pretrained(type(adapter.model), "LMM", tmp_path)
