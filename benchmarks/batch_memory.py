"""Memory of a long `flmm batch`: does it grow with the number of pictures?

    python benchmarks/batch_memory.py [--pictures 20000] [--threads 1] [--lines] [--tiny]

Draws small pictures, all different and of 64 sizes, and runs `flmm batch` on them in one process:
the embedded model segments a phrase in each, without SAM. From two threads on, two batches are
answered side by side. With `--tiny`, models of the tests do it, with SAM, in a twentieth of the
time. Results go to a folder, with `--lines` to a JSONL file. Prints the memory (RSS) of the process
whenever it says how many pictures are done, its peak, and a straight line through what it has after
the first twentieth.
Ends with code 1 where that rises by more than 5 MB for each 10,000 pictures.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import referring_expressions
from flmm.stickers.scene import generate_scene

MAX_GROWTH = 5.0
"""MB for each 10,000 pictures."""
SMALLEST_SIDE, NUM_SIZES = 64, 64
_NUM_DONE = re.compile(r"([\d,]+) of")


def write_list(folder: Path, count: int) -> Path:
    """Draw the pictures, and write the list of them."""
    file = folder / "list.jsonl"
    with file.open("w") as opened:
        for number in range(count):
            scene = generate_scene(EVALUATION_SEED + number)
            name = f"{number:06d}.png"
            picture = draw(scene, SMALLEST_SIDE + number % NUM_SIZES).picture
            Image.fromarray(picture).save(folder / name)
            expressions = referring_expressions(scene, 0) if scene.things else []
            phrases = expressions[:1] or ["grass"]
            opened.write(f"{json.dumps({'image': name, 'phrases': phrases})}\n")
    return file


def save_tiny_models(folder: Path) -> str:
    """Save models of the tests, and return the head's folder."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
    from tiny_grounding import save_lmm, save_tiny_head

    return str(save_tiny_head(folder / "head", str(save_lmm(folder / "lmm"))))


def run(
    pictures: Path, out: Path, options: Sequence[str], threads: int
) -> tuple[list[tuple[int, float]], float]:
    """Run the command; return (pictures done, MB) now and then, and the peak in MB.

    Raises:
        SystemExit: the command failed.
    """
    samples = []
    command = ["batch", str(pictures), "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "flmm.cli.main", *command],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    watched = psutil.Process(process.pid)
    for line in process.stderr:
        matched = _NUM_DONE.search(line)
        if matched is None:
            print(line, end="", flush=True)
        else:
            samples.append((int(matched[1].replace(",", "")), watched.memory_info().rss / 1e6))
            print(f"{samples[-1][0]:8,} {samples[-1][1]:8.1f} MB", flush=True)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"flmm batch ended with code {process.returncode}")
    return samples, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_list(folder, options.pictures)
        out = folder / ("out.jsonl" if options.lines else "out")
        settings = ["--model", save_tiny_models(folder)] if options.tiny else ["--no-refine"]
        samples, peak = run(pictures, out, settings, options.threads)
    warm = np.array([each for each in samples if each[0] >= options.pictures / 20])
    slope, start = np.polyfit(warm[:, 0], warm[:, 1], 1)
    growth = slope * 10_000
    print(
        f"{start:.1f} MB and {growth:+.1f} MB for each 10,000 pictures (at most {MAX_GROWTH});"
        f" {warm[:, 1].min():.1f} to {warm[:, 1].max():.1f} MB, peak {peak:.1f} MB"
    )
    if growth > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
