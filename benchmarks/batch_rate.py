"""Pictures a second of `flmm batch` on drawn scenes, beside another build of flmm.

    python benchmarks/batch_rate.py [PICTURES] [OTHER]

Draws PICTURES scenes (default 200), asks the embedded model a question about each, and segments
five phrases in each. OTHER is the `src` folder of another build: both run by turns, and their
results are compared. Prints processor seconds, loading aside.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from flmm.answers.json_types import AnswerJson
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import caption_turn, referring_expressions
from flmm.stickers.scene import generate_scene

QUESTION = "What is in the picture?"
NUM_PHRASES = 5
ROUNDS = 3
SAME_IOU = 0.999

# Run with another build's modules, so it uses only what all builds have.
MEASURE = """
import sys, time
from pathlib import Path
import flmm
from flmm.batch.job import BatchJob
from flmm.batch.settings import BatchSettings

listing, warm_up, out = sys.argv[1:]
grounder = flmm.Grounder.from_pretrained()
settings = BatchSettings(max_new_tokens=64)
for source, place in ((warm_up, out + ".warm-up.jsonl"), (listing, out)):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    BatchJob(source, Path(place), settings).run(grounder)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
print(seconds, cpu_seconds)
"""


def write_lists(folder: Path, count: int) -> None:
    """Draw the scenes, and write a list for each kind of task, and short ones to warm up."""
    tasks: dict[str, list[str]] = {"question": [], "phrases": []}
    for number in range(count):
        scene = generate_scene(EVALUATION_SEED + number)
        file = folder / f"{number:05d}.png"
        Image.fromarray(draw(scene, 384).picture).save(file)
        caption = caption_turn(scene)
        named = [caption.answer[each.start : each.end] for each in caption.mentions]
        for thing in range(len(scene.things)):
            named += referring_expressions(scene, thing)
        phrases = (list(dict.fromkeys(named)) * NUM_PHRASES)[:NUM_PHRASES]
        tasks["question"].append(json.dumps({"image": file.name, "question": QUESTION}))
        tasks["phrases"].append(json.dumps({"image": file.name, "phrases": phrases}))
    for kind, lines in tasks.items():
        (folder / f"{kind}.jsonl").write_text("\n".join(lines))
        (folder / f"warm-up-{kind}.jsonl").write_text("\n".join(lines[:8]))


def measure(folder: Path, kind: str, build: Path, out: Path) -> tuple[float, float]:
    """Run a batch; return seconds and processor seconds."""
    lists = [str(folder / f"{prefix}{kind}.jsonl") for prefix in ("", "warm-up-")]
    printed = subprocess.run(
        [sys.executable, "-c", MEASURE, *lists, str(out)],
        env={**os.environ, "PYTHONPATH": str(build)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    seconds, cpu_seconds = map(float, printed.split())
    return seconds, cpu_seconds


def list_texts(answer: AnswerJson) -> list[object]:
    """Return all texts of an answer."""
    phrases = [(phrase["text"], phrase["start"], phrase["end"]) for phrase in answer["phrases"]]
    return [answer["text"], *phrases]


def compare(first: Path, second: Path) -> str:
    """Return how many texts and masks of two results files differ."""
    results = [
        {line["id"]: line["answer"] for line in map(json.loads, file.read_text().splitlines())}
        for file in (first, second)
    ]
    texts = masks = changed = differing = 0
    lowest, score_change = 1.0, 0.0
    for identity, answer in results[0].items():
        other = results[1][identity]
        spans = [
            [(p["text"], p["start"], p["end"]) for p in one["phrases"]] for one in (answer, other)
        ]
        if answer["text"] != other["text"] or spans[0] != spans[1]:
            texts += 1
            continue
        for phrase, again in zip(answer["phrases"], other["phrases"], strict=True):
            masks += 1
            score_change = max(score_change, abs(phrase["score"] - again["score"]))
            if phrase["mask"] == again["mask"]:
                continue
            changed += 1
            decoded = [coco.decode(one["mask"]).astype(bool) for one in (phrase, again)]
            union = np.logical_or(*decoded).sum()
            overlap = float(np.logical_and(*decoded).sum() / union) if union else 1.0
            lowest = min(lowest, overlap)
            differing += overlap < SAME_IOU
    return (
        f"{texts} of {len(results[0])} texts differ; {changed} of {masks} masks in a pixel,"
        f" {differing} with an IoU below {SAME_IOU} (lowest {lowest:.4f});"
        f" scores by at most {score_change:.4f}"
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    builds = [Path(__file__).parents[1] / "src", *map(Path, sys.argv[2:])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lists(folder, count)
        for kind in ("question", "phrases"):
            best: list[list[float]] = [[] for _ in builds]
            for turn in range(ROUNDS):
                for number, build in enumerate(builds):
                    out = folder / f"{kind}-{turn}-{number}.jsonl"
                    seconds, cpu_seconds = measure(folder, kind, build, out)
                    best[number].append(cpu_seconds)
                    print(
                        f"{kind:9} {build}: {seconds:6.1f} s, processor {cpu_seconds:6.1f} s,"
                        f" {count / cpu_seconds:6.1f} pictures a processor second",
                        flush=True,
                    )
            if len(builds) > 1:
                print(f"{kind}: {min(best[1]) / min(best[0]):.2f} times as many")
                print(compare(folder / f"{kind}-0-0.jsonl", folder / f"{kind}-0-1.jsonl"))


if __name__ == "__main__":
    main()
