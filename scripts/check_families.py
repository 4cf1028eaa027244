"""Check every type of transformers that reads pictures and writes text, and write what holds.

python scripts/check_families.py                      # all types; goes on where it was stopped
python scripts/check_families.py --only llava mllama  # these alone, over again

Builds a small random model of each type, runs the contract tests on it in a process of its own, and
writes ``src/flmm/lmm/supported_types.json`` and ``docs/families.md`` after each type. Types whose
image processors need torchvision keep what was written about them where that is not installed.
Half an hour on two cores; needs the packages of flmm[dev].
"""

import argparse
import inspect
import json
import multiprocessing
import os
import re
import resource
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS="1")
sys.path.append(str(ROOT / "tests" / "helpers"))

import transformers  # noqa: E402
from case_tests import CaseOutcome, run_tests  # noqa: E402
from families_document import render_document  # noqa: E402
from known_obstacles import OBSTACLES  # noqa: E402
from tiny_torchvision_types import TORCHVISION_TYPES  # noqa: E402
from tiny_type_settings import CHATTING_TYPES, TINY_TYPES  # noqa: E402
from tiny_types import needs_torchvision, tiny_type_adapter  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402
from transformers.utils.import_utils import is_torchvision_available  # noqa: E402

from flmm.atomic_write import write_file_atomically  # noqa: E402
from flmm.errors import InputError, first_line  # noqa: E402
from flmm.lmm.auto import list_families, load_adapter_class  # noqa: E402
from flmm.lmm.base import LMMAdapter  # noqa: E402
from flmm.lmm.generic.adapter import GenericAdapter  # noqa: E402
from flmm.lmm.supported_types import (  # noqa: E402
    Reader,
    SupportedType,
    SupportedTypes,
    list_installed_types,
    read_supported_types,
)

DATA_FILE = ROOT / "src" / "flmm" / "lmm" / "supported_types.json"
DOCUMENT = ROOT / "docs" / "families.md"
CONTRACT_TESTS = ROOT / "tests" / "contract"
CHAT_TESTS = ROOT / "tests" / "integration" / "grounding" / "test_chat_without_places.py"
UNFINISHED = ROOT / "build" / "check_families.json"
"""The types that a run has checked before it was stopped."""
MAX_MINUTES = 10
"""For one type's contract tests; those of a usual type take seconds."""
MAX_GIGABYTES = 5
"""For one type's process: a model that the general rules do not make small is not built."""
_PROCESSOR_REASON = "its own processor cannot be used"
_CASE_NAMES = {"vipllava": "generic"}
"""Of the contract tests' cases that have another name than their type."""
_CHECKPOINT = re.compile(r'checkpoint="([^"]+)"')


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", nargs="+", metavar="TYPE", help="check these types")
    arguments.add_argument("--jobs", type=int, default=2, help="types at a time (default 2)")
    options = arguments.parse_args()
    installed = sorted(list_installed_types())
    if unknown := set(options.only or ()) - set(installed):
        raise SystemExit(f"transformers {transformers.__version__} has no {', '.join(unknown)}")
    known = {entry.model_type: entry for entry in read_supported_types().types}
    checked = [] if options.only else read_unfinished()
    names = options.only or [name for name in installed if name not in checked]
    if checked:
        print(f"{len(checked)} types were checked before; without {UNFINISHED}, all would be again")
    begin = time.monotonic()
    for index, entry in enumerate(check_in_processes(names, known, options.jobs), 1):
        known[entry.model_type] = entry
        write_results([known[name] for name in installed if name in known])
        minutes_left = (time.monotonic() - begin) / index * (len(names) - index) / 60
        print(
            f"{index} of {len(names)}, {minutes_left:.0f} minutes left:"
            f" {entry.model_type}: {summarize(entry)}",
            flush=True,
        )
        if not options.only:
            checked.append(entry.model_type)
            UNFINISHED.parent.mkdir(exist_ok=True)
            write_file_atomically(UNFINISHED, json.dumps(checked).encode())
    if not options.only:
        UNFINISHED.unlink()


def read_unfinished() -> list[str]:
    """Return the types that an unfinished run has checked."""
    content: list[str] = json.loads(UNFINISHED.read_text()) if UNFINISHED.exists() else []
    return content


def write_results(types: Sequence[SupportedType]) -> None:
    content = SupportedTypes(transformers.__version__, tuple(types))
    text = json.dumps(asdict(content), indent=1, ensure_ascii=False) + "\n"
    write_file_atomically(DATA_FILE, text.encode())
    write_file_atomically(DOCUMENT, render_document(content).encode())


def summarize(entry: SupportedType) -> str:
    verified = "verified" if entry.verified else f"not verified: {entry.reason}"
    return f"{entry.reader}, {verified}"


@dataclass(frozen=True)
class RunningCheck:
    """A process that checks a type; it may crash or hang without harm to the others."""

    process: BaseProcess
    entry: SupportedType
    """What holds if the process says nothing."""
    deadline: float

    def result(self, connection: Connection) -> SupportedType | None:
        """Return what the process has found out, or why it has not; None while it works."""
        try:
            if connection.poll():
                result: SupportedType = connection.recv()
                return result
        except EOFError:
            self.process.join()
            reason = f"its contract tests ended the process with code {self.process.exitcode}"
            return replace(self.entry, reason=reason)
        if time.monotonic() < self.deadline:
            return None
        reason = f"its contract tests did not end in {MAX_MINUTES} minutes"
        return replace(self.entry, reason=reason)


def check_in_processes(
    names: Sequence[str], known: Mapping[str, SupportedType], jobs: int
) -> Iterator[SupportedType]:
    """Yield each type's entry as soon as its process ends."""
    waiting = list(reversed(names))
    running: dict[Connection, RunningCheck] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            entry = describe_unchecked(waiting.pop())
            if entry.needs_torchvision and not is_torchvision_available():
                reason = "tried only where torchvision is installed"
                entry = replace(entry, reader=_tried_by(entry), reason=reason)
                yield known.get(entry.model_type, entry)
                continue
            # Forked, so that no type waits again for imports.
            processes = multiprocessing.get_context("fork")
            receiver, sender = processes.Pipe(duplex=False)
            process = processes.Process(target=_check_and_send, args=(entry, sender))
            process.start()
            sender.close()
            deadline = time.monotonic() + 60 * MAX_MINUTES
            running[receiver] = RunningCheck(process, entry, deadline)
        wait(running, timeout=1)
        for connection, check in list(running.items()):
            if (result := check.result(connection)) is not None:
                check.process.kill()
                check.process.join()
                del running[connection]
                yield result


def describe_unchecked(model_type: str) -> SupportedType:
    """Return what is known of a type without a model."""
    reader: Reader = "own file" if find_family(model_type) else "none"
    torchvision = needs_torchvision(model_type)
    return SupportedType(
        model_type, find_example(model_type), reader, False, needs_torchvision=torchvision
    )


def _check_and_send(entry: SupportedType, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_GIGABYTES << 30,) * 2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sender.send(check_type(entry))


def check_type(entry: SupportedType) -> SupportedType:
    """Build the type's small random model and run the contract tests on it."""
    reason: str | None
    try:
        adapter = find_adapter_builder(entry.model_type)()
    except InputError as error:
        reason = extract_reason(str(error))
        has_settings = entry.model_type in {**TINY_TYPES, **TORCHVISION_TYPES, **CHATTING_TYPES}
        if has_settings or not reason.startswith(_PROCESSOR_REASON):
            return replace(entry, reason=OBSTACLES.get(entry.model_type, reason))
        # The processor's settings are those that the general rules give it.
        reason = OBSTACLES.get(entry.model_type, f"no small random model of it yet ({reason})")
        return replace(entry, reader=_tried_by(entry), reason=reason)
    except Exception as error:  # whatever a configuration or a processor raises
        message = textwrap.shorten(first_line(error), 120, placeholder="…")
        reason = f"no small random model of it yet ({type(error).__name__}: {message})"
        reason = OBSTACLES.get(entry.model_type, reason)
        return replace(entry, reader=_tried_by(entry), reason=reason)
    if adapter.placeless_reason is not None:
        chats = run_tests(CHAT_TESTS, entry.model_type)
        reason = adapter.placeless_reason if chats.complaint is None else chats.complaint
        verified = chats.complaint is None
        return replace(entry, reader="text only", verified=verified, reason=reason)
    outcome = run_contract_tests(entry.model_type)
    return replace(
        entry,
        reader=_tried_by(entry),
        verified=outcome.complaint is None,
        views=adapter.views,
        recorded=describe_recorded_layers(adapter),
        reason=outcome.complaint,
    )


def _tried_by(entry: SupportedType) -> Reader:
    return "generic adapter" if entry.reader == "none" else entry.reader


def find_family(model_type: str) -> type[LMMAdapter] | None:
    """Return the adapter class in the type's own file."""
    for family in list_families():
        if model_type in family.model_types:
            return load_adapter_class(family)
    return None


def find_adapter_builder(model_type: str) -> Callable[[], LMMAdapter]:
    if model_type in _CASE_NAMES:
        return GenericAdapter.build_tiny
    family = find_family(model_type)
    return family.build_tiny if family else tiny_type_adapter(model_type).build_tiny


def describe_recorded_layers(adapter: LMMAdapter) -> str:
    """Say in words which layers' attention is recorded; numbers of a small model mean nothing."""
    if not adapter.image_tokens_in_sequence:
        return "cross-attention layers"
    return "all layers" if adapter.layers == len(adapter.decoder_layers) else "softmax layers"


def extract_reason(message: str) -> str:
    """Return the reason alone from an error that says which file to write."""
    found = re.search(r"the generic adapter cannot: (.*?)(?:; write src/|$)", message)
    return found[1] if found else message


def run_contract_tests(model_type: str) -> CaseOutcome:
    case_name = _CASE_NAMES.get(model_type, model_type)
    if case_name == model_type and find_family(model_type) is None:
        os.environ["FLMM_TYPES"] = model_type
    return run_tests(CONTRACT_TESTS, case_name)


def find_example(model_type: str) -> str | None:
    """Return a model of the type on the hub: the family's, or the one its configuration names.

    Some configurations name a model of the type that they were copied from.
    """
    for family in list_families():
        if model_type in family.model_types and family.hub_ids:
            return family.hub_ids[0]
    found = _CHECKPOINT.search(inspect.getsource(CONFIG_MAPPING[model_type]))
    if found is None:
        return None
    folder = Path(inspect.getfile(CONFIG_MAPPING[model_type])).parent
    owners = [
        file.parent
        for file in folder.parent.glob("*/configuration_*.py")
        if f'checkpoint="{found[1]}"' in file.read_text(encoding="utf-8")
    ]
    owner = min(owners, key=lambda owner: (len(owner.name), owner.name))
    return found[1] if owner == folder else None


if __name__ == "__main__":
    main()
