"""The benchmark that the arguments of ``flmm evaluate`` name."""

from pathlib import Path
from typing import TYPE_CHECKING

from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.evaluate.benchmark import Benchmark


def read_benchmark(benchmark: str, options: dict[str, object]) -> "Benchmark":
    """Read the data set that the arguments name."""
    from flmm.data.sources import check_sources

    content, base = read_entry(benchmark, options)
    (source,) = check_sources([content])
    samples = source.read(base)
    from flmm.evaluate.benchmark import Benchmark, Scoring  # takes seconds

    scoring = {
        "reason_seg": Scoring.REASON_SEG,
        "grounded_conversation": Scoring.CONVERSATION,
    }.get(source.kind, Scoring.BY_KIND)
    description = source.model_dump(mode="json", exclude_none=True)
    return Benchmark(source.name, description, samples, scoring)


def read_entry(benchmark: str, options: dict[str, object]) -> tuple[object, Path]:
    """Return the unchecked entry that the arguments name, and the folder of its paths."""
    import yaml

    if not benchmark.endswith((".yaml", ".yml")):
        name = _default_dataset_name(benchmark, options)
        return {"kind": benchmark, "name": name, **options}, Path()
    if options:
        raise InputError(
            f"{benchmark!r} says all about the benchmark; write the other options into it"
        )
    try:
        content: object = yaml.safe_load(Path(benchmark).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{benchmark!r} cannot be read as YAML ({error}); check it") from error
    return content, Path(benchmark).parent


def _default_dataset_name(kind: str, options: dict[str, object]) -> str:
    """Return a name such as "refcoco refcoco+ testA"."""
    stems = [path.stem for path in (options.get("folder"), options.get("file"))
             if isinstance(path, Path)]  # fmt: skip
    return " ".join(dict.fromkeys(map(str, filter(None, (kind, *stems, options.get("part"))))))
