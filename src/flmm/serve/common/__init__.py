"""Schemas, mask formats and responses that the OpenAI and the plain routes share."""
