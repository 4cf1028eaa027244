"""Fetch the sticker images that the world needs into the package, once, with `npm pack`.

Run it after a change of `flmm.stickers.kinds`: python scripts/fetch_stickers.py
"""

import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from flmm.stickers.kinds import KINDS, STICKER_PACKAGE

TARGET = Path(__file__).parents[1] / "src" / "flmm" / "assets" / "stickers"


def fetch() -> None:
    """Write one 64x64 PNG a kind to the package's assets; raises KeyError for an unknown code."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", STICKER_PACKAGE], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            for kind in KINDS:
                member = package.extractfile(f"package/img/google/64/{kind.code}.png")
                if member is None:
                    raise KeyError(f"{kind.name}: no image {kind.code} in {STICKER_PACKAGE}")
                partial = TARGET / f".{kind.code}.partial"
                partial.write_bytes(member.read())
                os.replace(partial, TARGET / f"{kind.code}.png")
    print(f"{len(KINDS)} stickers in {TARGET}")


if __name__ == "__main__":
    fetch()
