"""The tasks: data in, batches and metric out."""

from .adding import Adding
from .characters import Characters
from .copying import Copying
from .music import Music
from .phonemes import Phonemes
from .pixels import Pixels
from .sequences import Sequences
from .task import Batch, Task, epoch_of, pad
from .tone import Tone

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Copying, Adding, Tone, Pixels, Characters, Music, Phonemes, Sequences)
}

__all__ = [
    "TASKS",
    "Adding",
    "Batch",
    "Characters",
    "Copying",
    "Music",
    "Phonemes",
    "Pixels",
    "Sequences",
    "Task",
    "Tone",
    "epoch_of",
    "pad",
]
