"""One run on many machines: the processes of an MPI communicator share out each batch.

A batch is cut into blocks of columns, the same ones however many processes there are. Each process
computes the gradients of some blocks; all of them are gathered, by everybody, and added in the
order of the blocks. Everybody then makes the same update, so that parameters are equal to the bit,
on all processes and for any number of them. The first process, rank 0, writes and evaluates.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import Params, apart, as_one_vector
from ..extras import require

# Columns of a block: those of a vector in single precision.
WIDTH = 8
# What MPI's launchers tell each process.
LAUNCHED = ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")

# Seconds that the first process has to save a checkpoint when another is told to end.
GRACE = 5.0

Value = TypeVar("Value")


class RankFailed(OSError):
    """Another process of a run has failed, or is gone."""


class Block(NamedTuple):
    """What one block of a batch adds to an update.

    Attributes
    ----------
    grads : dict of str to ndarray
        Of its share of the loss.
    figures : sequence of float
        Its share of the loss and of what else is averaged over a batch.
    carried : object
        What the next batch needs of it.
    """

    grads: Params
    figures: Sequence[float]
    carried: Any = None


class Ranks:
    """The processes that share out each batch.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Its processes all call the same methods in the same order.
    """

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    @property
    def is_first(self) -> bool:
        """Whether this process writes and evaluates."""
        return bool(self.rank == 0)

    def share(self, make: Callable[[], Value]) -> Value:
        """Return what the first process makes; where it cannot, raise its error everywhere."""
        value: Any = None
        if self.is_first:
            try:
                value = make()
            except Exception as error:
                self.tell(None, error)
        found: Value = self.tell(value)
        return found

    def tell(self, value: Any = None, error: Exception | None = None) -> Any:
        """Return what the first process tells all, or raise its error."""
        self._meet()
        value, error = self.communicator.bcast((value, error))
        if error is not None:
            raise _known(error)
        return value

    def leave(self, status: int) -> None:
        """End all processes, where this one has been told to end: the first may save before."""
        if not self.is_first:
            time.sleep(GRACE)
        self.communicator.Abort(status)

    def blocks(self, B: int) -> list[slice]:
        """Cut B columns."""
        return [slice(first, min(B, first + WIDTH)) for first in range(0, B, WIDTH)]

    def add_up(
        self, n_blocks: int, block: Callable[[int], Block], like: Params
    ) -> tuple[Params, NDArray[np.float64], list[Any]]:
        """Return the sums of all blocks' gradients and figures, and what each carries on.

        Raises
        ------
        RankFailed
            Another process could not compute its blocks, or is gone.
        """
        # from the first process on, which has one if anybody has
        ends = [-(-n_blocks * rank // self.size) for rank in range(self.size + 1)]
        own = range(ends[self.rank], ends[self.rank + 1])
        error: Exception | None = None
        made = list[Block]()
        try:
            made = [block(i) for i in own]
        except Exception as failure:
            error = failure
        self._raise_failures(error)
        counts = np.diff(ends)
        flat = as_one_vector(like.values())
        rows = [as_one_vector(of.grads[name] for name in like) for of in made]
        gradients = self._gather(np.array(rows, flat.dtype).reshape(len(own), flat.size), counts)
        # of the first block, which the first process has
        n_figures, carries = self.communicator.bcast(
            (len(made[0].figures), made[0].carried is not None) if made else None
        )
        figures = np.array([of.figures for of in made], np.float64).reshape(len(own), n_figures)
        figures = self._gather(figures, counts)
        carried = [None] * n_blocks
        if carries:
            parts = self.communicator.allgather([of.carried for of in made])
            carried = [of_block for part in parts for of_block in part]
        grads = apart(gradients.sum(axis=0, dtype=np.float64), like.values())
        return dict(zip(like, grads, strict=True)), figures.sum(axis=0), carried

    def _raise_failures(self, error: Exception | None) -> None:
        """Raise an error everywhere, and on the process that met it as it is."""
        self._meet()
        told = self.communicator.allgather(None if error is None else str(error) or repr(error))
        if error is not None:
            raise _known(error)
        for rank, why in enumerate(told):
            if why is not None:
                raise _known(RankFailed(f"process {rank} of {self.size} failed: {why}"))

    def _gather(self, rows: NDArray[Any], counts: NDArray[np.intp]) -> NDArray[Any]:
        """Return the rows of all processes, one under the other."""
        width = rows.shape[1]
        everything = np.empty((int(counts.sum()), width), rows.dtype)
        self._finish(
            lambda: self.communicator.Iallgatherv(rows, [everything, (counts * width).tolist()])
        )
        return everything

    def _meet(self) -> None:
        """Wait for all processes, so that what follows takes no time."""
        self._finish(self.communicator.Ibarrier)

    def _finish(self, begin: Callable[[], Any]) -> None:
        """Wait for a communication without leaving Python, which else would see no signal."""
        failure = require("mpi4py.MPI", "mpi").Exception
        began = time.perf_counter()
        try:
            request = begin()
            while not request.Test():
                time.sleep(0 if time.perf_counter() - began < 2e-3 else 1e-4)
        except failure as error:
            raise RankFailed(
                f"another of the {self.size} processes is gone ({error}): start them again, with "
                "--resume"
            ) from error


def _known(error: Exception) -> Exception:
    """Mark an error as one that all processes raise."""
    error.all_know = True  # type: ignore[attr-defined]
    return error


def launched() -> Ranks | None:
    """Return the processes that an MPI launcher has started together with this one, if one has.

    Raises
    ------
    ImportError
        The extra "mpi" is not installed.
    """
    if not any(name in os.environ for name in LAUNCHED):
        return None
    MPI = require("mpi4py.MPI", "mpi")
    MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    return Ranks(MPI.COMM_WORLD)


def columns(states: Any, block: slice) -> Any:
    """Return a block of arrays whose last axis is the batch's, or of tuples of such."""
    if isinstance(states, tuple):
        return tuple(columns(part, block) for part in states)
    return None if states is None else np.ascontiguousarray(states[..., block])


def side_by_side(blocks: Sequence[Any]) -> Any:
    """Put together what :func:`columns` took apart."""
    if isinstance(blocks[0], tuple):
        return tuple(side_by_side(parts) for parts in zip(*blocks, strict=True))
    return np.concatenate(blocks, axis=-1)
