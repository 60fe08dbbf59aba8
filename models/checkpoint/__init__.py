"""A model on disk: what is written, and what is refused."""
