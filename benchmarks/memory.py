"""Peak memory of `train` and of the estimators' `fit`, against the size of the file they read.

    python benchmarks/memory.py --gigabytes 0.1 1 4

The sequences are noise, 4 channels and 2,048 steps each, written into a folder that is removed
again. Each fit has a process of its own, and is given a fixed number of updates, or all sequences
once. Linux only, which tells the peak of a process.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

D, T = 4, 2048

WORK = {
    "nothing, after the imports": """
import kru_ref.estimators, kru_ref.training.loop
""",
    "train(Sequences(...))": """
from kru_ref.training.loop import train
from kru_ref.training.tasks import Sequences
train(Sequences(data_dir=folder, batch_size=16, updates=50, validation_share=0.01), folder / "run")
""",
    "RecurrentClassifier(16).fit(OnDisk(...))": """
from kru_ref.estimators import OnDisk, RecurrentClassifier
model = RecurrentClassifier(16, max_epochs=1, random_state=0)
model.fit(OnDisk(folder / "X.npy"), np.load(folder / "y.npy"))
""",
    "ReservoirClassifier(128).fit(OnDisk(...))": """
from kru_ref.estimators import OnDisk, ReservoirClassifier
ReservoirClassifier(128, random_state=0).fit(OnDisk(folder / "X.npy"), np.load(folder / "y.npy"))
""",
}

BEFORE = """
import sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
"""
AFTER = """
status = dict(line.split(":") for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 2**10)
"""


def write(folder, gigabytes):
    """Write X.npy and y.npy."""
    rng, n = np.random.default_rng(0), int(gigabytes * 2**30 / (4 * D * T))
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, D, T))
    for x in X:
        x[:] = rng.standard_normal((D, T), np.float32)
    X.flush()
    np.save(folder / "y.npy", np.arange(n) % 2)


def main():
    """Measure every kind of work on every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of what is run")
    options = parser.parse_args()
    for gigabytes in options.gigabytes:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), gigabytes)
            chosen = {w: c for w, c in WORK.items() if any(part in w for part in options.only)}
            for what, code in chosen.items():
                command = [sys.executable, "-c", BEFORE + code + AFTER, name]
                made = subprocess.run(command, capture_output=True, text=True, check=True)
                print(f"{gigabytes:g} GB  {what}: {float(made.stdout):.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
