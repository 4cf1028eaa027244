"""A LLaVA of a real instruct language model, trained on sticker scenes."""
