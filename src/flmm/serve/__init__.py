"""The HTTP server: one process, one model, an API for OpenAI's clients."""
