"""Which validation was the best, and when to stop because none gets better."""

from dataclasses import replace

from training.persistence import Position
from training.tasks import Measure


def after_validation(position: Position, value: float, measure: Measure, patience: int) -> Position:
    """The position after a validation at its step. It is the best one so far if `best_step` is that step.

    patience: validations without improvement after which the position is `stopped`.
    """
    if position.best is None or measure.cost(value) < measure.cost(position.best):
        return replace(position, best=value, best_step=position.step, validations_since_best=0)
    waited = position.validations_since_best + 1
    stopped = f"no improvement in {patience} validations" if waited >= patience else position.stopped
    return replace(position, validations_since_best=waited, stopped=stopped)
