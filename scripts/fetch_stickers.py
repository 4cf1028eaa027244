"""Fetch the images of all kinds of sticker with `npm pack`, in the package's or other artwork.

python scripts/fetch_stickers.py                        # into the package, after a new kind
python scripts/fetch_stickers.py twitter FOLDER         # for flmm stickers evaluate --artwork
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from flmm.stickers.kinds import DEFAULT_ARTWORK, KINDS, STICKER_FOLDER, STICKER_PACKAGE_TEMPLATE


def fetch_stickers(artwork: str, target: Path) -> None:
    """Write a 64x64 PNG of each kind to `target`; raises KeyError if the artwork lacks one."""
    target.mkdir(parents=True, exist_ok=True)
    name = STICKER_PACKAGE_TEMPLATE.format(artwork=artwork)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            for kind in KINDS:
                member = package.extractfile(f"package/img/{artwork}/64/{kind.emoji_code}.png")
                if member is None:
                    raise KeyError(f"{kind.name}: no image {kind.emoji_code} in {name}")
                partial = target / f".{kind.emoji_code}.partial"
                partial.write_bytes(member.read())
                os.replace(partial, target / f"{kind.emoji_code}.png")
    print(f"{len(KINDS)} stickers in {target}")


if __name__ == "__main__":
    if len(sys.argv) not in (1, 3):
        sys.exit("give an artwork and a folder, such as twitter build/twitter, or neither")
    artwork, target = sys.argv[1:] or (DEFAULT_ARTWORK, STICKER_FOLDER)
    fetch_stickers(str(artwork), Path(target))
