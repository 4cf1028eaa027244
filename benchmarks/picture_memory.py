"""Peak memory of phrases in a large picture, beyond the picture itself.

    python benchmarks/picture_memory.py [PHRASES …] [--size 6000x4000]

In a new process for each number of phrases (2, 16 and 64), the embedded model segments them in a
picture's file. The answer is then held while its masks are read one by one, exported as a COCO data
set and drawn as an overlay. A step's peak is counted from what the process has before it opens the
file, less the picture: three bytes a pixel. Needs Linux.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

import flmm
from flmm.bench.memory import read_peak, reset_peak, run_in_new_process

PICTURE = Path(flmm.__file__).parent / "assets" / "pictures" / "demo.png"
THINGS = ("grass", "a night sky", "a dog", "a cat", "a pineapple", "a pizza", "a boat", "a red car")
MEGABYTE = 10**6

T = TypeVar("T")


@dataclass
class Steps:
    """The peak in bytes over the picture and the seconds of each step."""

    picture: int
    """Bytes of the picture."""
    peaks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reset_peak("cpu")
        self._before = read_peak("cpu") + self.picture

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return the work's result; keep its peak and time."""
        reset_peak("cpu")
        start = time.perf_counter()
        result = work()
        self.seconds[name] = time.perf_counter() - start
        self.peaks[name] = read_peak("cpu") - self._before
        return result


def measure_steps(file: Path, num_phrases: int) -> Steps:
    """Measure the steps of so many phrases in a picture's file; call it in a new process."""
    phrases = [THINGS[number % len(THINGS)] for number in range(num_phrases)]
    grounder = flmm.Grounder.from_pretrained()
    # A first use imports and keeps what each later one needs too.
    warm_up = grounder.segment(PICTURE, phrases)
    warm_up.to_coco()
    _ = warm_up.overlay
    del warm_up
    with Image.open(file) as opened:
        steps = Steps(3 * opened.width * opened.height)
    answer = steps.run("segment", lambda: grounder.segment(file, phrases))
    steps.run("held", lambda: None)
    steps.run("masks", lambda: sum(int(phrase.mask.sum()) for phrase in answer.phrases))
    steps.run("to_coco", answer.to_coco)
    steps.run("overlay", lambda: answer.overlay)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phrases", type=int, nargs="*", default=[2, 16, 64])
    parser.add_argument("--size", default="6000x4000")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jpg"
        with Image.open(PICTURE) as small:
            small.convert("RGB").resize((width, height)).save(file)
        for num_phrases in options.phrases:
            steps = run_in_new_process(measure_steps, file, num_phrases)
            columns = [
                f"{name} {peak / MEGABYTE:.0f} MB {steps.seconds[name]:.2f} s"
                for name, peak in steps.peaks.items()
            ]
            print(f"{num_phrases} phrases: {', '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
