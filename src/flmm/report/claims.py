"""All claims, in the order that the report has them."""

from flmm.report.ablations import figures as ablations_figures
from flmm.report.ablations import measurement as ablations
from flmm.report.chain_of_thought import figures as chain_of_thought_figures
from flmm.report.chain_of_thought import measurement as chain_of_thought
from flmm.report.claim import Claim
from flmm.report.conversation import figures as conversation_figures
from flmm.report.conversation import measurement as conversation
from flmm.report.ground import figures as ground_figures
from flmm.report.ground import measurement as ground
from flmm.report.segmentation_token import figures as segmentation_token_figures
from flmm.report.segmentation_token import measurement as segmentation_token
from flmm.report.where import figures as where_figures
from flmm.report.where import measurement as where

GROUND = Claim(
    "ground",
    "Frozen LMMs ground",
    ground.Ground,
    1,
    ground.measure,
    ground.tables,
    ground_figures.figures,
)

ABLATIONS = Claim(
    "ablations",
    "What matters in the head",
    ablations.Ablations,
    1,
    ablations.measure,
    ablations.tables,
    ablations_figures.figures,
)

CONVERSATION = Claim(
    "conversation",
    "Conversation is untouched",
    conversation.Conversation,
    1,
    conversation.measure,
    conversation.tables,
    conversation_figures.figures,
)

SEGMENTATION_TOKEN = Claim(
    "segmentation-token",
    "What a segmentation token costs",
    segmentation_token.SegmentationToken,
    2,
    segmentation_token.measure,
    segmentation_token.tables,
    segmentation_token_figures.figures,
    segmentation_token.check,
)

WHERE = Claim(
    "where",
    "Where grounding lives",
    where.Where,
    1,
    where.measure,
    where.tables,
    where_figures.figures,
)

CHAIN_OF_THOUGHT = Claim(
    "chain-of-thought",
    "A closer look helps (visual chain of thought)",
    chain_of_thought.ChainOfThought,
    1,
    chain_of_thought.measure,
    chain_of_thought.tables,
    chain_of_thought_figures.figures,
    chain_of_thought.check,
)

CLAIMS: dict[
    str,
    Claim[ground.Ground]
    | Claim[ablations.Ablations]
    | Claim[conversation.Conversation]
    | Claim[segmentation_token.SegmentationToken]
    | Claim[where.Where]
    | Claim[chain_of_thought.ChainOfThought],
] = {
    GROUND.name: GROUND,
    ABLATIONS.name: ABLATIONS,
    CONVERSATION.name: CONVERSATION,
    SEGMENTATION_TOKEN.name: SEGMENTATION_TOKEN,
    WHERE.name: WHERE,
    CHAIN_OF_THOUGHT.name: CHAIN_OF_THOUGHT,
}
