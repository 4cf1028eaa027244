"""The grounder and what it does: chat, ground, segment, attend, think and stream."""
