"use strict";

// A Kronecker product that unfolds factor by factor, and a vector that goes through its factors.
{
  const { html, svg, change, button, select, counted, fixed, raised, player, keys, position } =
    drawing;
  const LARGEST = NUMBERS.unfolding.positive.length; // factors
  const low = "₀₁₂₃₄₅₆₇₈₉";

  const figure = document.querySelector("#unfolding .drawing");
  let factors = []; // all of them
  let n = 1; // how many are multiplied
  let marked = [0, 0]; // the row and column of the entry that is explained
  let passed = 0; // how many factors x has gone through

  // ---- The matrix ----------------------------------------------------------------------------

  const controls = html("div", { class: "controls" }, figure);
  const said = html("output", {}, figure);
  const row = html("div", { class: "panels" }, figure);
  const matrix = svg("svg", { class: "matrix", tabindex: 0, role: "application" }, row);
  const explained = html("div", { class: "explained" }, row);
  const tiles = html("div", { class: "factors" }, explained);
  const entrySaid = html("output", {}, explained);

  // The digits of a row or column, in base 2, that of the first factor first.
  const digits = (index) =>
    Array.from({ length: n }, (_, f) => (index >> (n - 1 - f)) & 1);

  function kron(A, B) {
    return A.flatMap((a) => B.map((b) => a.flatMap((x) => b.map((y) => x * y))));
  }
  const product = (count) => factors.slice(0, count).reduce(kron, [[1]]);
  const largest = (values) => Math.max(...values.flat().map(Math.abs));

  // Opaque is the largest number there is, transparent is 0; negative ones have another colour.
  function shade(rect, value, most) {
    change(rect, { "fill-opacity": Math.abs(value) / most, class: value < 0 ? "negative" : "" });
  }

  // Draws the product of n factors; each entry begins with the shade of that it came from.
  function drawMatrix() {
    const W = product(n);
    const before = n > 1 ? product(n - 1) : W;
    const apart = n > 1 ? 2 : 1;
    const size = W.length;
    matrix.replaceChildren();
    change(matrix, { viewBox: `0 0 ${size} ${size}` });
    const cells = svg("g", { class: "cells" }, matrix);
    const rects = W.map((entries, p) => entries.map((_, q) => {
      const rect = svg("rect", { x: q, y: p, width: 1, height: 1 }, cells);
      const parent = before[Math.floor(p / apart)][Math.floor(q / apart)];
      shade(rect, parent, largest(before));
      return rect;
    }));
    getComputedStyle(rects[0][0]).fillOpacity; // so that the change is seen as one
    const most = largest(W);
    rects.forEach((rects, p) => rects.forEach((rect, q) => shade(rect, W[p][q], most)));
    svg("g", { class: "blocks" }, matrix);
    said.textContent =
      `${n} ${n === 1 ? "factor" : "factors"}: ${size} × ${size}, ${counted(size * size)} ` +
      `entries from ${4 * n} numbers.`;
    back.disabled = n === 1;
    step.disabled = n === LARGEST;
    explain();
  }

  // Shows where the marked entry lies, its digits, and the product that makes it.
  function explain() {
    const [p, q] = marked;
    const [ps, qs] = [digits(p), digits(q)];
    const blocks = matrix.querySelector(".blocks");
    blocks.replaceChildren();
    for (let f = 0; f < n; f++) { // the digits of the first f factors choose a block
      const side = 2 ** (n - 1 - f);
      svg("rect", { x: q - (q % side), y: p - (p % side), width: side, height: side }, blocks);
    }
    tiles.replaceChildren(...factors.slice(0, n).map((W, f) => {
      const tile = html("div", { class: "tile" });
      html("div", { class: "name", text: `W${low[f]}` }, tile);
      W.forEach((entries, i) => entries.forEach((value, j) => {
        const used = i === ps[f] && j === qs[f] ? "used" : "";
        html("div", { class: used, text: fixed(value, 2) }, tile);
      }));
      return tile;
    }));
    const names = ps.map((digit, f) => `W${low[f]}[${digit},${qs[f]}]`);
    const values = ps.map((digit, f) => fixed(factors[f][digit][qs[f]], 2));
    const value = ps.reduce((all, digit, f) => all * factors[f][digit][qs[f]], 1);
    entrySaid.replaceChildren();
    html("div", { text: `Row ${p} has the digits ${ps.join(" ")}` }, entrySaid);
    html("div", { text: `Column ${q} has the digits ${qs.join(" ")}` }, entrySaid);
    html("div", { text: `W[${p},${q}] = ${names.join(" · ")}` }, entrySaid);
    html("div", { text: `= ${values.join(" · ")} = ` }, entrySaid).append(
      html("b", { text: fixed(value, 5) }));
    change(matrix, {
      "aria-label": `Kronecker product, ${2 ** n} by ${2 ** n}. Arrow keys choose an entry. ` +
        `Row ${p}, column ${q}: ${fixed(value, 5)}.`,
    });
  }

  function markEntry(p, q) {
    const within = (index) => Math.min(2 ** n - 1, Math.max(0, index));
    marked = [within(p), within(q)];
    explain();
  }

  // Keeps the marked entry within the block that it was, or was in.
  function setFactors(count) {
    const by = count - n;
    n = count;
    marked = marked.map((index) => (by > 0 ? index << by : index >> -by));
    drawMatrix();
    restart();
  }

  for (const kind of ["pointerdown", "pointermove"]) {
    matrix.addEventListener(kind, (event) => {
      const [x, y] = position(event, matrix);
      markEntry(Math.floor(y), Math.floor(x));
    });
  }
  const by = (down, right) => () => markEntry(marked[0] + down, marked[1] + right);
  keys(matrix, {
    ArrowUp: by(-1, 0), ArrowDown: by(1, 0), ArrowLeft: by(0, -1), ArrowRight: by(0, 1),
  });

  const sets = [["positive", "positive"], ["orthogonal", "orthogonal"]];
  select(sets, controls, "Factors", setUp);
  const back = button("Back", controls, () => {
    stopUnfolding();
    setFactors(n - 1);
  });
  const step = button("Next factor", controls, () => {
    stopUnfolding();
    setFactors(n + 1);
  });
  const stopUnfolding = player(controls, 1200, () => {
    setFactors(n < LARGEST ? n + 1 : 1);
    return n < LARGEST;
  });

  // ---- x through the factors -----------------------------------------------------------------

  const WIDTH = 340;
  const HEIGHT = 330;
  const below = html("div", { class: "below" }, figure);
  html("p", { class: "heading", text: "x goes through the factors" }, below);
  const passControls = html("div", { class: "controls" }, below);
  const passSaid = html("output", {}, below);
  const butterfly = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "butterfly", role: "img",
  }, below);

  // Applies factor f: entries whose digit f differs, and no other digit, are a pair.
  function apply(x, f) {
    const apart = 2 ** (n - 1 - f);
    return x.map((_, i) => {
      const digit = Math.floor(i / apart) & 1;
      const first = i - digit * apart;
      const [w0, w1] = factors[f][digit];
      return w0 * x[first] + w1 * x[first + apart];
    });
  }

  function drawPasses() {
    const size = 2 ** n;
    const states = [NUMBERS.unfolding.x.slice(0, size)];
    for (let f = 0; f < passed; f++) states.push(apply(states[f], f));
    const most = largest(states);
    const column = (f) => 20 + (f * (WIDTH - 40)) / n;
    const tall = (HEIGHT - 30) / size;
    const middle = (i) => 4 + (i + 0.5) * tall;
    const wide = Math.min(12, 2 * tall + 2);
    butterfly.replaceChildren();
    for (let f = 0; f < n; f++) {
      const apart = 2 ** (n - 1 - f);
      const state = f < passed - 1 ? "done" : f === passed - 1 ? "now" : "to-come";
      const edges = states[0].map((_, i) => [i, i ^ apart].map((from) =>
        `M ${column(f) + wide / 2} ${middle(from)} L ${column(f + 1) - wide / 2} ${middle(i)}`));
      svg("path", { class: state, d: edges.flat().join(" ") }, butterfly);
      const x = (column(f) + column(f + 1)) / 2;
      svg("text", { x, y: HEIGHT - 8, class: "tick", text: `W${low[f]}` }, butterfly);
    }
    for (let f = 0; f <= n; f++) {
      for (let i = 0; i < size; i++) {
        const high = Math.max(0.8 * tall, tall - 3);
        const box = {
          x: column(f) - wide / 2, y: middle(i) - high / 2, width: wide, height: high,
        };
        svg("rect", { ...box, class: "empty" }, butterfly);
        if (f < states.length) shade(svg("rect", box, butterfly), states[f][i], most);
      }
    }
    for (const [f, text] of [[0, "x"], [n, "y"]]) {
      svg("text", { x: column(f), y: HEIGHT - 8, class: "tick", text }, butterfly);
    }

    const parts = [
      `${passed} of ${n} ${n === 1 ? "factor" : "factors"}, ${counted(2 * size)} multiplications ` +
      `each: ${counted(2 * size * passed)} so far. W x, entry by entry: ${counted(size ** 2)}.`,
    ];
    if (passed === n) {
      const dense = product(n).map((entries) =>
        entries.reduce((sum, w, j) => sum + w * states[0][j], 0));
      const off = largest(dense.map((y, i) => y - states[n][i])) / largest(dense);
      const power = Math.ceil(Math.log10(off));
      parts.push(off === 0 ? "Both are equal." : `Both agree to 10${raised(power)} (relative).`);
    }
    passSaid.textContent = parts.join(" ");
    change(butterfly, {
      "aria-label": `x, of ${size} entries, after ${passed} of ${n} factors. ${parts[0]}`,
    });
    nextPass.disabled = passed === n;
    firstPass.disabled = passed === 0;
  }

  function pass(count) {
    passed = count;
    drawPasses();
  }

  const firstPass = button("Start again", passControls, () => restart());
  const nextPass = button("Next factor", passControls, () => {
    stopPassing();
    pass(passed + 1);
  });
  const stopPassing = player(passControls, 900, () => {
    pass(passed < n ? passed + 1 : 0);
    return passed < n;
  });

  function restart() {
    stopPassing();
    pass(0);
  }

  function setUp(name) {
    factors = NUMBERS.unfolding[name];
    drawMatrix();
    restart();
  }
  setUp("positive");
}
