"""All claims, in the order of the report."""

from flmm.report.ablations import figures as ablations_figures
from flmm.report.ablations import measurement as ablations
from flmm.report.chain_of_thought import figures as chain_of_thought_figures
from flmm.report.chain_of_thought import measurement as chain_of_thought
from flmm.report.claim import Claim, accept_all
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
    ground.GroundResults,
    1,
    ground.measure,
    ground.render_tables,
    ground_figures.draw_figures,
    accept_all,
)

ABLATIONS = Claim(
    "ablations",
    "What matters in the head",
    ablations.AblationResults,
    2,
    ablations.measure,
    ablations.render_tables,
    ablations_figures.draw_figures,
)

CONVERSATION = Claim(
    "conversation",
    "Conversation is untouched",
    conversation.ConversationResults,
    1,
    conversation.measure,
    conversation.render_tables,
    conversation_figures.draw_figures,
)

SEGMENTATION_TOKEN = Claim(
    "segmentation-token",
    "What a segmentation token costs",
    segmentation_token.SegmentationTokenResults,
    2,
    segmentation_token.measure,
    segmentation_token.render_tables,
    segmentation_token_figures.draw_figures,
    segmentation_token.check,
)

WHERE = Claim(
    "where",
    "Where grounding lives",
    where.WhereResults,
    1,
    where.measure,
    where.render_tables,
    where_figures.draw_figures,
)

CHAIN_OF_THOUGHT = Claim(
    "chain-of-thought",
    "A closer look helps (visual chain of thought)",
    chain_of_thought.ChainOfThoughtResults,
    1,
    chain_of_thought.measure,
    chain_of_thought.render_tables,
    chain_of_thought_figures.draw_figures,
    chain_of_thought.check,
)

CLAIMS: dict[
    str,
    Claim[ground.GroundResults]
    | Claim[ablations.AblationResults]
    | Claim[conversation.ConversationResults]
    | Claim[segmentation_token.SegmentationTokenResults]
    | Claim[where.WhereResults]
    | Claim[chain_of_thought.ChainOfThoughtResults],
] = {
    GROUND.name: GROUND,
    ABLATIONS.name: ABLATIONS,
    CONVERSATION.name: CONVERSATION,
    SEGMENTATION_TOKEN.name: SEGMENTATION_TOKEN,
    WHERE.name: WHERE,
    CHAIN_OF_THOUGHT.name: CHAIN_OF_THOUGHT,
}
