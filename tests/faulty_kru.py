"""Networks of `rnn`, `lstm` and `gru` cells in NumPy with explicit gradients, and their mistakes.

Written from the vectors' README.md, over Kronecker products and dense matrices. It knows nothing
of kru_ref: what `kru-ref vectors verify` says of each mistake is what it says to a stranger.
"""

import numpy as np

MISTAKES = set()


class Faulty:
    """An implementation that makes one of the mistakes, or none."""

    def __init__(self, mistake=None):
        assert mistake is None or mistake in MISTAKES, mistake
        self.mistake = mistake

    def made(self, mistake):
        MISTAKES.add(mistake)
        return self.mistake == mistake

    def compute(self, settings, arrays):
        """Return outputs and gradients by their names, or nothing of what is not known."""
        if any(c["matrix"] in ("restricted", "diagonal") for c in settings.get("cells", [])):
            return None
        if settings["kind"] == "training":
            return None
        return (self.product_case if settings["kind"] == "product" else self.network)(
            settings, arrays
        )

    def matvec(self, factors, x):
        if self.made("factors in reversed order"):
            factors = factors[::-1]
        if self.made("factors conjugated"):
            factors = [W.conj() for W in factors]
        return apply(factors, x)

    def adjoint(self, factors, dy):
        if self.made("conj forgotten in the adjoint"):
            return apply([W.T for W in factors], dy)
        if self.made("square factors not transposed in the adjoint"):
            return apply([W if W.shape[0] == W.shape[1] else W.conj().T for W in factors], dy)
        return apply([W.conj().T for W in factors], dy)

    def matrix_gradient(self, factors, x, dy):
        """Return dW_f = Σ dy' x^H, where dy' went back through all other factors."""
        B, found = x.shape[1], []
        if not self.made("conj forgotten in dW_f"):
            x = x.conj()
        x = x.reshape(*(W.shape[1] for W in factors), B)
        for f, W in enumerate(factors):
            others = [np.eye(len(w)) if g == f else w.conj().T for g, w in enumerate(factors)]
            if self.made("conj forgotten in the other factors") and len(factors) > 1:
                others = [w.conj() for w in others]
            if self.made("other factors left out") and len(factors) > 1:
                others = [
                    np.eye(*w.T.shape) if g != f else np.eye(len(w)) for g, w in enumerate(factors)
                ]
            back = apply(others, dy).reshape(
                *(w.shape[0] if g == f else w.shape[1] for g, w in enumerate(factors)), B
            )
            axes = [a for a in range(len(factors) + 1) if a != f]
            dW = np.tensordot(back, x, axes=(axes, axes))
            if self.made("square factors' gradients transposed") and W.shape[0] == W.shape[1]:
                dW = dW.T
            if self.made("factors' gradients conjugated"):
                dW = dW.conj()
            if self.made("factors' gradients over the number of factors"):
                dW = dW / len(factors)
            found.append(dW)
        return found

    def product_case(self, settings, arrays):
        factors = [arrays[f"params/W.{f}"] for f in range(len(settings["factors"]))]
        x, dy = arrays["inputs/x"], arrays["inputs/dy"]
        grads = dict(enumerate(self.matrix_gradient(factors, x, dy)))
        results = {f"grads/W.{f}": dW for f, dW in grads.items()}
        return results | {
            "outputs/y": self.matvec(factors, x),
            "grads/x": self.convention(self.adjoint(factors, dy)),
        }

    def convention(self, g):
        return g.conj() if self.made("gradients conjugated, but of factors") else g

    def network(self, settings, arrays):
        cells, p = settings["cells"], {}
        for key, a in arrays.items():
            if key.startswith("params/"):
                p[key.removeprefix("params/")] = a
        x = arrays["inputs/x"]
        if settings["one_hot"]:
            x = (x[:, None] == np.arange(cells[0]["input_size"])[:, None]).astype(float)
        results, runs, penalty = {}, [], 0.0
        for i, cell in enumerate(cells):
            prefix = "cell." if len(cells) == 1 else f"cell.{i}."
            run = Run(self, cell, {k.removeprefix(prefix): a for k, a in p.items()}, x)
            runs.append((prefix, run))
            results[f"outputs/{prefix}h"] = run.h
            x = self.features(run.h)
            penalty = penalty + (0 if cell["matrix"] == "full" else run.penalty())
        T = len(x)
        read = x[-1:] if settings["last_only"] else x
        if self.made("first step read for the last") and settings["last_only"]:
            read = x[:1]
        V, c = p["readout.V"], p["readout.c"]
        logits = V @ read + c[:, None]
        loss, dy = self.loss(settings, arrays, logits)
        strength = settings["penalty"]
        if self.made("penalty in the average"):
            strength = strength / (T * x.shape[-1])
        in_the_loss = 0 if self.made("penalty missing in the loss") else strength
        results |= {
            "outputs/logits": logits,
            "outputs/loss": np.array(loss + in_the_loss * penalty),
        }
        if self.made("gradients over T"):
            dy = dy / T
        dV = np.einsum("tmb,tnb->mn", dy, read)
        grads = {
            "readout.V": dV / x.shape[-1] if self.made("dV over B") else dV,
            "readout.c": dy[-1].sum(axis=1)
            if self.made("dc of the last step")
            else dy.sum(axis=(0, 2)),
        }
        dx = np.zeros_like(x)
        dx[T - len(dy) :] = V.T @ dy
        for i in reversed(range(len(cells))):
            prefix, run = runs[i]
            own, below = run.backward(self.states_gradient(dx, run.is_complex))
            if cells[i]["matrix"] != "full" and not self.made("penalty's gradient missing"):
                for name, dW in run.penalty_gradient().items():
                    own[name] = own[name] + strength * dW
            grads |= {prefix + name: g for name, g in own.items()}
            dx = 0 * below if self.made("nothing passed to the layer below") else below
        if self.made("imaginary parts missing"):
            grads = {k: g.real + 0j if np.iscomplexobj(g) else g for k, g in grads.items()}
        grads = {k: g if ".W." in k else self.convention(g) for k, g in grads.items()}
        return results | {f"grads/{k}": g for k, g in grads.items()}

    def features(self, h):
        parts = (h.real, h.imag) if np.iscomplexobj(h) else (h,)
        if self.made("imaginary parts before real ones"):
            parts = parts[::-1]
        return np.concatenate(parts, axis=1)

    def states_gradient(self, dx, is_complex):
        if not is_complex:
            return dx
        real, imag = np.split(dx, 2, axis=1)
        if self.made("readout's gradient conjugated"):
            imag = -imag
        if self.made("imaginary parts before real ones"):
            real, imag = imag, real
        return real + 1j * imag

    def loss(self, settings, arrays, logits):
        """Return the average and its gradient with respect to the logits."""
        targets = arrays["inputs/targets"]
        targets = targets[None] if settings["last_only"] else targets
        if self.made("targets one step late"):
            targets = np.roll(targets, 1, axis=0)
        _, M, B = logits.shape
        if settings["loss"] == "softmax":
            p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            one = targets[:, None] == np.arange(M)[:, None]
            values, dy = -np.log((p * one).sum(axis=1)), p - one
            if self.made("target left out of softmax's gradient"):
                dy = p
        elif settings["loss"] == "squared":
            values, dy = ((logits - targets) ** 2).mean(axis=1), 2 * (logits - targets) / M
            if self.made("squares summed over outputs"):
                values, dy = values * M, dy * M
            if self.made("half the squares"):
                values, dy = values / 2, dy / 2
            if self.made("square's 2 forgotten"):
                dy = dy / 2
        else:
            values = (np.log1p(np.exp(logits)) - targets * logits).sum(axis=1)
            dy = 1 / (1 + np.exp(-logits)) - targets
            if self.made("labels averaged"):
                values, dy = values / M, dy / M
        shape = values.shape
        weights = np.ones(shape)
        if settings["mask"] and not self.made("mask ignored"):
            weights = arrays["inputs/mask"].reshape(shape)
            if self.made("weights taken for yes and no"):
                weights = weights > 0
        total = weights.sum()
        if self.made("average over masked steps too"):
            total = weights.size
        for what, size in {
            "summed over the batch": B,
            "summed over time": shape[0],
            "summed over time and batch": weights.size,
        }.items():
            if self.made(what) and not settings["mask"]:
                total = total / size
        value, dy = (weights * values).sum() / total, dy * weights[:, None] / total
        if self.made("mask ignored in the gradient") and settings["mask"]:
            dy = dy * (weights.sum() / weights.size) / np.where(weights, weights, 1)[:, None]
            dy[weights[:, None].repeat(M, axis=1) == 0] = 0.1
        return value, dy


class Run:
    """A cell's forward pass, and what goes back through it."""

    def __init__(self, of, cell, p, x):
        self.of, self.cell, self.p, self.x = of, cell, p, x
        self.is_complex = cell["dtype"] == "complex128"
        gates = {"rnn": [""], "lstm": ["i", "f", "g", "o"], "gru": ["r", "z", "n"]}
        self.gates = gates[cell["cell"]]
        ends = [f".{f}" for f in range(len(cell["factors"]))] if "factors" in cell else [""]
        self.names = [[f"W{'.' + g if g else ''}{end}" for end in ends] for g in self.gates]
        self.W = [[p[name] for name in names] for names in self.names]
        self.names_of_all = [name for names in self.names for name in names]
        self.W_of_all = [W for gate in self.W for W in gate]
        self.h0 = np.repeat(p["h0"][:, None], x.shape[-1], axis=1)
        if of.made("h0 ignored"):
            self.h0 = 0 * self.h0
        self.h = np.stack(list(getattr(self, cell["cell"])()))

    def before(self, t):
        return self.h[t - 1] if t else self.h0

    def rnn(self):
        h, self.z, b = self.h0, [], self.p["b"][:, None]
        for x in self.x:
            z = self.of.matvec(self.W[0], h) + self.p["U"] @ x
            self.z.append(z)
            name = self.cell["activation"]
            if name == "modrelu":
                length = np.abs(z) + b
                if not self.of.made("no threshold in modrelu"):
                    length = np.maximum(length, 0)
                h = length * z / np.abs(z)
            else:
                z = z + b
                h = {"tanh": np.tanh(z.real), "relu": np.maximum(z.real, 0), "identity": z}[name]
                if self.of.made("leaky relu") and name == "relu":
                    h = np.where(z > 0, z, 0.01 * z)
            yield h

    def lstm(self):
        h, N = self.h0, len(self.h0)
        c = np.repeat(self.p["c0"][:, None], h.shape[1], axis=1)
        if self.of.made("c0 ignored"):
            c = 0 * c
        self.c, self.c0, self.a = [], c, []
        order = (0, 1, 3, 2) if self.of.made("gates o and g change places") else (0, 1, 2, 3)
        for x in self.x:
            u = self.p["U"] @ x + self.p["b"][:, None]
            z = [self.of.matvec(self.W[k], h) + u[k * N : (k + 1) * N] for k in order]
            i, f, o = (sigmoid(z[k]) for k in (0, 1, 3))
            g = np.tanh(z[2])
            c = f * c + i * g
            h = o * (c if self.of.made("no tanh of c") else np.tanh(c))
            self.c.append(c)
            self.a.append((i, f, g, o))
            yield h

    def gru(self):
        h, self.a = self.h0, []
        for x in self.x:
            u = np.split(self.p["U"] @ x + self.p["b"][:, None], 3)
            r = sigmoid(self.of.matvec(self.W[0], h) + u[0])
            z = sigmoid(self.of.matvec(self.W[1], h) + u[1])
            q = self.of.matvec(self.W[2], h) + self.p["b_h"][:, None]
            inner = r * q
            if self.of.made("reset before the product"):
                inner = self.of.matvec(self.W[2], r * h) + self.p["b_h"][:, None]
            n = np.tanh(u[2] + inner)
            self.a.append((r, z, n, q))
            if self.of.made("z and 1 - z change places"):
                z = 1 - z
            h = (1 - z) * n + z * h
            yield h

    def penalty(self):
        found = 0.0
        for W in self.W_of_all:
            E = W.conj().T @ W - np.eye(W.shape[1])
            if self.of.made("penalty of W W^H"):
                E = W @ W.conj().T - np.eye(len(W))
            norm = np.sum(np.abs(E) ** 2)
            found += np.sqrt(norm) if self.of.made("penalty not squared") else norm
        return found

    def penalty_gradient(self):
        four = 2 if self.of.made("2 for 4 in the penalty") else 4
        found = {}
        for name, W in zip(self.names_of_all, self.W_of_all, strict=True):
            left = W.conj() if self.of.made("conj in the penalty's gradient") else W
            found[name] = four * left @ (W.conj().T @ W - np.eye(W.shape[1]))
        return found

    def backward(self, dh):
        back = getattr(self, f"{self.cell['cell']}_backward")
        N, state = len(self.h0), 0 * self.h0
        self.dc = np.zeros(self.h0.shape)
        db, d_h, d_x = [], [], []  # of b, behind W, behind U
        for t in reversed(range(len(dh))):
            g = dh[t] if self.of.made("only this step's loss") else dh[t] + state
            at_W, at_U, at_b, direct = back(t, g)
            state = direct + sum(
                self.of.adjoint(W, at_W[k * N : (k + 1) * N]) for k, W in enumerate(self.W)
            )
            d_h.insert(0, at_W)
            d_x.insert(0, at_U)
            db.insert(0, at_b)
        d_h, d_x, db = np.stack(d_h), np.stack(d_x), np.stack(db)
        before = np.stack([self.before(t) for t in range(len(dh))])
        if self.of.made("h_t for h_{t-1} in dW"):
            before = self.h
        if self.of.made("first step lost in dW"):
            before[0] = 0
        use = d_h.copy()
        if self.of.made("last step lost in dW") and len(use) > 1:
            use[-1] = 0
        if self.of.made("only the first sequence in dW"):
            use[..., 1:] = 0
        grads = {}
        for k, (names, W) in enumerate(zip(self.names, self.W, strict=True)):
            columns = (beside(before), beside(use[:, k * N : (k + 1) * N]))
            grads |= dict(zip(names, self.of.matrix_gradient(W, *columns), strict=True))
        if self.of.made("dW over T"):
            grads = {name: g / len(dh) for name, g in grads.items()}
        if self.of.made("dW over B"):
            grads = {name: g / dh.shape[-1] for name, g in grads.items()}
        grads["U"] = beside(d_x) @ beside(self.x).T
        if self.of.made("dU over T"):
            grads["U"] = grads["U"] / len(dh)
        if self.of.made("dU of the last step"):
            grads["U"] = d_x[-1] @ self.x[-1].T
        if self.of.made("one-hot dU overwritten, not added") and set(np.unique(self.x)) <= {0, 1}:
            grads["U"] = 0 * grads["U"]
            for dz, x in zip(d_x, self.x, strict=True):
                for column, label in zip(dz.T, x.argmax(axis=0), strict=True):
                    grads["U"][:, label] = column
        grads["b"] = db.sum(axis=(0, 2))
        if self.of.made("db over B"):
            grads["b"] = grads["b"] / dh.shape[-1]
        if self.of.made("db over T B"):
            grads["b"] = grads["b"] / (len(dh) * dh.shape[-1])
        if self.of.made("db of the first sequence"):
            grads["b"] = db[..., 0].sum(axis=0)
        first = {"h0": state} | ({"c0": self.dc} if self.cell["cell"] == "lstm" else {})
        for name, d in first.items():
            grads[name] = d.sum(axis=1)
            if self.of.made("dh0 over B"):
                grads[name] = d.mean(axis=1)
            if self.of.made("dh0 of the first sequence"):
                grads[name] = d[:, 0]
            if self.of.made("dh0 never computed"):
                grads[name] = 0 * d[:, 0]
        if self.cell["cell"] == "gru":
            grads["b_h"] = d_h[:, 2 * N :].sum(axis=(0, 2))
            if self.of.made("b_h's gradient without r"):
                grads["b_h"] = d_x[:, 2 * N :].sum(axis=(0, 2))
        dx = np.real(self.p["U"].conj().T @ d_x)
        if self.of.made("conj forgotten in dx"):
            dx = np.real(self.p["U"].T @ d_x)
        return grads, dx

    def rnn_backward(self, t, dh):
        z, h, b, name = self.z[t], self.h[t], self.p["b"][:, None], self.cell["activation"]
        if name == "modrelu":
            r, u = np.abs(z), z / np.abs(z)
            along = np.real((u if self.of.made("conj forgotten in modrelu") else u.conj()) * dh)
            turning = (
                0 if self.of.made("modrelu's phase held fixed") else (1 + b / r) * (dh - u * along)
            )
            active = 1 if self.of.made("modrelu's threshold passes gradients") else r + b > 0
            dz, db = active * (u * along + turning), active * along
        else:
            slope = {"tanh": 1 - np.real(h) ** 2, "relu": 1.0 * (h.real > 0), "identity": 1.0}[name]
            if name == "tanh" and self.of.made("tanh' = 1 - h"):
                slope = 1 - h
            if name == "tanh" and self.of.made("tanh' of z for h"):
                slope = 1 - z**2
            if name == "relu" and self.of.made("relu' = 1"):
                slope = 1.0
            dz = slope * dh
            db = np.imag(dz) if self.of.made("db of the imaginary part") else np.real(dz)
        return dz, dz, db, 0 * dz

    def lstm_backward(self, t, dh):
        (i, f, g, o), c = self.a[t], self.c[t]
        before = self.c[t - 1] if t else self.c0
        if self.of.made("c_t for c_{t-1}"):
            before = c
        if self.of.made("c_0 forgotten in df") and not t:
            before = 0 * c
        tanh = np.tanh(c)
        squashed = 1 if self.of.made("tanh'(c) forgotten") else 1 - tanh**2
        dc = self.dc + dh * o * squashed
        if self.of.made("dc of this step only"):
            dc = dh * o * squashed
        through_o = c if self.of.made("c for tanh c in do") else tanh
        slope = (1 - g) if self.of.made("tanh'(g) = 1 - g") else 1 - g**2
        parts = [
            dc * g * i * (1 if self.of.made("sigmoid' = s in di") else 1 - i),
            dc * before * f * (1 - f),
            dc * i * slope,
            dh * through_o * o * (1 - o),
        ]
        self.dc = dc if self.of.made("dc not multiplied by f") else dc * f
        dz = np.concatenate(parts)
        return dz, dz, dz, 0 * dh

    def gru_backward(self, t, dh):
        r, z, n, q = self.a[t]
        before = self.before(t)
        a = dh * (1 - z) * (1 - n**2)
        if self.of.made("1 - z forgotten in dn"):
            a = dh * (1 - n**2)
        difference = n - before if self.of.made("sign of dz") else before - n
        parts = [a * q * r * (1 - r), dh * difference * z * (1 - z), a]
        at_U = np.concatenate(parts)
        at_W = np.concatenate([*parts[:2], a if self.of.made("r forgotten behind W_n") else a * r])
        return at_W, at_U, at_U, 0 * dh if self.of.made("z h_{t-1} forgotten") else dh * z


def apply(factors, x):
    """Multiply by W_0 ⊗ W_1 ⊗ …, the last one's index running fastest."""
    B = x.shape[1]
    x = x.reshape(*(W.shape[1] for W in factors), B)
    for f, W in enumerate(factors):
        x = np.moveaxis(np.tensordot(W, x, axes=([1], [f])), 0, f)
    return x.reshape(-1, B)


def beside(a):
    """Turn (T, N, B) into (N, T B)."""
    return np.moveaxis(a, 0, 1).reshape(a.shape[1], -1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))
