"""Time and memory of a resumed `flmm batch` with many results.

    python benchmarks/batch_resume.py [RESULTS]

Writes RESULTS made-up results (default 1,000,000, some 6 GB of JSON) into a folder, then runs
`flmm batch` on a list of as many pictures and a last one, which alone has no result; beside it the
same with no other result. Ends with code 1 where the difference is above 30 s or 400 MB.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import flmm
from flmm.batch.settings import BatchSettings
from flmm.batch.sources.listing import ListSource
from flmm.batch.storage.open import ResultPlace, open_results
from flmm.batch.storage.records import Record

PICTURE = Path(__file__).parents[1] / "src" / "flmm" / "assets" / "pictures" / "demo.png"
QUESTION = "What is in the picture?"
MAX_SECONDS, MAX_MEGABYTES = 30, 400
RECORDS_AT_ONCE = 1000


def write_list(file: Path, count: int) -> None:
    """Write a list of missing pictures and one that is there."""
    with file.open("w") as opened:
        for number in range(count):
            opened.write(f'{{"image": "pictures/{number:08d}.jpg"}}\n')
        opened.write(json.dumps({"image": str(PICTURE)}))


def write_results(out: Path, pictures: Path, count: int) -> None:
    """Write a made-up result for each missing picture."""
    grounder = flmm.Grounder.from_pretrained()
    settings = BatchSettings(QUESTION, max_new_tokens=8)
    content = {"answer": grounder.chat(PICTURE, QUESTION).to_dict()}
    with open_results(ResultPlace(out), settings.describe(grounder)) as (_, store):
        items = islice(ListSource(str(pictures), QUESTION, use_digests=False), count)
        remaining = (Record.of(item, content) for item in items)
        while batch := list(islice(remaining, RECORDS_AT_ONCE)):
            store.append(batch)
        store.finish(drop_replaced=False)


def run(folder: Path, pictures: Path, out: Path) -> tuple[float, float, float, int]:
    """Run the command; return seconds, processor seconds, peak MB, and the run's results."""
    command = ["batch", str(pictures), QUESTION, "--out", str(out), "--max-new-tokens", "8"]
    begin = time.perf_counter()
    with (folder / "output.json").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flmm.cli.main", *command, "--json"], stdout=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return seconds, cpu_seconds, usage.ru_maxrss / 1000, json.load(output)["new"]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_list(folder / "one.jsonl", 0)
        write_list(folder / "many.jsonl", count)
        write_results(folder / "many", folder / "many.jsonl", count)
        idle = run(folder, folder / "one.jsonl", folder / "one")
        resumed = run(folder, folder / "many.jsonl", folder / "many")
    print(f"{'':12}{'seconds':>10}{'processor':>12}{'MB':>10}{'new':>8}")
    for what, (seconds, cpu_seconds, megabytes, new) in (("1", idle), (f"{count:,}", resumed)):
        print(f"{what:>12}{seconds:10.1f}{cpu_seconds:12.1f}{megabytes:10.0f}{new:8}")
    seconds, cpu_seconds, megabytes = (resumed[index] - idle[index] for index in range(3))
    print(
        f"more: {seconds:.1f} s (at most {MAX_SECONDS}), of a processor {cpu_seconds:.1f};"
        f" {megabytes:.0f} MB (at most {MAX_MEGABYTES})"
    )
    if seconds > MAX_SECONDS or megabytes > MAX_MEGABYTES or resumed[-1] != 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
