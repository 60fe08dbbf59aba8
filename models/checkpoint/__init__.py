"""A model on disk: what is written, and what is refused. Nothing here runs a model."""

from models.checkpoint.format import (
    Checkpoint,
    CheckpointError,
    add_speller,
    check_replaceable,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
    update_about,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "add_speller",
    "check_replaceable",
    "find_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
    "update_about",
]
