"""What a request means: a body becomes sequences for the engine, and what they tell becomes the answer. No HTTP."""
