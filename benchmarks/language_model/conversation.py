"""What models say: to text-only prompts, and about pictures of held-out scenes.

    PYTHONPATH=benchmarks python -m language_model.conversation FOLDER --lmm LMM --head HEAD

compares SmolLM2 alone with the LMM that it is frozen in, and the LMM's answers with and without
masks. Each part goes on where it was stopped.
"""

import argparse
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase

from flmm.cli.console import show_progress
from flmm.embedded_model.evaluate_text import ask_about_scene, generate_answers
from flmm.evaluate.benchmark import mask_model_fingerprint
from flmm.grounding.conversation import ChatMessage
from flmm.grounding.grounder import Grounder
from flmm.head.weights import fingerprint_weights
from flmm.lmm.auto import load_lmm
from flmm.lmm.base import LMMAdapter
from flmm.lmm.generation import Generation
from flmm.progress import ProgressCallback
from flmm.report.context import key_digest
from flmm.report.saved_results import load_or_measure, save_results
from flmm.report.segmentation_token.conversation_scores import ConversationScorer
from flmm.stickers.dataset import EVALUATION_SEED
from flmm.stickers.draw import draw
from flmm.stickers.language import Turn
from flmm.stickers.scene import generate_scene
from language_model.assembly import load_smollm2
from language_model.conversation_results import (
    ConversationResults,
    ModelConversation,
    PictureAnswers,
    SceneAnswers,
    TextAnswers,
    render_tables,
)
from language_model.real_logits import TOGETHER, generate_together
from language_model.text_prompts import TextPrompt, read_text_prompts

MAX_NEW_TOKENS = 48
"""Of an answer to a text-only prompt."""
SCENES = 40
"""Each with a caption, four questions and one that follows up: 200 questions."""
PLAIN_MODEL = "plain SmolLM2"
FROZEN_MODEL = "frozen LLaVA"


@dataclass(frozen=True)
class ComparedModel:
    """An LMM to compare with the LLM alone."""

    name: str
    adapter: LMMAdapter
    grounder: Grounder | None = None
    """Answers with masks, by the same adapter; None without."""
    token_id: int | None = None
    """The segmentation token that it was trained to say; None without."""


def answer_texts(
    adapter: LMMAdapter, prompts: Sequence[str], on_progress: Callable[[int, int], None]
) -> TextAnswers:
    """Answer prompts without a picture by flmm's decoding engine, ``TOGETHER`` at a time."""
    token_ids: list[Tensor] = []
    for first in range(0, len(prompts), TOGETHER):
        chunk = [adapter.build_prompt((), prompt) for prompt in prompts[first : first + TOGETHER]]
        token_ids += generate_together(adapter, chunk, MAX_NEW_TOKENS, wants_trace=False)
        on_progress(len(token_ids), len(prompts))
    return _build_answers(token_ids, adapter.decode)


def answer_texts_alone(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> TextAnswers:
    """Answer prompts one by one with transformers' own chat template and ``generate``."""

    def decode(token_ids: Tensor) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    answers: list[Tensor] = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert isinstance(inputs, BatchEncoding)
        # transformers types generate for a protocol that its models do not fulfil.
        sequences = cast(Callable[..., Tensor], llm.generate)(
            **inputs.to(llm.device), max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        answer = sequences[0, inputs["input_ids"].shape[1] :].cpu()
        ends = (answer == tokenizer.eos_token_id).nonzero()
        answers.append(answer[: int(ends[0])] if len(ends) else answer)
        on_progress(len(answers), len(prompts))
    return _build_answers(answers, decode)


def _build_answers(token_ids: Sequence[Tensor], decode: Callable[[Tensor], str]) -> TextAnswers:
    return TextAnswers(
        tuple(decode(answer) for answer in token_ids),
        tuple(tuple(answer.tolist()) for answer in token_ids),
    )


def answer_about_scene(model: ComparedModel, seed: int) -> SceneAnswers:
    """Caption a scene and answer questions about it, by the LMM alone and with masks."""
    drawing = draw(generate_scene(seed))
    alone = [generation for _, generation in generate_answers(model.adapter, drawing, seed)]
    answers = TextAnswers(
        tuple(generation.text for generation in alone),
        tuple(tuple(generation.token_ids.tolist()) for generation in alone),
    )
    if model.grounder is None:
        return SceneAnswers(answers)
    with_masks = [
        model.grounder.chat(
            drawing.picture,
            asked.turn.question,
            history=[] if asked.earlier is None else list(_messages(asked.earlier)),
            max_new_tokens=asked.max_new_tokens,
        )
        for asked in ask_about_scene(drawing.scene, seed)
    ]
    texts = zip(with_masks, answers.texts, strict=True)
    return SceneAnswers(
        answers,
        sum(answer.text == text for answer, text in texts),
        sum(len(answer.phrases) for answer in with_masks),
    )


def score_scenes(
    scene_seeds: Sequence[int], answers: Sequence[SceneAnswers], token_id: int | None
) -> PictureAnswers:
    """Score the answers about at least one scene."""
    scorer = ConversationScorer(token_id)
    for seed, said in zip(scene_seeds, answers, strict=True):
        scene = generate_scene(seed)
        generations = [
            Generation(torch.tensor(token_ids), text)
            for text, token_ids in zip(said.answers.texts, said.answers.token_ids, strict=True)
        ]
        turns = [asked.turn for asked in ask_about_scene(scene, seed)]
        scorer.add_scene(scene, list(zip(turns, generations, strict=True)))
    same = [said.same_with_masks for said in answers if said.same_with_masks is not None]
    return PictureAnswers(
        scorer.compute_scores(),
        sum(len(said.answers.texts) for said in answers),
        sum(same) if same else None,
        sum(said.phrases for said in answers),
    )


def _messages(turn: Turn) -> Iterator[ChatMessage]:
    yield {"role": "user", "content": turn.question}
    yield {"role": "assistant", "content": turn.answer}


def measure_conversations(
    folder: Path,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    models: Sequence[ComparedModel],
    prompts: Sequence[TextPrompt],
    scene_seeds: Sequence[int],
    on_progress: ProgressCallback,
) -> ConversationResults:
    """Ask all models; what is in the folder's files already is not asked again.

    Args:
        folder: of files for each model's texts and scenes, and ``conversation.json`` with all.
        llm: the LLM alone, asked the prompts only.
        tokenizer: the LLM's.
        models: the LMMs.
        prompts: text-only.
        scene_seeds: of held-out scenes; without any, no model is asked about pictures.
        on_progress: called with (done, total, what).

    Raises:
        InputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = [prompt.prompt for prompt in prompts]
    prompts_key = {"prompts": key_digest({"prompts": json.dumps([MAX_NEW_TOKENS, *texts])})}

    def progress(name: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(done, total, f"{name}: texts")

    def ask(model: ComparedModel) -> ModelConversation:
        key = {"weights": fingerprint_weights(model.adapter.model)}
        said = load_or_measure(
            _name_file(folder, model.name, "texts"),
            TextAnswers,
            key | prompts_key,
            lambda: answer_texts(model.adapter, texts, progress(model.name)),
        )
        key["masks"] = "" if model.grounder is None else mask_model_fingerprint(model.grounder)
        scenes = []
        for done, seed in enumerate(scene_seeds, 1):
            file = _name_file(folder, model.name, f"scene-{seed}")
            measure = functools.partial(answer_about_scene, model, seed)
            scenes.append(load_or_measure(file, SceneAnswers, key, measure))
            on_progress(done, len(scene_seeds), f"{model.name}: scenes")
        pictures = score_scenes(scene_seeds, scenes, model.token_id) if scenes else None
        return ModelConversation(model.name, said, model.token_id, pictures)

    alone = load_or_measure(
        _name_file(folder, PLAIN_MODEL, "texts"),
        TextAnswers,
        {"weights": fingerprint_weights(llm)} | prompts_key,
        lambda: answer_texts_alone(llm, tokenizer, texts, progress(PLAIN_MODEL)),
    )
    results = ConversationResults(
        (ModelConversation(PLAIN_MODEL, alone), *(ask(model) for model in models))
    )
    save_results(folder / "conversation.json", results, {})
    return results


def _name_file(folder: Path, model: str, part: str) -> Path:
    return folder / f"{model.lower().replace(',', '').replace(' ', '-')}-{part}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of the results")
    parser.add_argument("--lmm", required=True, help="the LMM's folder")
    parser.add_argument("--head", help="its head's folder; by default masks without a head")
    parser.add_argument("--scenes", type=int, default=SCENES, help="0: no questions about pictures")
    arguments = parser.parse_args()
    if arguments.head is None:
        grounder = Grounder(load_lmm(arguments.lmm))
    else:
        grounder = Grounder.from_pretrained(arguments.head, lmm=arguments.lmm)
    llm, tokenizer = load_smollm2()
    prompts = read_text_prompts()
    with show_progress() as on_progress:
        results = measure_conversations(
            arguments.folder,
            cast(PreTrainedModel, llm.to(grounder.adapter.device)),  # type: ignore[arg-type]
            tokenizer,
            [ComparedModel(FROZEN_MODEL, grounder.adapter, grounder)],
            prompts,
            range(EVALUATION_SEED, EVALUATION_SEED + arguments.scenes),
            on_progress,
        )
    print(render_tables(results, prompts))


if __name__ == "__main__":
    main()
