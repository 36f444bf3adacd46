// Kronecker recurrent units in plain JavaScript, written from vectors/README.md alone.
//
//   node kru.mjs VECTORS RESULTS      (Node 20.15 or later, for zlib.crc32; no packages)
//
// A tensor is {shape, re, im}, the last index running fastest; im is all zeros if it is real, so
// that real and complex cells share their code. Gradients are dL/dRe + i dL/dIm: with it a linear
// map y = A x goes back as dx = A^H dy and dA = dy x^H. Every forward step returns its result and a
// function `back`, which takes the gradient of the result, adds to the gradients dp of the
// parameters p, and returns the gradient of the input.

import fs from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';

// ---- Tensors -----------------------------------------------------------------------------------

const size = (shape) => shape.reduce((product, n) => product * n, 1);

const zeros = (shape) => (
  { shape, re: new Float64Array(size(shape)), im: new Float64Array(size(shape)) });

// Of entries [re, im] or [re], each a function of its flat index.
function tensor(shape, entry) {
  const x = zeros(shape);
  for (let k = 0; k < x.re.length; k++) [x.re[k], x.im[k] = 0] = entry(k);
  return x;
}

// The i-th contiguous part, of this shape: a step of a sequence, the rows of a gate. It is a view:
// writing to it writes to x.
function piece(x, i, shape) {
  const [from, to] = [i * size(shape), (i + 1) * size(shape)];
  return { shape, re: x.re.subarray(from, to), im: x.im.subarray(from, to) };
}

const reshape = (x, shape) => piece(x, 0, shape);

// (T, …) to a list of T tensors, and back.
const split = (x) => Array.from({ length: x.shape[0] }, (_, t) => piece(x, t, x.shape.slice(1)));

function stack(xs) {
  const y = zeros([xs.length, ...xs[0].shape]);
  split(y).forEach((part, t) => addTo(part, xs[t]));
  return y;
}

function addTo(y, x, factor = 1) {
  for (let k = 0; k < y.re.length; k++) {
    y.re[k] += factor * x.re[k];
    y.im[k] += factor * x.im[k];
  }
}

const add = (x, y, factor = 1) => (
  tensor(x.shape, (k) => [x.re[k] + factor * y.re[k], x.im[k] + factor * y.im[k]]));
const sum = (xs) => xs.reduce((x, y) => add(x, y));
const times = (x, y) => tensor(x.shape, (k) => (
  [x.re[k] * y.re[k] - x.im[k] * y.im[k], x.re[k] * y.im[k] + x.im[k] * y.re[k]]));
const conj = (x) => tensor(x.shape, (k) => [x.re[k], -x.im[k]]);
const realPart = (x) => tensor(x.shape, (k) => [x.re[k]]);
const imaginaryPart = (x) => tensor(x.shape, (k) => [x.im[k]]);
// f of real tensors, entry by entry.
const each = (f, ...xs) => tensor(xs[0].shape, (k) => [f(...xs.map((x) => x.re[k]))]);
const sumSquares = (x) => x.re.reduce((s, re, k) => s + re ** 2 + x.im[k] ** 2, 0);

function matmul(A, X) {
  const [P, Q] = A.shape, R = X.shape[1], Y = zeros([P, R]);
  for (let p = 0; p < P; p++) {
    for (let q = 0; q < Q; q++) {
      const re = A.re[p * Q + q], im = A.im[p * Q + q];
      for (let r = 0; r < R; r++) {
        const xr = X.re[q * R + r], xi = X.im[q * R + r];
        Y.re[p * R + r] += re * xr - im * xi;
        Y.im[p * R + r] += re * xi + im * xr;
      }
    }
  }
  return Y;
}

// A^H, the conjugate transpose.
function adjoint(A) {
  const [P, Q] = A.shape, from = (k) => (k % P) * Q + Math.floor(k / P);
  return tensor([Q, P], (k) => [A.re[from(k)], -A.im[from(k)]]);
}

const identity = (n) => tensor([n, n], (k) => [k % (n + 1) === 0 ? 1 : 0]);

// (N) to (N, B), the same for all sequences; its way back is the sum over the sequences.
const columns = (x, B) => tensor([x.shape[0], B], (k) => (
  [x.re[Math.floor(k / B)], x.im[Math.floor(k / B)]]));

const sumColumns = (dy) => reshape(matmul(dy, tensor([dy.shape[1], 1], () => [1])), [dy.shape[0]]);

// (N, B) complex to (2N, B) real, real parts first, and back. As a complex gradient holds the
// gradients of both parts, each of the two is the backward pass of the other.
const toReal = ({ shape: [N, B], re, im }) => tensor([2 * N, B], (k) => (
  [k < N * B ? re[k] : im[k - N * B]]));

const toComplex = ({ shape: [N, B], re }) => tensor([N / 2, B], (k) => [re[k], re[k + N / 2 * B]]);

// ---- Linear maps: Kronecker products, and the other recurrent matrices --------------------------

function chain(maps, x) {
  const backs = [];
  maps.forEach((map, k) => { [x, backs[k]] = map(x); });
  return [x, (dy) => backs.reduceRight((d, back) => back(d), dy)];
}

// (left, Q, right) to (left, P, right): W on the middle index.
function contract(W, dW, x, left) {
  const xs = split(reshape(x, [left, W.shape[1], x.re.length / (left * W.shape[1])]));
  const y = stack(xs.map((part) => matmul(W, part)));
  const back = (dy) => {
    const dx = split(reshape(dy, y.shape)).map((d, l) => {
      addTo(dW, matmul(d, adjoint(xs[l])));
      return matmul(adjoint(W), d);
    });
    return reshape(stack(dx), x.shape);
  };
  return [y, back];
}

// (W_0 ⊗ W_1 ⊗ …) x, one factor after the other, never the whole matrix: at its turn, factor f
// finds (P_0 … P_{f-1}, Q_f, Q_{f+1} … B).
function kronecker(pairs, x) {
  const left = (f) => size(pairs.slice(0, f).map(([W]) => W.shape[0]));
  const [y, back] = chain(pairs.map(([W, dW], f) => (x) => contract(W, dW, x, left(f))), x);
  return [reshape(y, [left(pairs.length), x.shape[1]]), back];
}

// A matrix is a Kronecker product of one factor.
const multiply = (W, dW, x) => kronecker([[W, dW]], x);

// y = exp(e) x, with complex e (N); `backExponent` takes its gradient, Σ dy conj(y), on to what e
// is made of.
function scale(e, backExponent, x) {
  const B = x.shape[1], lambda = tensor(e.shape, (k) => (
    [Math.exp(e.re[k]) * Math.cos(e.im[k]), Math.exp(e.re[k]) * Math.sin(e.im[k])]));
  const y = times(columns(lambda, B), x);
  const back = (dy) => {
    backExponent(sumColumns(times(dy, conj(y))));
    return times(columns(conj(lambda), B), dy);
  };
  return [y, back];
}

// exp(i φ) x
const rotate = (phi, dPhi, x) => scale(
  tensor(phi.shape, (k) => [0, phi.re[k]]), (de) => addTo(dPhi, imaginaryPart(de)), x);

// exp(-exp(ν) + i exp(θ)) x
function diagonal(nu, dNu, theta, dTheta, x) {
  const e = tensor(nu.shape, (k) => [-Math.exp(nu.re[k]), Math.exp(theta.re[k])]);
  const backExponent = (de) => {
    addTo(dNu, times(realPart(de), realPart(e)));
    addTo(dTheta, times(imaginaryPart(de), imaginaryPart(e)));
  };
  return scale(e, backExponent, x);
}

// R x = x - (2/s) v c, with s = ‖v‖² and c = v^H x, one number for each sequence.
function reflect(v, dv, x) {
  const column = reshape(v, [v.shape[0], 1]), s = sumSquares(v), c = matmul(adjoint(column), x);
  const back = (dy) => {
    const a = matmul(adjoint(column), dy);
    // v enters three times: as v, in c, and in s.
    addTo(dv, matmul(dy, adjoint(c)), -2 / s);
    addTo(dv, matmul(x, adjoint(a)), -2 / s);
    addTo(dv, v, 4 / s ** 2 * matmul(a, adjoint(c)).re[0]);
    return add(dy, matmul(column, a), -2 / s);  // R^H = R
  };
  return [add(x, matmul(column, c), -2 / s), back];
}

const constant = (A) => (x) => [matmul(A, x), (dy) => matmul(adjoint(A), dy)];

// W = D_2 R_1 F^-1 D_1 Π R_0 F D_0, the rightmost first.
function restricted(permutation, phases, dPhases, reflections, dReflections, x) {
  const n = permutation.length, angle = (k) => -2 * Math.PI / n * Math.floor(k / n) * (k % n);
  const F = tensor([n, n], (k) => [Math.cos(angle(k)), Math.sin(angle(k))].map(
    (part) => part / Math.sqrt(n)));
  const Pi = tensor([n, n], (k) => [k % n === permutation[Math.floor(k / n)] ? 1 : 0]);
  const D = (k) => (x) => rotate(piece(phases, k, [n]), piece(dPhases, k, [n]), x);
  const R = (k) => (x) => reflect(piece(reflections, k, [n]), piece(dReflections, k, [n]), x);
  const inverseF = constant(adjoint(F));
  return chain([D(0), constant(F), R(0), constant(Pi), D(1), inverseF, R(1), D(2)], x);
}

// W x for the recurrent matrix of this name, after the settings s of its cell.
function recurrent(s, p, dp, name, x) {
  const pair = (key) => [p[`${name}.${key}`], dp[`${name}.${key}`]];
  if (s.matrix === 'kronecker') return kronecker(s.factors.map((_, f) => pair(f)), x);
  if (s.matrix === 'diagonal') return diagonal(...pair('nu'), ...pair('theta'), x);
  if (s.matrix !== 'restricted') return multiply(p[name], dp[name], x);  // dense, full
  const W = (z) => restricted(s.permutation, ...pair('phases'), ...pair('reflections'), z);
  if (s.dtype === 'complex128') return W(x);
  const [y, back] = W(toComplex(x));
  return [toReal(y), (dy) => toReal(back(toComplex(dy)))];
}

// ---- Cells -------------------------------------------------------------------------------------
// One step takes the state, [h] or [h, c], and a = U x_t. It returns the next state and a function
// from the gradient of that to the gradients of the state and of a.

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

// max(|z| + b, 0) z/|z|: z + b u with u = z/|z| where it is open. The vectors never meet z = 0.
function modrelu(z, b, db) {
  const m = tensor(z.shape, (k) => [Math.hypot(z.re[k], z.im[k])]), bs = columns(b, z.shape[1]);
  const open = each((m, b) => (m + b > 0 ? 1 : 0), m, bs), u = times(each((m) => 1 / m, m), z);
  const ratio = each((open, m, b) => open * b / m, open, m, bs), gain = add(open, ratio);
  const back = (dh) => {
    const along = realPart(times(conj(u), dh));
    addTo(db, sumColumns(times(open, along)));
    return add(times(gain, dh), times(times(ratio, along), u), -1);  // u turns only across itself
  };
  return [times(gain, z), back];
}

// h = f(z + b), and f' written in h. Only the identity is for complex states.
const activations = {
  tanh: [Math.tanh, (h) => 1 - h * h],
  relu: [(z) => Math.max(z, 0), (h) => (h > 0 ? 1 : 0)],
  identity: [(z) => z, () => 1],
};

function activate([f, slope], z, b, db) {
  const zb = add(z, columns(b, z.shape[1]));
  const h = tensor(z.shape, (k) => [f(zb.re[k]), zb.im[k]]);
  const back = (dh) => {
    const dz = tensor(z.shape, (k) => [slope(h.re[k]) * dh.re[k], dh.im[k]]);
    addTo(db, sumColumns(realPart(dz)));  // b is real: it moves only the real parts
    return dz;
  };
  return [h, back];
}

function rnn(s, p, dp, [h], a) {
  const [Wh, backW] = recurrent(s, p, dp, 'W', h), z = add(Wh, a);
  const [next, backActivation] = s.activation === 'modrelu'
    ? modrelu(z, p.b, dp.b) : activate(activations[s.activation], z, p.b, dp.b);
  const back = ([dh]) => {
    const dz = backActivation(dh);
    return [[backW(dz)], dz];
  };
  return [[next], back];
}

function lstm(s, p, dp, [h, c], a) {
  const products = ['i', 'f', 'g', 'o'].map((gate) => recurrent(s, p, dp, `W.${gate}`, h));
  const z = add(a, columns(p.b, h.shape[1]));
  const [i, f, g, o] = products.map(([Wh], k) => (
    each(k === 2 ? Math.tanh : sigmoid, add(piece(z, k, h.shape), Wh))));
  const cNext = each((i, f, g, c) => f * c + i * g, i, f, g, c), tanhC = each(Math.tanh, cNext);
  const back = ([dh, dcNext]) => {
    const d = each((dc, dh, o, y) => dc + dh * o * (1 - y * y), dcNext, dh, o, tanhC);  // of c_t
    const dzs = [
      each((d, i, g) => d * g * i * (1 - i), d, i, g),
      each((d, f, c) => d * c * f * (1 - f), d, f, c),
      each((d, i, g) => d * i * (1 - g * g), d, i, g),
      each((dh, o, y) => dh * y * o * (1 - o), dh, o, tanhC),
    ];
    const dz = reshape(stack(dzs), a.shape);
    addTo(dp.b, sumColumns(dz));
    const dhLast = sum(products.map(([, backW], k) => backW(dzs[k])));
    return [[dhLast, times(d, f)], dz];
  };
  return [[times(o, tanhC), cNext], back];
}

function gru(s, p, dp, [h], a) {
  const products = ['r', 'z', 'n'].map((gate) => recurrent(s, p, dp, `W.${gate}`, h));
  const B = h.shape[1], ab = add(a, columns(p.b, B));
  const [r, z] = [0, 1].map((k) => each(sigmoid, add(piece(ab, k, h.shape), products[k][0])));
  const m = add(products[2][0], columns(p.b_h, B));  // what r gates
  const n = each((a, r, m) => Math.tanh(a + r * m), piece(ab, 2, h.shape), r, m);
  const back = ([dh]) => {
    const dn = each((dh, z, n) => dh * (1 - z) * (1 - n * n), dh, z, n), dm = times(dn, r);
    const dz = each((dh, h, n, z) => dh * (h - n) * z * (1 - z), dh, h, n, z);
    const dr = each((dn, m, r) => dn * m * r * (1 - r), dn, m, r);
    const da = reshape(stack([dr, dz, dn]), a.shape);
    addTo(dp.b, sumColumns(da));
    addTo(dp.b_h, sumColumns(dm));
    const throughW = [dr, dz, dm].map((d, k) => products[k][1](d));
    return [[sum([times(dh, z), ...throughW])], da];
  };
  return [[each((z, n, h) => (1 - z) * n + z * h, z, n, h)], back];
}

function lru(s, p, dp, [h], a) {
  const [Wh, backW] = recurrent(s, p, dp, 'W', h);
  const [scaled, backScale] = scale(p.gamma, (de) => addTo(dp.gamma, realPart(de)), a);
  return [[add(Wh, scaled)], ([dh]) => [[backW(dh)], backScale(dh)]];
}

const steps = { rnn, lstm, gru, lru };

// A cell over all steps: T inputs (D, B) to T states (N, B).
function unroll(s, p, dp, xs) {
  const initial = s.cell === 'lstm' ? ['h0', 'c0'] : ['h0'], hs = [], backs = [];
  let state = initial.map((name) => columns(p[name], xs[0].shape[1]));
  for (const x of xs) {
    const [a, backU] = multiply(p.U, dp.U, x);
    const [next, backStep] = steps[s.cell](s, p, dp, state, a);
    hs.push(next[0]);
    backs.push([backU, backStep]);
    state = next;
  }
  const back = (dhs) => {
    const dxs = [];
    let dState = state.map((x) => zeros(x.shape));
    for (let t = xs.length - 1; t >= 0; t--) {
      const [backU, backStep] = backs[t], [dh, ...dc] = dState;
      const [dPrevious, da] = backStep([add(dh, dhs[t]), ...dc]);  // h_t is read above and at t + 1
      dxs[t] = backU(da);
      dState = dPrevious;
    }
    initial.forEach((name, k) => addTo(dp[name], sumColumns(dState[k])));
    return dxs;
  };
  return [hs, back];
}

// ---- Losses: of the logits y (M) of one step and sequence, value and gradient -------------------

const losses = {
  softmax(y, [target]) {
    const top = Math.max(...y), exps = y.map((v) => Math.exp(v - top));
    const total = exps.reduce((s, e) => s + e);
    return [Math.log(total) + top - y[target],
      exps.map((e, m) => e / total - (m === target ? 1 : 0))];
  },
  squared(y, target) {
    const errors = y.map((v, m) => v - target[m]);
    return [errors.reduce((s, e) => s + e * e / y.length, 0), errors.map((e) => 2 * e / y.length)];
  },
  bernoulli(y, target) {
    const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
    return [y.reduce((s, v, m) => s + softplus(v) - target[m] * v, 0),
      y.map((v, m) => sigmoid(v) - target[m])];
  },
};

function averageLoss(kind, logits, targets, mask) {
  const [T, M, B] = logits.shape, dLogits = zeros([T, M, B]);
  const weights = mask ? mask.re : new Float64Array(T * B).fill(1);
  const total = weights.reduce((s, w) => s + w);
  let loss = 0;
  weights.forEach((w, k) => {
    const at = (n, m) => (Math.floor(k / B) * n + m) * B + k % B;  // in an array (T, n, B)
    const column = (x, n) => Array.from({ length: n }, (_, m) => x.re[at(n, m)]);
    const target = column(targets, kind === 'softmax' ? 1 : M);
    const [value, gradient] = losses[kind](column(logits, M), target);
    loss += w / total * value;
    gradient.forEach((d, m) => { dLogits.re[at(M, m)] = w / total * d; });
  });
  return [loss, dLogits];
}

// ‖A^H A - I‖²_F, and its gradient 4 A (A^H A - I).
function penalty(A, dA, factor) {
  const G = add(matmul(adjoint(A), A), identity(A.shape[1]), -1);
  addTo(dA, matmul(A, G), 4 * factor);
  return factor * sumSquares(G);
}

// ---- The kinds of case: settings s, parameters p and inputs to outputs and gradients ------------

const mapObject = (x, f) => Object.fromEntries(Object.entries(x).map(([k, v]) => [k, f(v, k)]));
const gradientsOf = (p) => mapObject(p, (x) => zeros(x.shape));

function product(s, p, { x, dy }) {
  const dp = gradientsOf(p);
  const [y, back] = kronecker(s.factors.map((_, f) => [p[`W.${f}`], dp[`W.${f}`]]), x);
  return [{ y }, { ...dp, x: back(dy) }];
}

const cellName = (s, l) => (s.cells.length > 1 ? `cell.${l}` : 'cell');

// The parameters of one cell by their names in it. The tensors are the same: dp fills through it.
const within = (p, cell) => Object.fromEntries(Object.entries(p).filter(
  ([name]) => name.startsWith(`${cell}.`)).map(([name, x]) => [name.slice(cell.length + 1), x]));

function network(s, p, inputs) {
  const dp = gradientsOf(p), outputs = {}, backs = [];
  const B = inputs.x.shape.at(-1), D = s.cells[0].input_size;
  let xs = split(inputs.x), loss = 0;
  if (s.one_hot) {
    xs = xs.map((d) => tensor([D, B], (k) => [d.re[k % B] === Math.floor(k / B) ? 1 : 0]));
  }
  s.cells.forEach((cell, l) => {
    const name = cellName(s, l), [q, dq] = [within(p, name), within(dp, name)];
    const [hs, back] = unroll(cell, q, dq, xs), isComplex = cell.dtype === 'complex128';
    outputs[`${name}.h`] = stack(hs);
    xs = isComplex ? hs.map(toReal) : hs;
    backs.push((dhs) => back(isComplex ? dhs.map(toComplex) : dhs));
    if (['kronecker', 'dense'].includes(cell.matrix)) {
      const arrays = Object.keys(q).filter((key) => key.startsWith('W'));
      for (const key of arrays) loss += penalty(q[key], dq[key], s.penalty);
    }
  });

  const first = s.last_only ? xs.length - 1 : 0;
  const readouts = xs.slice(first).map((x) => multiply(p['readout.V'], dp['readout.V'], x));
  outputs.logits = stack(readouts.map(([Vh]) => add(Vh, columns(p['readout.c'], B))));
  const [average, dLogits] = averageLoss(s.loss, outputs.logits, inputs.targets, inputs.mask);
  outputs.loss = tensor([], () => [loss + average]);

  const unread = xs.slice(0, first).map((x) => zeros(x.shape));
  const read = split(dLogits).map((dy, t) => {
    addTo(dp['readout.c'], sumColumns(dy));
    return readouts[t][1](dy);
  });
  backs.reduceRight((d, back) => back(d), [...unread, ...read]);
  return [outputs, dp];
}

// What is subtracted from a parameter, but for the rate. As real and imaginary parts have squares
// of their own, each rule is one of real numbers; `kept` begins with zeros.
const rules = {
  sgd(o, g, kept) {
    kept.m = o.momentum * kept.m + g;
    return kept.m;
  },
  rmsprop(o, g, kept) {
    kept.v = o.decay * kept.v + (1 - o.decay) * g * g;
    return g / (Math.sqrt(kept.v) + o.epsilon);
  },
  adam(o, g, kept, k) {
    kept.m = o.beta1 * kept.m + (1 - o.beta1) * g;
    kept.v = o.beta2 * kept.v + (1 - o.beta2) * g * g;
    const m = kept.m / (1 - o.beta1 ** (k + 1)), v = kept.v / (1 - o.beta2 ** (k + 1));
    return m / (Math.sqrt(v) + o.epsilon);
  },
};

// A^-1 X by Gauss-Jordan elimination in the rows of A and X. It needs no pivoting: A is the
// identity plus a skew-Hermitian matrix, so that none of its leading minors vanishes.
function solve(A, X) {
  const [n, R] = X.shape, As = split(reshape(A, [n, 1, n])), Xs = split(reshape(X, [n, 1, R]));
  for (let k = 0; k < n; k++) {
    const column = As.map((row) => piece(row, k, [1, 1])), square = sumSquares(column[k]);
    const inverse = add(zeros([1, 1]), conj(column[k]), 1 / square);
    for (const rows of [As, Xs]) {
      const pivot = matmul(inverse, rows[k]);
      rows.forEach((row, j) => {
        rows[j] = j === k ? pivot : add(row, matmul(column[j], pivot), -1);
      });
    }
  }
  return reshape(stack(Xs), X.shape);
}

// (I + rate/2 A)^-1 (I - rate/2 A) W with A = G W^H - W G^H: W stays unitary.
function cayley(W, G, rate) {
  const A = add(matmul(G, adjoint(W)), matmul(W, adjoint(G)), -1), I = identity(W.shape[0]);
  return solve(add(I, A, rate / 2), matmul(add(I, A, -rate / 2), W));
}

function training(s, p, inputs) {
  const o = s.optimizer, updates = [];
  const kept = mapObject(p, (x) => Array.from(x.re, () => [{ m: 0, v: 0 }, { m: 0, v: 0 }]));
  for (let k = 0; k < s.updates; k++) {
    const [{ loss }, dp] = network(s, p, mapObject(inputs, (x) => split(x)[k]));
    const norm = Math.sqrt(Object.values(dp).reduce((square, g) => square + sumSquares(g), 0));
    const clip = norm > o.max_norm ? o.max_norm / norm : 1;
    p = mapObject(p, (x, name) => {
      const move = (g, memory) => rules[o.rule](o, clip * g, memory, k);
      const G = tensor(x.shape, (j) => [
        move(dp[name].re[j], kept[name][j][0]), move(dp[name].im[j], kept[name][j][1])]);
      const cell = s.cells.find((_, l) => name.startsWith(`${cellName(s, l)}.W`));
      if (cell?.matrix === 'full') return cayley(x, G, o.recurrent_rate);
      return add(x, G, -(cell ? o.recurrent_rate : o.rate));
    });
    const after = Object.entries(p).map(([name, x]) => [`after/${name}`, x]);
    updates.push([{ loss, ...Object.fromEntries(after) }, dp]);
  }
  return [0, 1].map((i) => (
    mapObject(updates[0][i], (_, name) => stack(updates.map((update) => update[i][name])))));
}

// ---- Files: NPY arrays in ZIP archives (on a little-endian machine, as all usual ones are) ------

function decodeNPY(bytes) {
  const start = 10 + bytes.readUInt16LE(8), header = bytes.toString('latin1', 10, start);
  const descr = /'descr': '(.*?)'/.exec(header)[1];
  const shape = /'shape': \((.*?)\)/.exec(header)[1].split(',').filter((n) => n.trim()).map(Number);
  const aligned = new Uint8Array(bytes.subarray(start)).buffer;
  if (descr === '<i8') {
    const integers = new BigInt64Array(aligned);
    return tensor(shape, (k) => [Number(integers[k])]);
  }
  const numbers = new Float64Array(aligned);
  return tensor(shape, (k) => (
    descr === '<c16' ? [numbers[2 * k], numbers[2 * k + 1]] : [numbers[k]]));
}

function encodeNPY({ shape, re, im }, dtype) {
  const descr = dtype === 'float64' ? '<f8' : '<c16';
  const tuple = shape.length === 1 ? `(${shape},)` : `(${shape.join(', ')})`;
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const length = 64 * Math.ceil((header.length + 11) / 64) - 10;  // so that numbers are aligned
  const prefix = Buffer.from('\x93NUMPY\x01\x00\x00\x00', 'latin1');
  prefix.writeUInt16LE(length, 8);
  const numbers = Float64Array.from(descr === '<f8' ? re : [...re].flatMap((v, k) => [v, im[k]]));
  return Buffer.concat(
    [prefix, Buffer.from(header.padEnd(length - 1) + '\n'), new Uint8Array(numbers.buffer)]);
}

function* readZIP(file) {
  const zip = fs.readFileSync(file), end = zip.lastIndexOf('PK\x05\x06');
  let at = zip.readUInt32LE(end + 16);  // the central directory
  for (let entry = 0; entry < zip.readUInt16LE(end + 10); entry++) {
    const length = zip.readUInt32LE(at + 24), local = zip.readUInt32LE(at + 42);
    const [name, extra, comment] = [28, 30, 32].map((k) => zip.readUInt16LE(at + k));
    const start = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
    yield [zip.toString('utf8', at + 46, at + 46 + name), zip.subarray(start, start + length)];
    at += 46 + name + extra + comment;
  }
}

// Little-endian integers, of as many bytes as the digits say.
function pack(digits, ...values) {
  const sizes = [...digits].map(Number), bytes = Buffer.alloc(sizes.reduce((x, y) => x + y));
  let at = 0;
  values.forEach((value, k) => { at = bytes.writeUIntLE(value, at, sizes[k]); });
  return bytes;
}

function writeZIP(file, members) {
  const locals = [], centrals = [];
  let offset = 0;
  for (const [name, data] of members) {
    // Version 2.0, no flags, stored, 1980-01-01.
    const fields = pack('2222244422', 20, 0, 0, 0, 0x21,
      zlib.crc32(data), data.length, data.length, name.length, 0);
    locals.push(Buffer.concat([pack('4', 0x04034b50), fields, Buffer.from(name), data]));
    centrals.push(pack('42', 0x02014b50, 20), fields,
      pack('22244', 0, 0, 0, 0, offset), Buffer.from(name));
    offset += locals.at(-1).length;
  }
  const central = Buffer.concat(centrals), n = members.length;
  const end = pack('42222442', 0x06054b50, 0, 0, n, n, central.length, offset, 0);
  fs.writeFileSync(file, Buffer.concat([...locals, central, end]));
}

// ---- All cases ---------------------------------------------------------------------------------

const [vectors, results] = process.argv.slice(2);
const { cases } = JSON.parse(fs.readFileSync(path.join(vectors, 'index.json'), 'utf8'));
fs.mkdirSync(results, { recursive: true });
for (const { file, settings, arrays } of cases) {
  const given = { params: {}, inputs: {} };  // the solution in the file is left unread
  for (const [member, bytes] of readZIP(path.join(vectors, file))) {
    const [, group, name] = /^(\w+)\/(.*)\.npy$/.exec(member);
    if (group in given) given[group][name] = decodeNPY(bytes);
  }
  const compute = { product, network, training }[settings.kind];
  const [outputs, grads] = compute(settings, given.params, given.inputs);
  const members = Object.entries({ outputs, grads }).flatMap(([group, tensors]) => (
    Object.entries(tensors).map(([name, x]) => (
      [`${group}/${name}.npy`, encodeNPY(x, arrays[`${group}/${name}`].dtype)]))));
  writeZIP(path.join(results, file), members);
}
