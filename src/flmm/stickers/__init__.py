"""The embedded world: scenes of stickers on landscapes, their drawings, questions and answers."""
