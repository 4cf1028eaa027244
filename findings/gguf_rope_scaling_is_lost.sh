#!/usr/bin/env bash
# transformers 5.24.0: models read from GGUF lose the scaling of their rotary positions.
#
# Guess before looking: reading a GGUF takes quantization out and nothing else, so a float32 file of a
# Llama 3.1 (its scaling is a tensor, rope_freqs.weight), of a Qwen2 stretched by YaRN and of a Llama
# stretched linearly (keys rope.scaling.*) gives the logits of the model it was made from, or raises.
# Seen: tensor and keys are passed over without a warning, and the model has plain positions: from the
# second token on its logits are others, also in texts that are shorter than those it was trained on
# first. llama.cpp, reading the same files, has the original's. Models without scaling are right.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 gguf==0.19.0 accelerate==1.15.0
"$folder/venv/bin/pip" install --quiet xllamacpp==2026.10.11549
"$folder/venv/bin/python" -W ignore - "$folder" 2> "$folder/log" <<'PYTHON' || { cat "$folder/log"; exit 1; }
import json
import math
import sys
import urllib.request

import gguf
import torch
import transformers
import xllamacpp
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

assert transformers.__version__ == "5.24.0", transformers.__version__
torch.set_num_threads(1)
HEADS, KV_HEADS, LAYERS, WIDTH = 4, 2, 2, 128
# Line break and space as byte-level vocabularies spell them, and what is printable in ASCII.
VOCABULARY = ["<s>", "</s>", "\u010a", "\u0120", *map(chr, range(33, 127)), "ab"]
COMMON = {
    "vocab_size": len(VOCABULARY), "hidden_size": WIDTH, "intermediate_size": 128,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
THETA = 10000.0
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": THETA, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn", "rope_theta": THETA, "factor": 4.0, "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": THETA, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": THETA}
CONFIGS = {
    "Llama, plain": LlamaConfig(**COMMON, rope_parameters=PLAIN),
    "Llama 3.1": LlamaConfig(**COMMON, rope_parameters=LLAMA3),
    "Llama, linear": LlamaConfig(**COMMON, rope_parameters=LINEAR),
    "Qwen2, plain": Qwen2Config(**COMMON, rope_parameters=PLAIN),
    "Qwen2, YaRN": Qwen2Config(**COMMON, rope_parameters=YARN),
}


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a Llama's queries or keys as GGUF orders them: pairs that are turned together."""
    rows = weight.reshape(heads, 2, -1, weight.shape[1])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def llama3_factors() -> torch.Tensor:
    """What each frequency is divided by, as GGUF stores it."""
    width = WIDTH // HEADS
    factors = []
    for frequency in THETA ** -(torch.arange(0, width, 2) / width):
        turns = float(LLAMA3["original_max_position_embeddings"] * frequency / (2 * math.pi))
        low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
        smooth = min(max((turns - low) / (high - low), 0), 1)
        factors.append(1 / ((1 - smooth) / LLAMA3["factor"] + smooth))
    return torch.tensor(factors)


def write(model: torch.nn.Module, path: str) -> None:
    """Write a model in float32 with the keys and tensors that llama.cpp's converter gives it."""
    kind, rope = model.config.model_type, model.config.rope_parameters
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name(kind)
    writer.add_context_length(256)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(COMMON["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(COMMON["rms_norm_eps"])
    writer.add_rope_freq_base(THETA)
    if kind == "llama":
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3] + [1] * (len(VOCABULARY) - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    names = gguf.get_tensor_name_map(
        {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[kind], LAYERS
    )
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors().numpy())
    for name, tensor in model.state_dict().items():
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permute(tensor, HEADS if "q_proj" in name else KV_HEADS)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_llama_cpp(path: str, tokens: list[int]) -> torch.Tensor:
    """The log-probabilities of the next token."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel, parameters.port = 256, 1, 0
    parameters.cpuparams.n_threads, parameters.warmup = 1, False
    server = xllamacpp.Server(parameters)  # at a free port of this machine
    options = {"prompt": tokens, "n_predict": 1, "n_probs": len(VOCABULARY), "cache_prompt": False}
    request = urllib.request.Request(
        f"{server.listening_address}/completion",
        json.dumps(options).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)["completion_probabilities"][0]["top_logprobs"]
    logs = {each["id"]: each["logprob"] for each in found}
    return torch.tensor([logs[token] for token in range(len(VOCABULARY))])


torch.manual_seed(0)
TOKENS = torch.randint(2, len(VOCABULARY) - 1, (1, 40))
for name, config in CONFIGS.items():
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        scale, mean = (0.15, 0.0) if parameter.ndim > 1 else (0.1, 0.5)
        parameter.data = scale * torch.randn_like(parameter) + mean
    write(model, f"{sys.argv[1]}/model.gguf")
    read = AutoModelForCausalLM.from_pretrained(
        sys.argv[1], gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    with torch.no_grad():
        expected, found = (each(TOKENS).logits[0].log_softmax(-1) for each in (model, read))
    other = by_llama_cpp(f"{sys.argv[1]}/model.gguf", TOKENS[0].tolist())
    largest = {
        "transformers, first token": float((found - expected)[0].abs().max()),
        "transformers, last token": float((found - expected)[-1].abs().max()),
        "llama.cpp, last token": float((other - expected[-1]).abs().max()),
    }
    kept = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
    print(f"{name}: largest difference of a log-probability", {k: f"{v:.1e}" for k, v in largest.items()})
    print(f"  same next token at {kept:.0%} of positions; positions read: {read.config.rope_parameters}")
    assert largest["llama.cpp, last token"] < 0.02, largest
    assert largest["transformers, first token"] < 1e-3, largest
    assert (largest["transformers, last token"] > 0.1) == (config.rope_parameters["rope_type"] != "default")
    assert read.config.rope_parameters["rope_type"] == "default"
PYTHON
