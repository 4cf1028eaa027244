"""A LLaVA of a real instruct language model, trained on sticker scenes; see docs/language-model.md."""
