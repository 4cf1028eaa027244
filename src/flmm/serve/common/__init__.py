"""What the OpenAI and the plain surface share: schemas, mask formats, responses."""
