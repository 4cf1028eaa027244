"""kill -9 at random moments of a batch: is every result there once, as if nothing had happened?

    python benchmarks/batch_kills.py [--pictures 300] [--kills 50] [--parts 1] [--lines] [--seed 0]

Some of the pictures are broken, empty, hidden or dangling links, or have names that are not UTF-8;
some are added, removed, replaced and mended between the kills. With `--parts 3`, three writers
share the folder and are killed at moments of their own; with `--lines` results are a JSONL file.
Ends with code 1 where the results differ from those of an undisturbed run.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import flmm
from flmm.batch.run import run_batch
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.folder import FolderSource
from flmm.batch.storage import shards
from flmm.batch.storage.open import ResultPlace, open_results
from flmm.grounding.grounder import Grounder

SETTINGS = BatchSettings("What is on the grass?", max_new_tokens=3)
BYTES_THAT_ARE_NO_UTF_8 = b"caf\xe9-"


class Pictures:
    """A folder of pictures that changes."""

    def __init__(self, folder: Path, count: int, randomness: random.Random) -> None:
        self._folder, self._random = folder, randomness
        folder.mkdir()
        for number in range(count):
            self._write(f"{number:04d}.png")
        (folder / ".hidden.png").write_bytes(b"")
        (folder / "nowhere.png").symlink_to("missing.png")

    def change(self) -> None:
        """Add, remove, replace or mend a picture."""
        files = sorted(self._folder.glob("[0-9c]*.png"))
        action = self._random.choice(["add", "remove", "replace", "replace"])
        if action == "add":
            self._write(f"{self._random.randrange(10_000, 99_999)}.png")
        elif action == "remove":
            self._random.choice(files).unlink()
        else:
            self._write(self._random.choice(files).name)

    def _write(self, name: str) -> None:
        file = self._folder / name
        kind = self._random.random()
        if kind < 0.03:
            file.write_bytes(b"")
        elif kind < 0.06:
            file.write_bytes(b"\x89PNG broken")
        else:
            if kind < 0.09:
                name = os.fsdecode(BYTES_THAT_ARE_NO_UTF_8) + name.removeprefix(
                    os.fsdecode(BYTES_THAT_ARE_NO_UTF_8)
                )
            seed = self._random.randrange(2**32)
            pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self._folder / name)


def work(grounder: Grounder, pictures: Path, out: Path, part: tuple[int, int]) -> None:
    """Run the batch to its end."""
    torch.set_num_threads(1)
    source = FolderSource(str(pictures), SETTINGS.question, use_digests=False)
    with open_results(ResultPlace(out), SETTINGS.describe(grounder), shard=part) as (_, store):
        # One at a time, since a padded batch rounds otherwise.
        run_batch(grounder, source, store, SETTINGS, together=1, shard=part)


def read_results(grounder: Grounder, out: Path) -> dict[str, str]:
    """Return what is stored for each id, without timings.

    Raises:
        SystemExit: an id is there twice.
    """
    results: dict[str, str] = {}
    with open_results(ResultPlace(out), SETTINGS.describe(grounder)) as (_, store):
        for record in store.records():
            if record.id in results:
                raise SystemExit(f"{record.id} is there twice")
            content = json.loads(record.line)
            content.get("answer", {}).pop("timings", None)
            results[record.id] = json.dumps(content)
    return results


def kill_and_compare(
    grounder: Grounder,
    folder: Path,
    *,
    num_pictures: int,
    num_kills: int,
    num_parts: int,
    as_lines: bool,
    seed: int,
) -> tuple[int, int]:
    """Kill writers at random moments; compare with an undisturbed run.

    Returns:
        The numbers of results and of kills that hit a writer at work.

    Raises:
        SystemExit: something is lost, there twice, or different.
    """
    randomness = random.Random(seed)
    pictures = Pictures(folder / "pictures", num_pictures, randomness)
    out, undisturbed = ((folder / name).with_suffix(".jsonl" if as_lines else "") for name in "ab")
    shards.RESULTS_PER_SHARD = 20  # so that kills meet files in all their states
    # Forked, since loading the models would take most of the time.
    context = multiprocessing.get_context("fork")
    hits = 0
    while hits < num_kills:
        writers = [
            context.Process(
                target=work, args=(grounder, folder / "pictures", out, (part, num_parts))
            )
            for part in range(num_parts)
        ]
        for writer in writers:
            writer.start()
        for writer in randomness.sample(writers, num_parts):
            time.sleep(randomness.random() ** 2 * 1.5)
            hits += writer.is_alive()
            writer.kill()
        for part, writer in enumerate(writers):
            writer.join()
            if writer.exitcode not in (0, -signal.SIGKILL):
                raise SystemExit(f"the writer of part {part} ended with code {writer.exitcode}")
        pictures.change()
    for part in range(num_parts):
        work(grounder, folder / "pictures", out, (part, num_parts))
    work(grounder, folder / "pictures", undisturbed, (0, 1))
    results, expected = read_results(grounder, out), read_results(grounder, undisturbed)
    # Those of removed pictures are kept.
    different = [name for name, line in expected.items() if results.get(name) != line]
    if different:
        raise SystemExit(f"{len(different)} results are lost or different: {different[:5]}")
    return len(results), hits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
    from tiny_grounding import save_lmm, save_tiny_head

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = save_tiny_head(folder / "head", str(save_lmm(folder / "lmm")))
        count, hits = kill_and_compare(
            flmm.Grounder.from_pretrained(head),
            folder,
            num_pictures=options.pictures,
            num_kills=options.kills,
            num_parts=options.parts,
            as_lines=options.lines,
            seed=options.seed,
        )
    print(f"{hits} kills of writers at work: {count} results, each once, none lost or different")


if __name__ == "__main__":
    main()
