"""All claims, in the order that the report has them."""

from flmm.report.ablations import ABLATIONS, Ablations
from flmm.report.chain_of_thought import CHAIN_OF_THOUGHT, ChainOfThought
from flmm.report.claim import Claim
from flmm.report.conversation import CONVERSATION, Conversation
from flmm.report.ground import GROUND, Ground
from flmm.report.segmentation_token import SEGMENTATION_TOKEN, SegmentationToken
from flmm.report.where import WHERE, Where

CLAIMS: dict[
    str,
    Claim[Ground]
    | Claim[Ablations]
    | Claim[Conversation]
    | Claim[SegmentationToken]
    | Claim[Where]
    | Claim[ChainOfThought],
] = {
    GROUND.name: GROUND,
    ABLATIONS.name: ABLATIONS,
    CONVERSATION.name: CONVERSATION,
    SEGMENTATION_TOKEN.name: SEGMENTATION_TOKEN,
    WHERE.name: WHERE,
    CHAIN_OF_THOUGHT.name: CHAIN_OF_THOUGHT,
}
