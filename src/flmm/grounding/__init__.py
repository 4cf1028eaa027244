"""The grounder and what it does: chat, segment, attend, think and stream."""
