"""What a network can be trained for. A task is a module here and a line of training/tasks/table.py.

The trainer (training/trainer.py) knows steps, schedules and gradients. All that differs between tasks stands in a
`Task`: its texts, network, loss, validation, and what is exported.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from models.checkpoint.format import Checkpoint
from models.config import NetworkConfig, NumberType
from training.config import TrainingConfig
from training.data.corpus import CorpusConfig
from training.distributed import Group
from training.evaluation_figures import Figure
from training.progress import Progress
from training.recipe import Recipe
from training.run import Run


@dataclass(frozen=True)
class Measure:
    """The figure by which validation judges a network.

    unit: as it stands at the end of keys in log.jsonl (`valid_nats`). label: as it is shown to people.
    """

    unit: str
    label: str
    higher_is_better: bool = False

    def cost(self, value: float) -> float:
        """The value, with its sign changed where higher is better: the network with the lowest cost is the best."""
        return -value if self.higher_is_better else value


@dataclass(frozen=True)
class Loss:
    """What a step has computed on this process's share of a batch.

    value: scalar, without regularisation, as the log has it. penalty: scalar, what regularisation adds to it. state:
    (B, S), carried to the next step. tokens: in the whole batch. rate_scale: factor of the learning rate of this step.
    """

    value: Tensor
    penalty: Tensor
    state: Tensor
    tokens: int
    rate_scale: float = 1.0


@dataclass(frozen=True)
class Prepared:
    """What a task has chosen for a run. files: the text files of each split, by the keys of a recipe."""

    corpus: CorpusConfig
    network: NetworkConfig
    training: TrainingConfig
    files: dict[str, list[Path]]


class Task(ABC):
    """One run's network, and how it is trained and judged. A step depends on its number and the seed alone."""

    name: ClassVar[str]
    loss_unit: ClassVar[str] = "nats"
    measure: ClassVar[Measure]
    figures: ClassVar[Sequence[Figure]]
    """Columns of the table of what an exported model reaches."""
    network: nn.Module
    tokens_per_step: int
    """The mean over steps."""

    @classmethod
    @abstractmethod
    def prepare(
        cls, recipe: Recipe, data: Path, directory: Path, start: Checkpoint | None, progress: Progress
    ) -> Prepared:
        """Reads the text of a recipe into a run directory and chooses what was not asked for.

        data: the folder that the recipe's paths start from. start: the checkpoint whose weights the run begins with.
        Raises `ValueError` on everything that cannot be trained.
        """

    @classmethod
    @abstractmethod
    def open(cls, run: Run, group: Group) -> Self:
        """The task of a prepared run, with the weights that it begins with."""

    @classmethod
    @abstractmethod
    def export(
        cls, run: Run, out: Path, storage: NumberType | None, command: str | None, progress: Progress
    ) -> dict[str, Any]:
        """Writes the run's best weights as the checkpoint `out`; returns what its card says.

        storage, command: None takes the run's own.
        """

    @abstractmethod
    def first_state(self) -> Tensor:
        """The state before the first step, (B, S); B is this process's share of the rows."""

    @abstractmethod
    def make_batch(self, number: int) -> None:
        """Makes the batch of a step ahead of time, while a GPU still computes the step before it."""

    @abstractmethod
    def loss(self, number: int, state: Tensor, share_done: float) -> Loss:
        """The loss of step `number`, ready for its backward pass. share_done: of the schedule, 0 … 1."""

    @abstractmethod
    def validate(self) -> float:
        """The measure on the validation text, the same on every process."""

    def sample(self, _number: int) -> str | None:
        """A line that shows what the network can do after step `number`; it takes nothing from torch's generator."""
        return None
