"""The routes that OpenAI clients use."""
