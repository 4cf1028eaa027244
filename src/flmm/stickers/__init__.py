"""The embedded world (stickers on landscapes) and the recipe of the model that is trained on it."""
