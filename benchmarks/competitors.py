"""What kru_ref is measured against, each written the way its library does it best.

======  ====================================  =========================================
symbol  shape                                 meaning
======  ====================================  =========================================
T, B                                          time steps, sequences in a batch
D, N, M                                       input, hidden and output size
x       (T, D, B), or integers (T, B)         input; integers stand for one-hot columns
W_f     (q, q)                                factors of the recurrent matrix
======  ====================================  =========================================

"Columns" is the layout (N, B), one column a sequence; "rows" is (B, N).

Every input is converted once, outside of the timed call. A library that is not installed
raises ImportError when a competitor that needs it is built, not before.
"""

import contextlib
import importlib
import io
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import numpy as np


class NotInstalled:
    """Stand in for a library that cannot be imported: using it raises ImportError."""

    def __init__(self, error):
        self._error = error

    def __getattr__(self, name):
        raise ImportError(str(self._error)) from self._error


def installed(module):
    """Import a module, quietly; where that fails, return a NotInstalled."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # PyKronecker prints its backend
            return importlib.import_module(module)
    except (ImportError, OSError) as error:
        return NotInstalled(error)


torch = installed("torch")
jax = installed("jax")
jnp = installed("jax.numpy")


def start_afresh():
    """Forget what was compiled for earlier problems: torch.compile keeps few versions."""
    with contextlib.suppress(ImportError):
        torch.compiler.reset()
    with contextlib.suppress(ImportError):
        jax.clear_caches()


# ---------------------------------------------------------------- one training step


class Problem(NamedTuple):
    """One batch, in kru_ref's conventions, and the parameters to take gradients at.

    Integer targets (T, B), or (B,) with last_only, stand for the softmax cross-entropy;
    real ones (M, B), of the last step, for the mean squared error.
    """

    params: dict[str, np.ndarray]
    x: np.ndarray
    targets: np.ndarray
    last_only: bool

    @property
    def factor_names(self):
        """Names of W_0 … W_{F-1}."""
        return [name for name in self.params if name.startswith("cell.W.")]

    @property
    def row_targets(self):
        """Targets with the batch before the outputs."""
        return self.targets if self.targets.dtype.kind == "i" else self.targets.T


def two_groups(factors):
    """Split a list in the middle."""
    middle = len(factors) // 2
    return factors[:middle], factors[middle:]


class TorchKRU:
    """A KRU in PyTorch; gradients by autograd, named as in kru_ref."""

    def __init__(self, problem):
        self.params = {
            name: torch.tensor(value, requires_grad=True) for name, value in problem.params.items()
        }
        self.factors = [self.params[name] for name in problem.factor_names]
        self.U, self.b, self.h0 = (self.params[f"cell.{name}"] for name in ("U", "b", "h0"))
        self.V, self.c = self.params["readout.V"], self.params["readout.c"]
        self.one_hot = problem.x.ndim == 2
        x = torch.tensor(problem.x)
        self.x = x if self.one_hot else x.to(self.U.dtype)
        self.x_rows = x if self.one_hot else self.x.mT.contiguous()
        self.B, self.N, self.M = self.x.shape[-1], len(self.b), len(self.c)
        self.targets = torch.tensor(problem.row_targets)
        self.last_only = problem.last_only

    def step(self):
        """Return the loss and its gradients."""
        loss = self.loss()
        grads = torch.autograd.grad(loss, list(self.params.values()))
        return loss.item(), {
            name: g.resolve_conj().numpy() for name, g in zip(self.params, grads, strict=True)
        }

    def inputs_in_columns(self):
        """Return U x of all steps at once, (T, N, B)."""
        if self.one_hot:
            return self.U.T[self.x].mT.contiguous()
        return self.U @ self.x

    def inputs_in_rows(self):
        """Return (U x)^T of all steps at once, (T, B, N)."""
        return self.U.T[self.x] if self.one_hot else self.x_rows @ self.U.T

    def read_out(self, h):
        """Return the loss of states in rows, (B, N) or (T, B, N), without copying them."""
        V = self.V.view(self.M, 2, self.N).mT.reshape(self.M, 2 * self.N)
        return torch_loss(torch.view_as_real(h).flatten(-2) @ V.T + self.c, self.targets)


def torch_loss(logits, targets):
    """Return the loss of logits (B, M) or (T, B, M)."""
    if targets.is_floating_point():
        return torch.nn.functional.mse_loss(logits, targets)
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def torch_modrelu(z, b):
    """Return max(|z| + b, 0) z / |z|, in the form with the cheapest backward pass."""
    return z * torch.relu(1 + b / z.abs())


class TorchFactors(TorchKRU):
    """Factor by factor: one product (q, q) @ (q, N B / q) each, which then rolls the axes."""

    def loss(self):
        """Return the loss of the whole sequence."""
        h, b, states = self.h0[:, None].expand(self.N, self.B), self.b[:, None], []
        for u in self.inputs_in_columns().unbind(0):
            for W in self.factors:
                q = len(W)
                h = (W @ h.reshape(q, -1)).view(q, -1, self.B).transpose(0, 1)
            h = torch_modrelu(h.reshape(self.N, self.B) + u, b)
            states.append(h)
        return self.read_out((h if self.last_only else torch.stack(states)).mT.contiguous())


class TorchDenseColumns(TorchKRU):
    """W materialised once a sequence, inputs projected for all steps, states (N, B)."""

    def loss(self):
        """Return the loss of the whole sequence."""
        W = reduce(torch.kron, self.factors)
        h, b, states = self.h0[:, None].expand(self.N, self.B), self.b[:, None], []
        for u in self.inputs_in_columns().unbind(0):
            h = torch_modrelu(torch.addmm(u, W, h), b)
            states.append(h)
        return self.read_out((h if self.last_only else torch.stack(states)).mT.contiguous())


class TorchDenseRows(TorchKRU):
    """W materialised once a sequence, inputs projected for all steps, states (B, N)."""

    def loss(self):
        """Return the loss of the whole sequence."""
        WT = reduce(torch.kron, self.factors).T
        h, states = self.h0.expand(self.B, self.N), []
        for u in self.inputs_in_rows().unbind(0):
            h = torch_modrelu(torch.addmm(u, h, WT), self.b)
            states.append(h)
        return self.read_out(h if self.last_only else torch.stack(states))


class TorchMerged(TorchKRU):
    """Factors merged once a sequence into two of about √N: W = P ⊗ Q, two products a step."""

    def loss(self):
        """Return the loss of the whole sequence."""
        P, Q = (reduce(torch.kron, group) for group in two_groups(self.factors))
        p, q, B, N = len(P), len(Q), self.B, self.N
        P, QT = P.expand(B, p, p), Q.T
        h, states = self.h0.expand(B, N), []
        for u in self.inputs_in_rows().view(-1, B, p, q).unbind(0):
            z = torch.baddbmm(u, P, (h.reshape(B * p, q) @ QT).view(B, p, q))
            h = torch_modrelu(z.view(B, N), self.b)
            states.append(h)
        return self.read_out(h if self.last_only else torch.stack(states))


def real_parts(P, Q, kron, rotation):
    """Return P ⊗ Q for states (p, 2, q), the middle axis being real and imaginary part.

    With J the rotation by 90°, a complex number a + i b acts on (Re, Im) as a I + b J.
    """
    identity = rotation @ rotation.T
    first = kron(P.real, identity) + kron(P.imag, rotation)  # acts on the axes (p, 2)
    second = kron(identity, Q.real) + kron(rotation, Q.imag)  # acts on the axes (2, q)
    return first, second


class TorchCompiled(TorchKRU):
    """torch.compile of some steps at a time, in real arithmetic.

    - Inductor leaves complex numbers uncompiled, so the state holds real and imaginary parts.
    - It unrolls time. The whole sequence had not compiled after 200 s at T = 400, so a chunk
      of steps is compiled, the most that divide T up to ``most_steps``, and called T/chunk times.
      PyTorch's own scan compiles a single step, but took twice as long as chunks to run.
    """

    most_steps = 20
    one_step = None  # h = one_step(matrices, u, b, h)

    def __init__(self, problem):
        super().__init__(problem)
        T = len(self.x)
        self.chunk = max(k for k in range(1, self.most_steps + 1) if T % k == 0)
        self.x_real = self.x if self.one_hot else self.x.real.contiguous()
        self.x_real_rows = self.x if self.one_hot else self.x_rows.real.contiguous()
        one_step = type(self).one_step

        def steps(matrices, inputs, b, h):
            states = []
            for u in inputs.unbind(0):
                h = one_step(matrices, u, b, h)
                states.append(h)
            return torch.stack(states), h

        self.steps = torch.compile(steps, fullgraph=True, dynamic=False)

    def states(self, matrices, inputs, b, h):
        """Return the last state, or those of all steps."""
        chunks = []
        for some in inputs.split(self.chunk):
            states, h = self.steps(matrices, some, b, h)
            chunks.append(states)
        return h if self.last_only else torch.cat(chunks)


class TorchCompiledFactors(TorchCompiled):
    """torch.compile, factor by factor: sums of scaled slices, for Inductor to fuse."""

    most_steps = 4

    @staticmethod
    def one_step(matrices, u, b, h):
        """Return the next state (2, N, B) for inputs of the same shape."""
        (re, im), left = h, 1
        for A, C in matrices:  # real and imaginary part of W_f, each (q, q, 1)
            q = len(A)
            re, im = re.reshape(left, 1, q, -1), im.reshape(left, 1, q, -1)
            re, im = (A * re - C * im).sum(2), (A * im + C * re).sum(2)
            left *= q
        re, im = re.reshape(u[0].shape) + u[0], im.reshape(u[0].shape) + u[1]
        scale = torch.relu(1 + b * torch.rsqrt(re * re + im * im))
        return torch.stack([re * scale, im * scale])

    def loss(self):
        """Return the loss of the whole sequence."""
        U = torch.stack([self.U.real, self.U.imag])  # (2, N, D)
        if self.one_hot:
            inputs = U.permute(2, 0, 1)[self.x].permute(0, 2, 3, 1).contiguous()
        else:
            inputs = U @ self.x_real[:, None]
        matrices = [(W.real[:, :, None], W.imag[:, :, None]) for W in self.factors]
        h = torch.stack([self.h0.real, self.h0.imag])[:, :, None].expand(2, self.N, self.B)
        h = self.states(matrices, inputs, self.b[:, None], h.contiguous())
        return torch_loss((self.V @ h.flatten(-3, -2)).mT + self.c, self.targets)


class TorchCompiledDense(TorchCompiled):
    """torch.compile, W materialised once a sequence as a real (2N, 2N) matrix."""

    @staticmethod
    def one_step(W, u, b, h):
        """Return the next state (B, 2, N) for inputs (B, 2N)."""
        re, im = torch.addmm(u, h.flatten(1), W).view_as(h).unbind(1)
        scale = torch.relu(1 + b * torch.rsqrt(re * re + im * im))
        return torch.stack([re * scale, im * scale], 1)

    def loss(self):
        """Return the loss of the whole sequence."""
        W = reduce(torch.kron, self.factors).T
        W = torch.cat([torch.cat([W.real, W.imag], 1), torch.cat([-W.imag, W.real], 1)])
        UT = torch.cat([self.U.real, self.U.imag]).T
        inputs = UT[self.x] if self.one_hot else self.x_real_rows @ UT
        h = torch.stack([self.h0.real, self.h0.imag]).expand(self.B, 2, self.N).contiguous()
        h = self.states(W, inputs, self.b, h)
        return torch_loss(h.flatten(-2) @ self.V.T + self.c, self.targets)


class TorchCompiledMerged(TorchCompiled):
    """torch.compile, factors merged once a sequence into two of about √N."""

    @staticmethod
    def one_step(matrices, u, b, h):
        """Return the next state (B, p, 2, q) for inputs (B, 2p, q)."""
        P, QT = matrices
        B, p, _, q = h.shape
        z = torch.matmul(P, (h.reshape(-1, 2 * q) @ QT).view(B, 2 * p, q)) + u
        re, im = z.view(h.shape).unbind(2)
        scale = torch.relu(1 + b * torch.rsqrt(re * re + im * im))
        return torch.stack([re * scale, im * scale], 2)

    def loss(self):
        """Return the loss of the whole sequence."""
        P, Q = (reduce(torch.kron, group) for group in two_groups(self.factors))
        p, q, N = len(P), len(Q), self.N
        P, Q = real_parts(P, Q, torch.kron, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        U, h = (
            torch.stack([v.real, v.imag]).view(2, p, q, -1).transpose(0, 1).reshape(2 * N, -1)
            for v in (self.U, self.h0)
        )
        inputs = U.T[self.x] if self.one_hot else self.x_real_rows @ U.T
        h = self.states(
            (P, Q.T.contiguous()),
            inputs.view(-1, self.B, 2 * p, q),
            self.b.view(p, q),
            h.view(p, 2, q).expand(self.B, p, 2, q).contiguous(),
        )
        V = self.V.view(self.M, 2, p, q).transpose(1, 2).reshape(self.M, 2 * N)
        return torch_loss(h.flatten(-3) @ V.T + self.c, self.targets)


class TorchModule:
    """torch.nn.RNN or torch.nn.LSTM of the same hidden size, with the same readout and loss."""

    def __init__(self, problem, kind):
        N, D = problem.params["cell.U"].shape
        M = len(problem.params["readout.c"])
        self.cell, self.readout = getattr(torch.nn, kind)(D, N), torch.nn.Linear(N, M)
        x = torch.tensor(problem.x)
        one_hot = x.ndim == 2
        self.x = torch.nn.functional.one_hot(x, D).float() if one_hot else x.mT.contiguous()
        self.targets = torch.tensor(problem.row_targets)
        self.last_only = problem.last_only
        self.params = [*self.cell.parameters(), *self.readout.parameters()]

    def step(self):
        """Return the loss, and no gradients that could be compared."""
        h, _ = self.cell(self.x)
        loss = torch_loss(self.readout(h[-1] if self.last_only else h), self.targets)
        grads = torch.autograd.grad(loss, self.params)
        for parameter, gradient in zip(self.params, grads, strict=True):
            assert gradient.shape == parameter.shape
        return loss.item(), None


class JaxKRU:
    """A KRU in JAX: jit of value_and_grad of a lax.scan; gradients named as in kru_ref."""

    def __init__(self, problem):
        self.names = problem.factor_names
        self.last_only = problem.last_only
        self.one_hot = problem.x.ndim == 2
        self.params = {name: jnp.asarray(value) for name, value in problem.params.items()}
        x = problem.x if self.one_hot else np.ascontiguousarray(problem.x.swapaxes(1, 2))
        self.x, self.targets = jnp.asarray(x), jnp.asarray(problem.row_targets)

        def step(params, x, targets):
            loss, grads = jax.value_and_grad(self.loss)(params, x, targets)
            return loss, jax.tree.map(jnp.conj, grads)  # JAX's are conjugates of kru_ref's

        self.compiled = jax.jit(step)

    def step(self):
        """Return the loss and its gradients."""
        loss, grads = jax.block_until_ready(self.compiled(self.params, self.x, self.targets))
        return float(loss), {name: np.asarray(g) for name, g in grads.items()}

    def loss(self, params, x, targets):
        """Return the loss of the whole sequence, x with the batch before the inputs."""
        factors = [params[name] for name in self.names]
        U, b, h0 = (params[f"cell.{name}"] for name in ("U", "b", "h0"))
        h = self.states(factors, U, b, h0, x)
        logits = self.features(h) @ params["readout.V"].T + params["readout.c"]
        if jnp.issubdtype(targets.dtype, jnp.floating):
            return jnp.mean((logits - targets) ** 2)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -jnp.mean(picked)

    def inputs(self, U, x):
        """Return (U x)^T of all steps at once, (T, B, N)."""
        return U.T[x] if self.one_hot else x @ U.T

    def scan(self, one_step, h0, inputs):
        """Return the last state, or those of all steps."""

        def step(h, u):
            h = one_step(h, u)
            return h, None if self.last_only else h

        last, states = jax.lax.scan(step, h0, inputs)
        return last if self.last_only else states

    def features(self, h):
        """Return [Re h; Im h] in rows, for states in rows."""
        return jnp.concatenate([h.real, h.imag], -1)


def jax_modrelu(z, b):
    """Return max(|z| + b, 0) z / |z|."""
    return z * jax.nn.relu(1 + b / jnp.sqrt(z.real**2 + z.imag**2))


class JaxFactors(JaxKRU):
    """Factor by factor, as sums of scaled slices that XLA fuses; states (N, B)."""

    def states(self, factors, U, b, h0, x):
        """Return states in rows."""

        def one_step(h, u):
            return jax_modrelu(slices(factors, h) + u, b[:, None])

        h0 = jnp.broadcast_to(h0[:, None], (len(b), x.shape[1]))
        return self.scan(one_step, h0, self.inputs(U, x).mT).mT


class JaxDense(JaxKRU):
    """W materialised once a sequence, states (B, N)."""

    def states(self, factors, U, b, h0, x):
        """Return states in rows."""
        WT = reduce(jnp.kron, factors).T

        def one_step(h, u):
            return jax_modrelu(h @ WT + u, b)

        return self.scan(one_step, jnp.broadcast_to(h0, (x.shape[1], len(b))), self.inputs(U, x))


class JaxMerged(JaxKRU):
    """Factors merged once a sequence into two of about √N, states (B, N)."""

    def states(self, factors, U, b, h0, x):
        """Return states in rows."""
        P, Q = (reduce(jnp.kron, group) for group in two_groups(factors))
        p, q = len(P), len(Q)

        def one_step(h, u):
            z = P @ (h.reshape(-1, q) @ Q.T).reshape(-1, p, q)
            return jax_modrelu(z.reshape(h.shape) + u, b)

        return self.scan(one_step, jnp.broadcast_to(h0, (x.shape[1], len(b))), self.inputs(U, x))


class JaxMergedReal(JaxKRU):
    """The same in real arithmetic, states (B, p, 2, q)."""

    def states(self, factors, U, b, h0, x):
        """Return states (…, B, p, 2, q)."""
        P, Q = (reduce(jnp.kron, group) for group in two_groups(factors))
        p, q, B = len(P), len(Q), x.shape[1]
        P, Q = real_parts(P, Q, jnp.kron, jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        U, h0 = (
            jnp.stack([v.real, v.imag]).reshape(2, p, q, -1).swapaxes(0, 1).reshape(2 * p * q, -1)
            for v in (U, h0)
        )
        b = b.reshape(p, 1, q)

        def one_step(h, u):
            z = P @ (h.reshape(-1, 2 * q) @ Q.T).reshape(B, 2 * p, q) + u
            z = z.reshape(B, p, 2, q)
            return z * jax.nn.relu(1 + b / jnp.sqrt((z * z).sum(2, keepdims=True)))

        inputs = self.inputs(U, x).reshape(-1, B, 2 * p, q)
        return self.scan(one_step, jnp.broadcast_to(h0.reshape(p, 2, q), (B, p, 2, q)), inputs)

    def features(self, h):
        """Return [Re h; Im h] in rows."""
        return h.swapaxes(-3, -2).reshape(*h.shape[:-3], -1)


TRAINING_STEPS = {
    "PyTorch, factor by factor": TorchFactors,
    "PyTorch, dense W, (N, B)": TorchDenseColumns,
    "PyTorch, dense W, (B, N)": TorchDenseRows,
    "PyTorch, two merged factors": TorchMerged,
    "torch.compile, factor by factor": TorchCompiledFactors,
    "torch.compile, dense W": TorchCompiledDense,
    "torch.compile, two merged factors": TorchCompiledMerged,
    "JAX, factor by factor": JaxFactors,
    "JAX, dense W": JaxDense,
    "JAX, two merged factors": JaxMerged,
    "JAX, two merged factors, real": JaxMergedReal,
    "torch.nn.RNN": partial(TorchModule, kind="RNN"),
    "torch.nn.LSTM": partial(TorchModule, kind="LSTM"),
}


# ---------------------------------------------------------------- one Kronecker matvec

# The formulations are the same in NumPy, PyTorch and JAX, whose arrays share ``@`` and reshape.


def columns(factors, x):
    """Multiply x (N, B): a batched product along each factor's axis."""
    shape, left = x.shape, 1
    for W in factors:
        q = len(W)
        x = W @ x.reshape(left, q, -1)
        left *= q
    return x.reshape(shape)


def rows(factors, x):
    """Multiply x (B, N): the same, and one plain product for the last, contiguous axis."""
    shape, right = x.shape, x.shape[1]
    for W in factors:
        q = len(W)
        right //= q
        x = W @ x.reshape(-1, q, right) if right > 1 else x.reshape(-1, q) @ W.T
    return x.reshape(shape)


def rolled(factors, x):
    """Multiply x (N, B): one plain product a factor, transposed; what comes out is (B, N)."""
    N, B = x.shape
    for W in factors:
        x = (W @ x.reshape(len(W), -1)).T
    return x.reshape(B, N).T


def slices(factors, x):
    """Multiply x (N, B): sums of scaled slices, for compilers that fuse them."""
    shape, left = x.shape, 1
    for W in factors:
        q = len(W)
        x = x.reshape(left, q, -1)
        x = sum(W[None, :, j, None] * x[:, None, j] for j in range(q))
        left *= q
    return x.reshape(shape)


def merged(factors, most):
    """Merge neighbours by the Kronecker product, while the result is at most most × most."""
    groups = []
    for W in factors:
        if groups and len(groups[-1]) * len(W) <= most:
            A = groups.pop()
            W = (A[:, None, :, None] * W[:, None, :]).reshape(len(A) * len(W), -1)
        groups.append(W)
    return groups


class Product:
    """Factors (q, q) and x (N, B) to multiply, in each library's arrays; converted once."""

    def __init__(self, factors, x):
        self.factors, self.x = factors, x

    @cached_property
    def x_rows(self):
        """Return x as (B, N), contiguous."""
        return np.ascontiguousarray(self.x.T)

    @cached_property
    def transposed(self):
        """Return the factors' transposes, contiguous."""
        return [np.ascontiguousarray(W.T) for W in self.factors]

    @cached_property
    def torch_factors(self):
        """Return the factors as tensors that share their memory."""
        return [torch.from_numpy(W) for W in self.factors]

    @cached_property
    def torch_x(self):
        """Return x as a tensor that shares its memory."""
        return torch.from_numpy(self.x)

    @cached_property
    def jax_factors(self):
        """Return the factors as JAX arrays."""
        return [as_jax(W) for W in self.factors]

    @cached_property
    def jax_x(self):
        """Return x as a JAX array."""
        return as_jax(self.x)

    @cached_property
    def jax_x_rows(self):
        """Return x as a JAX array (B, N)."""
        return as_jax(self.x_rows)


def as_jax(array):
    """Convert to JAX without losing double precision."""
    jax.config.update("jax_enable_x64", True)
    return jnp.asarray(array)


class Matvec(NamedTuple):
    """A call to time, and how what it returns becomes an ndarray (N, B)."""

    call: Any
    as_columns: Any = np.asarray


def from_rows(y):
    """Return (B, N) as an ndarray (N, B)."""
    return np.asarray(y).T


def from_planes(y):
    """Return real and imaginary part as one complex ndarray."""
    re, im = np.asarray(y)
    return re + 1j * im


def in_numpy(product, multiply, most=None):
    """NumPy; factors merged, if asked for, inside the timed call."""
    x = product.x_rows if multiply is rows else product.x
    return Matvec(
        lambda: multiply(merged(product.factors, most) if most else product.factors, x),
        from_rows if multiply is rows else np.asarray,
    )


def in_torch(product, multiply, most=None):
    """PyTorch without autograd; factors merged, if asked for, inside the timed call."""
    factors = product.torch_factors
    x = torch.from_numpy(product.x_rows) if multiply is rows else product.torch_x

    @torch.no_grad()
    def call():
        return multiply(merged(factors, most) if most else factors, x)

    return Matvec(call, from_rows if multiply is rows else np.asarray)


def in_compiled_torch(product):
    """torch.compile, factor by factor; complex numbers as planes (2, N, B), see TorchCompiled."""
    W, x = product.torch_factors, product.torch_x
    if not x.is_complex():
        real = torch.compile(slices, fullgraph=True, dynamic=False)
        return Matvec(torch.no_grad()(partial(real, W, x)))

    planes = torch.stack([x.real, x.imag])
    parts = [(V.real[:, :, None].clone(), V.imag[:, :, None].clone()) for V in W]

    def multiply(parts, planes):
        (re, im), left = planes, 1
        for A, C in parts:
            q = len(A)
            re, im = re.reshape(left, 1, q, -1), im.reshape(left, 1, q, -1)
            re, im = (A * re - C * im).sum(2), (A * im + C * re).sum(2)
            left *= q
        return torch.stack([re, im]).reshape(planes.shape)

    multiply = torch.compile(multiply, fullgraph=True, dynamic=False)
    return Matvec(torch.no_grad()(partial(multiply, parts, planes)), from_planes)


def in_jax(product, multiply, most=None):
    """jax.jit; factors merged, if asked for, inside the timed call."""
    W, x = product.jax_factors, product.jax_x_rows if multiply is rows else product.jax_x
    compiled = jax.jit(lambda W, x: multiply(merged(W, most) if most else W, x))
    return Matvec(
        lambda: jax.block_until_ready(compiled(W, x)),
        from_rows if multiply is rows else np.asarray,
    )


def in_fastkron(product, layout):
    """FastKron's NumPy interface; it computes float32 and float64, and passes complex to NumPy."""
    fastkron = importlib.import_module("pyfastkron.fastkronnumpy")
    if layout == "columns":
        return Matvec(lambda: fastkron.gekmm(product.factors, product.x))
    return Matvec(lambda: fastkron.gemkm(product.x_rows, product.transposed), from_rows)


def in_pykronecker(product, over_columns):
    """PyKronecker on its JAX backend, jitted: K @ X as documented, or vmap of K @ x."""
    KroneckerProduct = installed("pykronecker").KroneckerProduct
    W, x = product.jax_factors, product.jax_x
    B = x.shape[1]

    def multiply(W, x):
        K = KroneckerProduct(W)
        if over_columns == "vmap" or B == 1:
            return jax.vmap(lambda column: K @ column, in_axes=1, out_axes=1)(x)
        return K @ x

    compiled = jax.jit(multiply)
    return Matvec(lambda: jax.block_until_ready(compiled(W, x)))


def in_linear_operator(product):
    """GPyTorch's linear_operator, without autograd."""
    operators = importlib.import_module("linear_operator.operators")
    K, x = operators.KroneckerProductLinearOperator(*product.torch_factors), product.torch_x

    @torch.no_grad()
    def call():
        return K @ x

    return Matvec(call)


MATVECS = {
    "NumPy, (N, B)": partial(in_numpy, multiply=columns),
    "NumPy, (B, N)": partial(in_numpy, multiply=rows),
    "NumPy, rolled": partial(in_numpy, multiply=rolled),
    "NumPy, merged to 8, (N, B)": partial(in_numpy, multiply=columns, most=8),
    "NumPy, merged to 16, (N, B)": partial(in_numpy, multiply=columns, most=16),
    "NumPy, merged to 16, (B, N)": partial(in_numpy, multiply=rows, most=16),
    "PyTorch, (N, B)": partial(in_torch, multiply=columns),
    "PyTorch, (B, N)": partial(in_torch, multiply=rows),
    "PyTorch, merged to 16, (N, B)": partial(in_torch, multiply=columns, most=16),
    "PyTorch, merged to 16, (B, N)": partial(in_torch, multiply=rows, most=16),
    "torch.compile": in_compiled_torch,
    "JAX, slices": partial(in_jax, multiply=slices),
    "JAX, rolled": partial(in_jax, multiply=rolled),
    "JAX, merged to 16, (N, B)": partial(in_jax, multiply=columns, most=16),
    "JAX, merged to 16, (B, N)": partial(in_jax, multiply=rows, most=16),
    "FastKron, gekmm": partial(in_fastkron, layout="columns"),
    "FastKron, gemkm": partial(in_fastkron, layout="rows"),
    "PyKronecker, K @ X": partial(in_pykronecker, over_columns="K @ X"),
    "PyKronecker, vmap": partial(in_pykronecker, over_columns="vmap"),
    "linear_operator": in_linear_operator,
}
