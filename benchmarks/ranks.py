"""Time of an update against the processes that share out its batch, and the bytes it takes.

    for n in 1 2; do
        mpiexec -n $n python benchmarks/ranks.py --json benchmarks/results/ranks-$n.json
    done

Each process has one thread. "plain" is the update of one process without a communicator, which
cuts nothing. "predicted" is the largest share of blocks of any process times the time of a block,
and the time that gathering as many bytes took by itself; the last columns say at which bandwidth of
a network gathering would take as long as computing on 8 machines.
"""

import argparse
import json
import os
import sys
import time

if os.environ.get("OMP_NUM_THREADS") != "1":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import dataclasses
import statistics

import numpy as np
from mpi4py import MPI

from kru_ref.training import loop
from kru_ref.training.ranks import Ranks
from kru_ref.training.tasks import Adding, Copying

# Adding stands for pixels, which has as long sequences and as many columns, but needs data.
SETUPS = {
    "KRU, N = 512, T = 784, B = 100": Adding(length=784, hidden_size=512, batch_size=100),
    "KRU, N = 128, T = 1020, B = 20": Copying(delay=1000, hidden_size=128, batch_size=20),
    "LSTM, N = 256, T = 120, B = 64": Copying(
        delay=100, cell="lstm", matrix="dense", hidden_size=256, batch_size=64
    ),
}


def timed(work, rounds):
    """Return the median time of some calls, all processes together."""
    work()
    times = []
    for _ in range(rounds):
        MPI.COMM_WORLD.Barrier()
        began = time.perf_counter()
        work()
        MPI.COMM_WORLD.Barrier()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(task, rounds):
    """Return the figures of a set-up."""
    ranks, model = Ranks(MPI.COMM_WORLD), task.model()
    params = model.init(task.rng("parameters"))
    state = loop.RunState(0, 0.0, params, task.optimizer_at(0).init(params), None)
    batch, n_blocks = task.batch(0), len(ranks.blocks(task.batch_size))
    n_bytes = 4 * model.n_parameters * n_blocks
    most = -(-n_blocks // ranks.size)
    one_block = dataclasses.replace(task, batch_size=8).batch(0)
    rows = np.zeros((most, model.n_parameters), np.float32)
    counts = np.full(ranks.size, most)
    block = timed(lambda: loop._gradients(task, model, state, one_block), rounds)
    gather = timed(lambda: ranks._gather(rows, counts), rounds)
    found = {
        "blocks": n_blocks,
        "MB gathered": n_bytes / 1e6,
        "seconds": timed(lambda: loop._in_blocks(ranks, task, model, state, batch), rounds),
        "predicted": most * block + gather,
        "gathering": gather,
        # what each machine receives, while it computes its own blocks
        "MB/s on 8 machines": n_bytes / 1e6 / (-(-n_blocks // 8) * block),
    }
    if ranks.size == 1:
        found["plain"] = timed(lambda: loop._gradients(task, model, state, batch), rounds)
    return found


def main():
    """Measure every set-up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="PATH")
    options = parser.parse_args()
    found = {name: measure(task, options.rounds) for name, task in SETUPS.items()}
    if MPI.COMM_WORLD.rank:
        return
    print(f"{MPI.COMM_WORLD.size} processes")
    for name, figures in found.items():
        print(name, "  ".join(f"{what} {value:.4g}" for what, value in figures.items()))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"processes": MPI.COMM_WORLD.size, "found": found}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
