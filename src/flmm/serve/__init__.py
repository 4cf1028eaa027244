"""flmm over HTTP: one process, one model, an API that OpenAI's clients speak."""
