"""A training job whose data is prepared, and the model and the workers that it starts with."""

from dataclasses import dataclass

from minigpt.data.ranks import Ranks
from minigpt.data.token_files import PreparedData
from minigpt.np.config import ModelConfig
from minigpt.np.model import GPT
from minigpt.runs.checkpoint import TrainingState
from minigpt.runs.folder import RunFolder
from minigpt.training.initial_model import initial_model
from minigpt.training.parallel.data_parallel import DataParallel
from minigpt.training.parallel.mpi import MPIRanks
from minigpt.training.parallel.mpi_data_parallel import MPIDataParallel
from minigpt.training.progress import Progress
from minigpt.training.recipe import optimizer
from minigpt.training.settings import Settings


@dataclass(frozen=True)
class Job:
    """A training job whose data is prepared."""

    settings: Settings
    data: PreparedData
    run: RunFolder
    ranks: Ranks
    progress: Progress

    @property
    def threads(self) -> int:
        """The number of workers of each rank."""
        return threads_per_rank(self.settings, self.ranks)

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model. Its vocabulary is that of the tokenizer or, with `init`, of the initial model."""
        s = self.settings
        return s.model(s.vocab_size if s.init else self.data.tokenizer.vocab_size)

    def start(self) -> tuple[DataParallel, TrainingState]:
        """Return the workers with the initial model, and the state before the first step."""
        model = initial_model(self.settings, self.data.tokenizer.vocab_size)
        return data_parallel(model, self.settings, self.ranks), TrainingState()


def threads_per_rank(settings: Settings, ranks: Ranks) -> int:
    """Return the number of workers of a rank. In an MPI job, it is at most the rank's number of cores."""
    threads = settings.threads or ranks.cores
    return min(threads, ranks.cores) if ranks.size > 1 else threads


def data_parallel(model: GPT, settings: Settings, ranks: Ranks) -> DataParallel:
    """Return the workers that train a model, in this process or in every rank of an MPI job."""
    threads = threads_per_rank(settings, ranks)
    if isinstance(ranks, MPIRanks):
        return MPIDataParallel(model, threads, settings.micro_batch, ranks, optimizer(settings))
    return DataParallel(model, threads, settings.micro_batch, optimizer(settings))
