"""Drive a server with real clients: python tests/clients/run_clients.py [--only NAME]

Installs each client in an environment of its own, once, starts `flmm serve` with the embedded
model, runs the clients' scripts beside this file, and prints a table. Ends with code 1 if a client
does not get what it must. Needs a package index and Node; Open WebUI takes most of 9 GB.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PICTURE = ROOT / "src" / "flmm" / "assets" / "pictures" / "demo.png"
QUESTION = "What is in the picture?"
CHECKS = ("text", "picture", "stream", "history", "grounding")
_SECONDS = 600
"""For one client."""

sys.path.insert(0, str(ROOT / "benchmarks"))
from serve_clients import start_server  # noqa: E402 - in the folder above


@dataclass(frozen=True)
class Client:
    """A client: its packages, the first of which is named in the table, and its script."""

    packages: Sequence[str]
    script: str

    @property
    def name(self) -> str:
        return self.packages[0].partition("==")[0].partition("[")[0]

    @property
    def uses_node(self) -> bool:
        return self.script.endswith(".mjs")

    def install(self, environments: Path) -> Path:
        """Install the client, unless it is; return its environment's folder."""
        folder = environments / ("npm" if self.uses_node else self.name)
        mark = folder / f"installed-{self.script}"
        if mark.exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if self.uses_node:
            subprocess.run(["npm", "install", "--silent", *self.packages], cwd=folder, check=True)
        else:
            venv.create(folder, with_pip=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, *self.packages], check=True)
        mark.touch()
        return folder

    def find_version(self, folder: Path) -> str:
        """Return the installed version."""
        if self.uses_node:
            package = folder / "node_modules" / self.name / "package.json"
            return str(json.loads(package.read_text(encoding="utf-8"))["version"])
        code = f"import importlib.metadata as m; print(m.version({self.name!r}))"
        command = [str(folder / "bin" / "python"), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def run(self, folder: Path, arguments: Sequence[str]) -> dict[str, str]:
        """Run the script; return what came of each check."""
        if self.uses_node:
            # Node finds packages from the script's folder upwards.
            for script in FOLDER.glob("*.mjs"):
                shutil.copy(script, folder)
            command = ["node", str(folder / self.script)]
        else:
            command = [str(folder / "bin" / "python"), str(FOLDER / self.script)]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            return dict.fromkeys(CHECKS, f"the script failed: {done.stderr.strip()[-500:]}")
        outcomes: dict[str, str] = json.loads(lines[-1])
        return outcomes


CLIENTS = (
    Client(["openai"], "with_openai.py"),
    Client(["openai"], "with_openai_responses.py"),
    Client(["litellm"], "with_litellm.py"),
    Client(["langchain-openai"], "with_langchain.py"),
    Client(["pydantic-ai-slim[openai]"], "with_pydantic_ai.py"),
    Client(["openai-agents"], "with_openai_agents.py"),
    Client(["llm"], "with_llm.py"),
    Client(["haystack-ai"], "with_haystack.py"),
    Client(["gradio", "openai"], "with_gradio.py"),
    Client(["open-webui==0.12.*"], "with_open_webui.py"),
    Client(["openai"], "withOpenAI.mjs"),
    Client(["ai", "@ai-sdk/openai"], "withAISDK.mjs"),
)


def ask_for_answer(address: str, model: str) -> str:
    """Return the answer that each client must get."""
    files = {"image": PICTURE.read_bytes()}
    response = httpx.post(
        f"{address}/v1/ground", data={"question": QUESTION}, files=files, timeout=60
    )
    assert response.json()["model"] == model
    return str(response.json()["text"])


def main() -> int:
    """Run the clients, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a part of a script's name")
    parser.add_argument(
        "--environments", type=Path, default=Path(tempfile.gettempdir()) / "flmm-clients"
    )
    options = parser.parse_args()
    clients = [client for client in CLIENTS if (options.only or "") in client.script]
    folders = [client.install(options.environments) for client in clients]
    failures = []
    with start_server([]) as (address, _):
        model = httpx.get(f"{address}/health").json()["model"]
        arguments = [address, model, str(PICTURE), ask_for_answer(address, model)]
        print("| client | version |", " | ".join(CHECKS), "|", flush=True)
        print("| --- " * (len(CHECKS) + 2), "|", sep="", flush=True)
        for client, folder in zip(clients, folders, strict=True):
            outcomes = client.run(folder, arguments)
            cells = [outcomes[name] if outcomes[name] in ("yes", "–") else "no" for name in CHECKS]
            version = client.find_version(folder)
            print("|", " | ".join([client.script, version, *cells]), "|", flush=True)
            failures += [
                f"{client.script}, {name}: {outcome}"
                for name, outcome in outcomes.items()
                if outcome not in ("yes", "–")
            ]
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
