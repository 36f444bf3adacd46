"""The tasks: data in, batches and metric out."""

from .adding import Adding
from .copying import Copying
from .pixels import Pixels
from .task import Task

TASKS: dict[str, type[Task]] = {"copying": Copying, "adding": Adding, "pixels": Pixels}

__all__ = ["TASKS", "Adding", "Copying", "Pixels", "Task"]
