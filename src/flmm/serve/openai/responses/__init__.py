"""POST /v1/responses, the newer of OpenAI's interfaces."""
