"""Time one training step, forward, loss and backward, of the KRU against its competitors.

    python benchmarks/training_step.py --threads 1 --rounds 11 --json step.json

Loss and gradients of every KRU are compared with kru_ref's before anything is timed.
"""

import sys
import time
from typing import NamedTuple

import competitors
import measure
import numpy as np

import kru_ref as kru

OURS = "kru_ref"
# Of ‖gradient - ours‖ / ‖ours‖. Over 784 steps in single precision, everybody's gradients,
# ours too, are 0.1 to 0.3 % away from those in double precision; after 5 steps, 0.01 %.
TOLERANCE = 0.01


class SetUp(NamedTuple):
    """Sizes of a benchmark; input_size is of one-hot columns where one_hot is true."""

    hidden_size: int
    T: int
    B: int
    input_size: int
    output_size: int
    one_hot: bool = False
    squared_error: bool = False
    last_only: bool = True
    factors: tuple[tuple[int, int], ...] | None = None  # 2×2 throughout, if not given


SET_UPS = {
    "copying": SetUp(128, 1020, 20, 10, 9, one_hot=True, last_only=False),
    "pixels": SetUp(512, 784, 20, 1, 10),
    "adding": SetUp(512, 400, 50, 2, 1, squared_error=True),
    # the smaller KRU of the paper's Table 3
    "text": SetUp(
        411, 100, 50, 50, 50, one_hot=True, last_only=False, factors=((3, 3), (137, 137))
    ),
}


class Ours:
    """kru_ref itself, with the interface of a competitor."""

    def __init__(self, model, problem):
        self.model, self.problem = model, problem

    def step(self):
        """Return the loss and its gradients."""
        model, (params, x, targets, last_only) = self.model, self.problem
        logits, saved = model.forward(params, x)
        loss_of = kru.softmax_cross_entropy if targets.dtype.kind == "i" else kru.mean_squared_error
        loss, dlogits = loss_of(logits, targets, last_only=last_only)
        return loss, model.backward(params, saved, dlogits)


def make_problem(setup, rng):
    """Return a model and a batch of random numbers for it."""
    N, T, B, D, M, one_hot, squared_error, last_only, factors = setup
    model = kru.SequenceModel(kru.KRU(D, N, factors), M, last_only=last_only)
    params = model.init(rng)
    # Biases of both signs, so that units are active and inactive.
    params["cell.b"] += rng.uniform(-1e-3, 1e-3, N).astype("float32")
    x = rng.integers(D, size=(T, B)) if one_hot else rng.random((T, D, B), dtype="float32")
    if squared_error:
        targets = rng.random((M, B), dtype="float32")
    else:
        targets = rng.integers(M, size=B if last_only else (T, B))
    return model, competitors.Problem(params, x, targets, last_only)


def difference(reference, step):
    """Return the largest relative difference of the loss and of each gradient, by norm."""
    (loss, grads), (their_loss, their_grads) = reference, step
    errors = {"loss": abs(their_loss - loss) / abs(loss)}
    for name, g in grads.items():
        errors[name] = np.linalg.norm(their_grads[name] - g) / np.linalg.norm(g)
    return float(max(errors.values()))


def run(setup, names, rounds, rng):
    """Check, then time; return what was found for each name."""
    competitors.start_afresh()
    model, problem = make_problem(setup, rng)
    ours = Ours(model, problem)
    reference = ours.step()
    results, steps = {OURS: {}}, {OURS: ours.step}
    for name in names:
        start = time.perf_counter()
        try:
            candidate = competitors.TRAINING_STEPS[name](problem)
            loss, grads = candidate.step()
        except ImportError as error:
            results[name] = {"remark": measure.first_line("not installed", error)}
            continue
        except Exception as error:  # such as torch.compile without a C++ compiler
            results[name] = {"remark": measure.first_line("failed", error)}
            continue
        results[name] = {"set_up_s": time.perf_counter() - start}
        if grads is not None:
            error = difference(reference, (loss, grads))
            results[name]["error"] = error
            if not error < TOLERANCE:
                results[name]["remark"] = f"WRONG: differs from {OURS} by {error:.1e}; not timed"
                continue
        steps[name] = candidate.step
    for name, times in measure.alternate(steps, rounds, OURS).items():
        results[name] |= times
    return results


def main():
    """Run the set-ups asked for."""
    parser = measure.parser(__doc__.splitlines()[0])
    parser.add_argument("--set-up", choices=SET_UPS, nargs="+", default=list(SET_UPS))
    parser.add_argument("--steps", type=int, metavar="T", help="shorter sequences, for a try")
    arguments = parser.parse_args()
    measure.set_threads(arguments.threads)
    names = measure.chosen(competitors.TRAINING_STEPS, arguments.only)
    report = {}
    for setup_name in arguments.set_up:
        setup = SET_UPS[setup_name]
        if arguments.steps:
            setup = setup._replace(T=arguments.steps)
        report[setup_name] = setup._asdict()
        results = run(setup, names, arguments.rounds, np.random.default_rng(0))
        report[setup_name]["times"] = results
        title = f"{setup_name}: N = {setup.hidden_size}, T = {setup.T}, B = {setup.B}"
        measure.print_table(f"{title}, threads = {arguments.threads}", results)
    if arguments.json:
        found = measure.report(arguments.threads, arguments.rounds, report)
        measure.write_json(arguments.json, found)
    remarks = [r.get("remark", "") for s in report.values() for r in s["times"].values()]
    return 1 if any("WRONG" in remark for remark in remarks) else 0


if __name__ == "__main__":
    sys.exit(main())
