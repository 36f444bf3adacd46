"""The faulty programs that the vectors' flags are named after: each computes every case.

    python tests/checks/flagged.py

runs them, and writes which cases each of them fails to ``kru_ref/checks/vectors.flags.json``, from
which ``kru-ref vectors write`` takes the flags of its index. ``test_flags.py`` runs them again.

``faulty_kru.py`` knows Kronecker products and dense matrices. Here all other matrices are made
dense for it, and their gradients taken back to what they were made of; it learns of training, too.
A program is written from the vectors' README.md and knows nothing of kru_ref.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import faulty_kru

from kru_ref.checks import vectors, verify

GATES = {"rnn": [""], "lru": [""], "lstm": [".i", ".f", ".g", ".o"], "gru": [".r", ".z", ".n"]}


class Whole(faulty_kru.Faulty):
    """An implementation of every case that makes one of the mistakes, or none."""

    def __init__(self, mistake=None):
        super().__init__(mistake)
        self.asked = set()

    def made(self, mistake):
        self.asked.add(mistake)
        return super().made(mistake)

    def compute(self, settings, arrays):
        """Return outputs and gradients by their names."""
        if settings["kind"] == "training":
            return self.training(settings, arrays)
        if settings["kind"] == "product":
            results = self.product_case(settings, arrays)
        else:
            results = self.network(settings, arrays)
        return self.deformed(results)

    def network(self, settings, arrays):
        cells, given, backs = [], dict(arrays), []
        for i, cell in enumerate(settings["cells"]):
            prefix = "cell." if len(settings["cells"]) == 1 else f"cell.{i}."
            start = f"params/{prefix}"
            own = {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
            cell, dense, back = self.made_dense(cell, own)
            given |= {start + name: a for name, a in dense.items()}
            cells.append(cell)
            backs.append((f"grads/{prefix}", back))
        results = super().network(settings | {"cells": cells}, given)
        for prefix, back in backs:
            back(results, prefix)
        return results

    def made_dense(self, cell, p):
        """Return a cell over dense matrices, its parameters, and what takes gradients back."""
        dense, backs = {}, []
        for gate in GATES[cell["cell"]]:
            name = f"W{gate}"
            if cell["matrix"] == "restricted":
                phases, v = p[f"{name}.phases"], p[f"{name}.reflections"]
                dense[name], back = self.restricted(cell, phases, v)
                backs.append((name, ("phases", "reflections"), back))
            if cell["matrix"] == "diagonal":
                dense[name], back = self.diagonal(p[f"{name}.nu"], p[f"{name}.theta"])
                backs.append((name, ("nu", "theta"), back))
        penalized = cell["matrix"] in ("dense", "kronecker")
        penalized |= self.made("penalty of full matrices too") and cell["matrix"] == "full"
        penalized |= self.made("penalty of diagonal matrices too") and cell["matrix"] == "diagonal"
        if cell["matrix"] != "kronecker":
            cell = cell | {"matrix": "dense" if penalized else "full"}
        is_lru = cell["cell"] == "lru"
        if is_lru:  # an rnn whose U has the scale in it
            scale = p["gamma"] if self.made("γ for exp γ") else np.exp(p["gamma"])
            dense |= {"U": scale[:, None] * p["U"], "b": np.zeros(len(scale))}
            cell = cell | {"cell": "rnn", "activation": "identity"}

        def back_of_all(results, prefix):
            for name, parts, back in backs:
                for part, d in zip(parts, back(results.pop(prefix + name)), strict=True):
                    results[f"{prefix}{name}.{part}"] = d
            if is_lru:
                self.back_of_scale(results, prefix, p["gamma"], dense["U"])

        return cell, dense, back_of_all

    def back_of_scale(self, results, prefix, gamma, scaled):
        del results[f"{prefix}b"]
        dU = results[f"{prefix}U"]
        dgamma = np.real(scaled.conj() * dU).sum(axis=1)
        if self.made("γ's gradient without exp γ"):
            dgamma = dgamma / np.exp(gamma)
        results[f"{prefix}gamma"] = dgamma
        if not self.made("dU without exp γ"):
            results[f"{prefix}U"] = np.exp(gamma)[:, None] * dU

    def diagonal(self, nu, theta):
        eigenvalues = np.exp(-np.exp(nu) + 1j * np.exp(theta))

        def back(dW):
            d = (eigenvalues.conj() * np.diag(dW)).real, (eigenvalues.conj() * np.diag(dW)).imag
            dnu, dtheta = -np.exp(nu) * d[0], np.exp(theta) * d[1]
            if self.made("ν's gradient without exp ν"):
                dnu = -d[0]
            if self.made("θ's gradient without exp θ"):
                dtheta = d[1]
            return dnu, -dtheta if self.made("θ's gradient of the wrong sign") else dtheta

        return np.diag(eigenvalues), back

    def restricted(self, cell, phases, v):
        """Return W, and its parts' gradients of dW: each link of the chain has its own."""
        n = len(cell["permutation"])
        if self.made("phases in reversed order"):
            phases = phases[::-1]
        F = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
        order = np.eye(n)[cell["permutation"]]
        if self.made("permutation inverted"):
            order = order.T
        squares = np.sum(np.abs(v) ** 2, axis=1)
        if self.made("reflections not divided by their length"):
            squares = np.ones(2)
        R = [np.eye(n) - 2 * np.outer(w, w.conj()) / s for w, s in zip(v, squares, strict=True)]
        D = [np.diag(np.exp(1j * phase)) for phase in phases]
        inverse = F if self.made("F for its inverse") else F.conj().T
        chain = [D[0], F, R[0], order, D[1], inverse, R[1], D[2]]
        W = product_of(chain)

        def back(dW):
            d = [
                product_of(chain[k + 1 :], n).conj().T @ dW @ product_of(chain[:k], n).conj().T
                for k in range(len(chain))
            ]
            dphases = [np.imag(D[k].conj() * d[at]).diagonal() for k, at in enumerate((0, 4, 7))]
            if self.made("phases' gradients of the wrong sign"):
                dphases = [-g for g in dphases]
            dv = [self.reflection_back(v[k], d[at]) for k, at in enumerate((2, 6))]
            return np.stack(dphases), np.stack(dv)

        if cell["dtype"] == "complex128":
            return W, back
        halves = np.block([[W.real, -W.imag], [W.imag, W.real]])
        at = np.arange(2 * n)
        if self.made("real and imaginary parts of a state take turns"):
            at = at.reshape(n, 2).T.reshape(-1)
        real = np.empty((2 * n, 2 * n))
        real[np.ix_(at, at)] = halves

        def back_of_halves(dW):
            (a, b), (c, d) = (np.split(row, 2, axis=1) for row in np.split(dW[np.ix_(at, at)], 2))
            return back(a + d + 1j * (c - b))

        return real, back_of_halves

    def reflection_back(self, v, dR):
        s = np.vdot(v, v).real
        through_length = 4 * np.vdot(v, dR @ v).real / s**2 * v
        if self.made("reflections' lengths held fixed"):
            through_length = 0
        return -2 * (dR @ v + dR.conj().T @ v) / s + through_length

    def deformed(self, results):
        """Let gradients look as the usual mistakes make them look."""
        changes = {
            "gradients of the wrong sign": lambda g: -g,
            "gradients twice as large": lambda g: 2 * g,
            "gradients half as large": lambda g: g / 2,
            "gradients 0": lambda g: 0 * g,
            "gradients conjugated": np.conj,
            "complex gradients times i": lambda g: 1j * g if np.iscomplexobj(g) else g,
            "complex gradients times -i": lambda g: -1j * g if np.iscomplexobj(g) else g,
            "imaginary parts of gradients missing": lambda g: g - 1j * g.imag if np.iscomplexobj(g) else g,
            "square gradients transposed": lambda g: g.T if is_square(g) else g,
            "square gradients conjugated and transposed": lambda g: g.conj().T if is_square(g) else g,
        }  # fmt: skip
        for mistake, change in changes.items():
            if self.made(mistake):
                results = {k: change(a) if "grads" in k else a for k, a in results.items()}
        return results

    def training(self, settings, arrays):
        """Return losses, gradients and parameters of the updates."""
        start, o, rows = "params/", settings["optimizer"], []
        params = {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
        memory = {}
        for k in range(settings["updates"]):
            batch = {"inputs/x": arrays["inputs/x"][k], "inputs/targets": arrays["inputs/targets"][k]}  # fmt: skip
            if self.made("the first batch each time"):
                batch = {name: arrays[name][0] for name in batch}
            batch |= {start + name: p for name, p in params.items()}
            results = self.deformed(self.network(settings, batch))
            grads = {name: results[f"grads/{name}"] for name in params}
            clipped = self.clipped(grads, o["max_norm"])
            if self.made("penalty's gradient not clipped"):
                bare = self.deformed(self.network(settings | {"penalty": 0}, batch))
                bare = {name: bare[f"grads/{name}"] for name in params}
                added = {name: grads[name] - bare[name] for name in params}
                clipped = self.clipped(bare, o["max_norm"])
                clipped = {name: clipped[name] + added[name] for name in params}
            if self.made("m and v forgotten"):
                memory = {}
            params = {
                name: self.moved(settings, name, p, clipped[name], memory.setdefault(name, {}), k)
                for name, p in params.items()
            }
            row = {"outputs/loss": results["outputs/loss"]}
            row |= {f"grads/{name}": g for name, g in grads.items()}
            rows.append(row | {f"outputs/after/{name}": p for name, p in params.items()})
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def clipped(self, grads, most):
        norm = np.sqrt(sum(np.sum(np.abs(g) ** 2) for g in grads.values()))
        if self.made("not clipped"):
            return grads
        if self.made("clipped array by array"):
            return {name: g * min(1, most / np.linalg.norm(g)) for name, g in grads.items()}
        if self.made("clipped number by number"):
            return {name: g * np.minimum(1, most / np.abs(g)) for name, g in grads.items()}
        if self.made("clipped to half the norm"):
            most = most / 2
        if self.made("1e-6 added to the norm"):
            norm = norm + 1e-6
        if self.made("short gradients lengthened"):
            return {name: g * most / norm for name, g in grads.items()}
        return {name: g * min(1, most / norm) for name, g in grads.items()}

    def moved(self, settings, name, p, g, memory, k):
        o, cell = settings["optimizer"], settings["cells"][0]
        is_recurrent = name.startswith("cell.W")
        rate = o["recurrent_rate" if is_recurrent else "rate"]
        if self.made("one rate for all"):
            rate = o["rate"]
        parts = np.ascontiguousarray(g).view(float).reshape(*g.shape, -1)
        s = self.direction(o, parts, memory, k).reshape(*g.shape[:-1], -1).view(g.dtype)
        if not (is_recurrent and cell["matrix"] == "full") or self.made("no Cayley transform"):
            return p - rate * s
        if self.made("Cayley transform of g"):
            s = g
        A = s @ p.conj().T - p @ s.conj().T
        if self.made("W^H s for s W^H in the Cayley transform"):
            A = p.conj().T @ s - s.conj().T @ p
        if self.made("Cayley transform uphill"):
            A = -A
        half = rate if self.made("Cayley transform of the whole rate") else rate / 2
        identity = np.eye(len(p))
        return np.linalg.solve(identity + half * A, (identity - half * A) @ p)

    def direction(self, o, g, memory, k):
        """Return s for a gradient (…, 1) or, of a complex number two real ones, (…, 2)."""
        square = g**2
        if self.made("one square of a complex number"):
            square = np.repeat(square.sum(axis=-1, keepdims=True), g.shape[-1], axis=-1)
        if o["rule"] == "sgd":
            kept = 1 - o["momentum"] if self.made("momentum dampened") else 1
            m = memory["m"] = o["momentum"] * memory.get("m", 0) + kept * g
            return g + o["momentum"] * m if self.made("Nesterov's momentum") else m
        decay = o["decay"] if o["rule"] == "rmsprop" else o["beta2"]
        beta1 = 0 if o["rule"] == "rmsprop" else o["beta1"]
        if self.made("beta1 and beta2 change places") and o["rule"] == "adam":
            beta1, decay = decay, beta1
        m = memory["m"] = beta1 * memory.get("m", 0) + (1 - beta1) * g
        if self.made("v starts at 1"):
            memory.setdefault("v", 1)
        v = memory["v"] = decay * memory.get("v", 0) + (1 - decay) * square
        if o["rule"] == "adam" and not self.made("no bias correction"):
            count = k + 2 if self.made("updates counted from 2") else k + 1
            m, v = m / (1 - beta1**count), v / (1 - decay**count)
        if self.made("no root of v"):
            return m / (v + o["epsilon"])
        if self.made("epsilon under the root"):
            return m / np.sqrt(v + o["epsilon"])
        return m / (np.sqrt(v) + (0 if self.made("epsilon left out") else o["epsilon"]))


def product_of(chain, n=None):
    """Return … chain[1] chain[0], the first one acting first."""
    W = np.eye(len(chain[0]) if n is None else n)
    for link in chain:
        W = link @ W
    return W


def is_square(g):
    return g.ndim == 2 and g.shape[0] == g.shape[1]


def verdict_on(program, case):
    """Return what verify says of a program's results for a case."""
    with np.errstate(all="ignore"):
        got = program.compute(case.settings, case.arrays)
    return verify.judge(case.name, case.settings, case.arrays, got)


class Right:
    """The program without a mistake, of every case: its results, and what it might do wrong there."""

    def __init__(self, cases):
        self.cases, self.verdicts, self.may = cases, {}, {}
        for case in cases:
            program = Whole()
            self.verdicts[case.name] = verdict_on(program, case)
            self.may[case.name] = program.asked

    def but_for(self, mistake):
        """Return the verdicts on the program that makes a mistake.

        Where it is never asked whether it makes that one, it computes what the right one does.
        """
        program = Whole(mistake)
        return [
            verdict_on(program, case)
            if mistake in self.may[case.name]
            else self.verdicts[case.name]
            for case in self.cases
        ]


def effect(verdicts):
    """Say what a mistake looks like: in which arrays, where, and what verify says most often."""
    wrong = [verdict for verdict in verdicts if verdict.differences]
    kinds = Counter(kind for v in wrong for kind in sorted({*map(kind_of, verify._first(v))}))
    told = ", ".join(kind for kind, _ in kinds.most_common(3))
    sentence = f"First to differ: {told}{' and others' * (len(kinds) > 3)}."
    for line in verify.report(verdicts).splitlines():
        if line.startswith("wrong where, and only where, "):
            where = line.removeprefix("wrong where, and only where, ")
            sentence += f" Of the cases that have these, wrong are those with {where}."
        if line.startswith("most often, "):
            sentence += f" Verify says most often: {line.partition(' times: ')[2]}."
    return sentence.replace("?.", "?")


def kind_of(difference):
    """Return the name of an array without its layer and its gate, and # for a factor's number."""
    return re.sub(r"W\.[ifgorzn](?=\.|$)", "W", verify._kind(difference.array))


def flags_of(right):
    """Return the notes on all flags, and the flags of each case."""
    notes, flags = {}, {case.name: [] for case in right.cases}
    for mistake, (flag, bug) in sorted(FLAGS.items(), key=lambda of: of[1]):
        verdicts = right.but_for(mistake)
        notes[flag] = {"bug": bug, "effect": effect(verdicts)}
        for verdict in verdicts:
            if verdict.differences:
                flags[verdict.name].append(flag)
    return notes, flags


# Of each mistake its flag, and what the bug is.
FLAGS = {
    "1 - z forgotten in dn": ("GruCandidateGradient", "A GRU's gradient of n lacks the factor 1 - z."),
    "1e-6 added to the norm": ("ClippingNormOffset", "Clipping divides by the norm plus 1e-6, as PyTorch's clip_grad_norm_ does."),
    "2 for 4 in the penalty": ("PenaltyGradientFactor", "The penalty's gradient is 2 A (A^H A - I) in place of 4 A (A^H A - I)."),
    "Cayley transform of g": ("CayleyIgnoresRule", "A full matrix moves by the clipped gradient g in place of the rule's s."),
    "Cayley transform of the whole rate": ("CayleyRateNotHalved", "The Cayley transform takes the rate in place of half of it."),
    "Cayley transform uphill": ("CayleySign", "The Cayley transform has the wrong sign: the loss grows."),
    "F for its inverse": ("FourierInverseMissing", "A restricted matrix applies F a second time in place of F^-1."),
    "Nesterov's momentum": ("MomentumNesterov", "SGD takes Nesterov's momentum, g + momentum m, in place of m."),
    "W^H s for s W^H in the Cayley transform": ("CayleyWrongSide", "The Cayley transform takes A = W^H s - s^H W in place of s W^H - W s^H."),
    "average over masked steps too": ("MaskAverage", "The weighted sum is divided by the number of steps, not by the sum of the weights."),
    "b_h's gradient without r": ("GruInnerBiasGradient", "A GRU's gradient of b_h lacks the factor r."),
    "beta1 and beta2 change places": ("AdamBetasSwapped", "Adam's beta1 and beta2 change places."),
    "c for tanh c in do": ("LstmOutputGateGradient", "An LSTM's gradient of o takes c in place of tanh c."),
    "c0 ignored": ("LstmCellStateIgnored", "An LSTM starts from c = 0, not from c0."),
    "c_0 forgotten in df": ("LstmForgetGradientFirst", "An LSTM's gradient of f takes 0 for c0 at the first step."),
    "c_t for c_{t-1}": ("LstmForgetGradientLate", "An LSTM's gradient of f takes c_t in place of c_{t-1}."),
    "clipped array by array": ("ClippedByArray", "Each gradient is clipped by its own norm, not by that of all together."),
    "clipped number by number": ("ClippedByNumber", "Each number is clipped by its own modulus, not by the norm of all."),
    "clipped to half the norm": ("ClippingThreshold", "Gradients are clipped to half of max_norm."),
    "complex gradients times -i": ("GradientTimesMinusI", "Complex gradients are -i times what they should be."),
    "complex gradients times i": ("GradientTimesI", "Complex gradients are i times what they should be: real and imaginary parts changed places."),
    "conj forgotten in dW_f": ("FactorGradientConjugate", "The gradient of a recurrent matrix or of a factor, dz h^H, takes h^T."),
    "conj forgotten in dx": ("InputGradientConjugate", "The gradient of a cell's input, U^H dz, takes U^T."),
    "conj forgotten in modrelu": ("ModreluConjugate", "modReLU's gradient takes z/|z| in place of its conjugate."),
    "conj forgotten in the adjoint": ("AdjointConjugate", "Gradients go back through W^T in place of W^H."),
    "conj forgotten in the other factors": ("OtherFactorsConjugate", "A factor's gradient goes back through the other factors' transposes, not their conjugate transposes."),
    "conj in the penalty's gradient": ("PenaltyGradientConjugate", "The penalty's gradient takes the conjugate of its first A."),
    "dU of the last step": ("InputMatrixLastStep", "U's gradient is that of the last step alone, not the sum over time."),
    "dU over T": ("InputMatrixOverTime", "U's gradient is a mean over time, not the sum."),
    "dU without exp γ": ("GammaScaleInputGradient", "An LRU's gradient of U lacks the factor exp(gamma)."),
    "dV over B": ("ReadoutOverBatch", "V's gradient is a mean over the sequences, not the sum."),
    "dW over B": ("RecurrentOverBatch", "W's gradient is a mean over the sequences, not the sum."),
    "dW over T": ("RecurrentOverTime", "W's gradient is a mean over time, not the sum."),
    "db of the first sequence": ("BiasFirstSequence", "b's gradient is that of the first sequence alone."),
    "db of the imaginary part": ("BiasImaginaryPart", "b is real, and its gradient takes the imaginary part of dz in place of the real part."),
    "db over B": ("BiasOverBatch", "b's gradient is a mean over the sequences, not the sum."),
    "db over T B": ("BiasOverTimeAndBatch", "b's gradient is a mean over time and the sequences, not the sum."),
    "dc not multiplied by f": ("LstmCarryGradient", "An LSTM hands c's gradient to the step before without the factor f."),
    "dc of the last step": ("ReadoutBiasLastStep", "The gradient of the readout's c is that of the last step alone."),
    "dc of this step only": ("LstmCarryDropped", "An LSTM drops c's gradient from the steps behind."),
    "dh0 never computed": ("InitialStateGradientMissing", "The gradients of h0 and c0 are never computed."),
    "dh0 of the first sequence": ("InitialStateFirstSequence", "The gradients of h0 and c0 are those of the first sequence alone."),
    "dh0 over B": ("InitialStateOverBatch", "The gradients of h0 and c0 are means over the sequences, not sums."),
    "epsilon left out": ("EpsilonMissing", "RMSprop and Adam divide by √v without epsilon."),
    "epsilon under the root": ("EpsilonUnderRoot", "RMSprop and Adam divide by √(v + epsilon) in place of √v + epsilon."),
    "factors conjugated": ("RecurrentConjugated", "The forward pass multiplies by the conjugate of W."),
    "factors in reversed order": ("FactorsReversed", "The first factor's index runs fastest, not the last one's."),
    "factors' gradients conjugated": ("RecurrentGradientConjugated", "The gradient of W, or of its factors, is conjugated, and goes on so to what else W is made of."),
    "factors' gradients over the number of factors": ("FactorGradientShared", "A factor's gradient is divided by the number of factors."),
    "first step lost in dW": ("RecurrentFirstStep", "W's gradient lacks the first step, of h0."),
    "first step read for the last": ("LastOnlyReadsFirst", "With last_only, the first step is read, not the last."),
    "gates o and g change places": ("LstmGateOrder", "An LSTM's gates are in the order i, f, o, g, not i, f, g, o."),
    "gradients 0": ("GradientZero", "Gradients are 0: never computed, or overwritten."),
    "gradients conjugated": ("GradientConjugated", "All gradients have the other convention, ∂L/∂Re - i ∂L/∂Im, which is JAX's."),
    "gradients conjugated, but of factors": ("GradientConjugatedButFactors", "All gradients but those of Kronecker factors are conjugated."),
    "gradients half as large": ("GradientHalved", "Gradients are half of what they should be."),
    "gradients of the wrong sign": ("GradientSign", "Gradients have the wrong sign."),
    "gradients over T": ("GradientOverTime", "Gradients of the average over the steps are divided by T a second time."),
    "gradients twice as large": ("GradientDoubled", "Gradients are twice what they should be."),
    "h0 ignored": ("InitialStateIgnored", "A cell starts from h = 0, not from h0."),
    "h_t for h_{t-1} in dW": ("RecurrentStateLate", "W's gradient takes h_t in place of h_{t-1}."),
    "half the squares": ("SquaresHalved", "The loss of squares has a factor 1/2."),
    "imaginary parts before real ones": ("ImaginaryPartsFirst", "What reads a complex state reads its imaginary parts first, then its real parts."),
    "imaginary parts missing": ("NetworkImaginaryMissing", "Gradients of a network are real where they should be complex; those of what W is made of follow."),
    "imaginary parts of gradients missing": ("GradientImaginaryMissing", "All gradients are real where they should be complex."),
    "labels averaged": ("LabelsAveraged", "The loss of independent labels is their mean, not their sum."),
    "last step lost in dW": ("RecurrentLastStep", "W's gradient lacks the last step of several."),
    "leaky relu": ("ReluLeaky", "ReLU is 0.01 (z + b) where z + b < 0, in place of 0."),
    "m and v forgotten": ("OptimizerForgets", "m and v start at 0 in each update."),
    "mask ignored": ("MaskIgnored", "The mask is ignored."),
    "mask ignored in the gradient": ("MaskGradient", "The loss heeds the mask; its gradient does not."),
    "modrelu's phase held fixed": ("ModreluPhaseFixed", "modReLU's gradient takes z/|z| for a constant."),
    "modrelu's threshold passes gradients": ("ModreluThresholdGradient", "modReLU passes gradients where |z| + b < 0."),
    "momentum dampened": ("MomentumDampened", "SGD's m takes (1 - momentum) g in place of g."),
    "no Cayley transform": ("CayleyMissing", "A full matrix moves like all others, and does not stay unitary."),
    "no bias correction": ("AdamBiasCorrection", "Adam takes m and v as they are, without 1 - beta^(k+1)."),
    "no root of v": ("RootMissing", "RMSprop and Adam divide by v in place of √v."),
    "no tanh of c": ("LstmOutputTanh", "An LSTM's h is o c, not o tanh c."),
    "no threshold in modrelu": ("ModreluThreshold", "modReLU lacks its threshold: |z| + b may be negative."),
    "not clipped": ("ClippingMissing", "Gradients are not clipped."),
    "nothing passed to the layer below": ("LayerBelowGradient", "Nothing goes back to the layer below."),
    "one rate for all": ("OneRate", "The recurrent matrix moves by rate, not by recurrent_rate."),
    "one square of a complex number": ("ComplexSquareShared", "RMSprop and Adam take |g|² for both parts of a complex number."),
    "one-hot dU overwritten, not added": ("OneHotGradient", "Of steps with the same one-hot input, U's gradient keeps one in place of the sum."),
    "only the first sequence in dW": ("RecurrentFirstSequence", "W's gradient is that of the first sequence alone."),
    "only this step's loss": ("StateGradientDropped", "Nothing goes back in time: each step has the gradient of its own loss alone."),
    "other factors left out": ("OtherFactorsIgnored", "A factor's gradient does not go through the other factors."),
    "penalty in the average": ("PenaltyAveraged", "The penalty is divided by the number of steps, T B."),
    "penalty missing in the loss": ("PenaltyMissing", "The loss lacks the penalty; its gradient has it."),
    "penalty not squared": ("PenaltyNotSquared", "The penalty is the norm, not its square."),
    "penalty of W W^H": ("PenaltyWrongSide", "The penalty is that of A A^H - I in place of A^H A - I: it differs where a factor is not square."),
    "penalty of diagonal matrices too": ("PenaltyOfDiagonal", "The penalty has a diagonal matrix in it."),
    "penalty of full matrices too": ("PenaltyOfFull", "The penalty has a full matrix in it. Where that is unitary, it adds 0."),
    "penalty's gradient missing": ("PenaltyGradientMissing", "The loss has the penalty; its gradient lacks it."),
    "penalty's gradient not clipped": ("PenaltyAfterClipping", "The penalty's gradient is added after clipping."),
    "permutation inverted": ("PermutationInverted", "A restricted matrix permutes by the inverse order."),
    "phases in reversed order": ("PhasesReversed", "A restricted matrix applies D_2 first and D_0 last."),
    "phases' gradients of the wrong sign": ("PhaseGradientSign", "The gradient of the phases has the wrong sign."),
    "r forgotten behind W_n": ("GruResetGradient", "A GRU's gradient behind W_n lacks the factor r."),
    "readout's gradient conjugated": ("ReadoutGradientConjugated", "What goes back from the real and imaginary parts of a state is conjugated."),
    "real and imaginary parts of a state take turns": ("HalvesInterleaved", "Over a restricted matrix, real and imaginary parts take turns in a real state, in place of one half each."),
    "reflections not divided by their length": ("ReflectionLength", "A reflection takes v as if it had length 1."),
    "reflections' lengths held fixed": ("ReflectionGradient", "A reflection's gradient takes ‖v‖ for a constant."),
    "relu' = 1": ("ReluGradient", "ReLU passes gradients where z + b < 0."),
    "reset before the product": ("GruResetFirst", "A GRU's n takes W_n (r h) + b_h in place of r (W_n h + b_h)."),
    "short gradients lengthened": ("ShortGradientsLengthened", "Gradients whose norm is below max_norm are scaled up to it."),
    "sigmoid' = s in di": ("LstmInputGateGradient", "An LSTM's gradient of i has the sigmoid's slope s in place of s (1 - s)."),
    "sign of dz": ("GruUpdateGradientSign", "A GRU's gradient of z has the wrong sign."),
    "square factors not transposed in the adjoint": ("SquareAdjoint", "Gradients go back through W itself where it is square."),
    "square factors' gradients transposed": ("SquareFactorTransposed", "The gradient of a square recurrent matrix or factor is transposed."),
    "square gradients conjugated and transposed": ("SquareGradientAdjoint", "Gradients that are square matrices are conjugated and transposed."),
    "square gradients transposed": ("SquareGradientTransposed", "Gradients that are square matrices are transposed."),
    "square's 2 forgotten": ("SquaresGradient", "The gradient of the squares lacks its 2."),
    "squares summed over outputs": ("SquaresSummed", "Squares are summed over the outputs, not averaged."),
    "summed over the batch": ("LossSummedOverBatch", "The loss without a mask is summed over the sequences, not averaged."),
    "summed over time": ("LossSummedOverTime", "The loss without a mask is summed over time, not averaged."),
    "summed over time and batch": ("LossSummed", "The loss without a mask is summed over time and the sequences, not averaged."),
    "tanh' = 1 - h": ("TanhGradient", "tanh's slope is 1 - h in place of 1 - h²."),
    "tanh' of z for h": ("TanhGradientOfInput", "tanh's slope is 1 - z² in place of 1 - h²."),
    "tanh'(c) forgotten": ("LstmTanhGradient", "An LSTM's gradient of c lacks the slope of tanh."),
    "tanh'(g) = 1 - g": ("LstmCandidateGradient", "An LSTM's slope of g is 1 - g in place of 1 - g²."),
    "target left out of softmax's gradient": ("SoftmaxTarget", "The softmax's gradient lacks the 1 that is subtracted at the target."),
    "targets one step late": ("TargetsLate", "Step t has the target of step t - 1."),
    "the first batch each time": ("FirstBatchAlways", "Each update takes the first batch."),
    "updates counted from 2": ("AdamCount", "Adam's correction counts updates from 2, not from 1."),
    "v starts at 1": ("SquaresStartAtOne", "v starts at 1 in place of 0."),
    "weights taken for yes and no": ("MaskWeights", "A weight above 0 counts as 1."),
    "z and 1 - z change places": ("GruUpdateSwapped", "A GRU's z and 1 - z change places."),
    "z h_{t-1} forgotten": ("GruCarryGradient", "A GRU hands nothing back through z h."),
    "γ for exp γ": ("GammaNotExponential", "An LRU scales its input by gamma in place of exp(gamma)."),
    "γ's gradient without exp γ": ("GammaGradient", "An LRU's gradient of gamma lacks the factor exp(gamma)."),
    "θ's gradient of the wrong sign": ("ThetaGradientSign", "The gradient of theta has the wrong sign."),
    "θ's gradient without exp θ": ("ThetaGradient", "The gradient of theta lacks the factor exp(theta)."),
    "ν's gradient without exp ν": ("NuGradient", "The gradient of nu lacks the factor exp(nu)."),
}  # fmt: skip
# ruff: noqa: E501


def main():
    """Write what the package knows of the flags."""
    notes, flags = flags_of(Right(list(vectors.cases())))
    lines = [
        ",\n".join(
            f"{json.dumps(key)}: {json.dumps(of, ensure_ascii=False)}" for key, of in part.items()
        )
        for part in (notes, flags)
    ]
    text = f'{{"notes": {{\n{lines[0]}\n}}, "flags": {{\n{lines[1]}\n}}}}\n'
    Path(vectors.__file__).with_name("vectors.flags.json").write_text(text)


if __name__ == "__main__":
    main()
