"use strict";

// Eigenvalues of unitary factors, dragged along the unit circle, and those of their product.
{
  const { html, svg, change, button, select, still, keys, position } = drawing;
  const DEGREE = Math.PI / 180;
  const RADIUS = 40; // of a factor's circle
  const LARGE = 100; // of the product's

  const figure = document.querySelector("#eigenvalues .drawing");
  const controls = html("div", { class: "controls" }, figure);
  const said = html("output", {}, figure);
  const row = html("div", { class: "panels" }, figure);
  const factorsPanel = html("div", { class: "factors" }, row);
  const product = svg(
    "svg", { viewBox: "-125 -125 250 250", class: "product", role: "img" }, row);

  let phases = []; // phases[f] are the two of factor f, in radians
  let points = []; // points[f][j] is the element of that eigenvalue
  let follow = []; // of the product
  let draws = 0; // how often "random" was pressed
  let gliding = 0; // the frame that was asked for last

  const given = () => NUMBERS.eigenvalues[phases.length];
  const at = (phase, radius) => ({ cx: radius * Math.cos(phase), cy: -radius * Math.sin(phase) });
  const turn = (phase) => phase - 2 * Math.PI * Math.round(phase / (2 * Math.PI)); // into [-π, π]

  // All sums of one phase of each factor; the last factor's digit runs fastest.
  const sums = () =>
    phases.reduce((all, own) => all.flatMap((a) => own.map((b) => a + b)), [0]);

  function largestGap(all) {
    const sorted = all.map(turn).sort((a, b) => a - b);
    const gaps = sorted.map((from, k) =>
      [(k + 1 < sorted.length ? sorted[k + 1] : sorted[0] + 2 * Math.PI) - from, from]);
    return gaps.reduce((most, gap) => (gap[0] > most[0] ? gap : most));
  }

  function arc([width, from]) {
    const radius = LARGE + 12;
    const corner = (phase) => `${radius * Math.cos(phase)} ${-radius * Math.sin(phase)}`;
    const far = width > Math.PI ? 1 : 0;
    const to = from + Math.min(width, 2 * Math.PI - 1e-3); // an arc to where it began is none
    return `M ${corner(from)} A ${radius} ${radius} 0 ${far} 0 ${corner(to)}`;
  }

  function draw() {
    points.forEach((pair, f) => pair.forEach((point, j) => {
      const degrees = (turn(phases[f][j]) / DEGREE).toFixed(1);
      point.querySelectorAll("circle").forEach((c) => change(c, at(phases[f][j], RADIUS)));
      change(point, { "aria-valuenow": degrees, "aria-valuetext": `${degrees} degrees` });
    }));
    const all = sums();
    follow.forEach((point, k) => change(point, at(all[k], LARGE)));
    const gap = largestGap(all);
    change(product.querySelector("path"), { d: arc(gap) });
    const wide = Number((gap[0] / DEGREE).toFixed(3)); // 360/64 has three digits
    said.textContent =
      `${2 * phases.length} numbers are dragged, ${all.length} follow. Largest gap ${wide}°; ` +
      `if they were equally spaced it would be ${360 / all.length}°.`;
    change(product, {
      "aria-label": `The ${all.length} eigenvalues of the product on the unit circle; the ` +
        `largest gap between neighbours is ${wide} degrees.`,
    });
  }

  // Mark those products that have eigenvalue j of factor f in them: one half.
  function mark(f, j) {
    const stride = 2 ** (phases.length - 1 - f);
    follow.forEach((point, k) =>
      point.classList.toggle("marked", f !== null && (Math.floor(k / stride) & 1) === j));
  }

  function move(f, j, phase) {
    cancelAnimationFrame(gliding);
    phases[f][j] = phase;
    draw();
  }

  // Let all points go to these phases, the shorter way round, in a third of a second.
  function glide(to) {
    cancelAnimationFrame(gliding);
    const from = phases.map((pair) => [...pair]);
    const began = performance.now();
    const frame = (now) => {
      const part = still.matches ? 1 : Math.min(1, Math.max(0, (now - began) / 333));
      phases = from.map((pair, f) => pair.map((phase, j) =>
        (part === 1 ? to[f][j] : phase + part * turn(to[f][j] - phase))));
      draw();
      if (part < 1) gliding = requestAnimationFrame(frame);
    };
    frame(began);
  }

  function handle(parent, f, j) {
    const point = svg("g", {
      class: `handle eigenvalue-${j}`, tabindex: 0, role: "slider", "aria-valuemin": -180,
      "aria-valuemax": 180, "aria-label": `Factor ${f}, eigenvalue ${j}: phase`,
    }, parent);
    svg("circle", { r: 15, class: "reach" }, point); // what a finger hits
    svg("circle", { r: 6 }, point);
    const drag = (event) => {
      const [x, y] = position(event, parent);
      move(f, j, Math.atan2(-y, x));
    };
    point.addEventListener("pointerdown", (event) => {
      point.setPointerCapture(event.pointerId);
      point.focus({ preventScroll: true });
      drag(event);
    });
    point.addEventListener("pointermove", (event) => {
      if (point.hasPointerCapture(event.pointerId)) drag(event);
    });
    // A finger on a handle does not scroll the page. (touch-action does not reach into a drawing.)
    point.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    point.addEventListener("focus", () => mark(f, j));
    point.addEventListener("blur", () => mark(null));
    const by = (degrees) => () => move(f, j, phases[f][j] + degrees * DEGREE);
    keys(point, {
      ArrowRight: by(1), ArrowUp: by(1), ArrowLeft: by(-1), ArrowDown: by(-1),
      PageUp: by(10), PageDown: by(-10), Home: () => move(f, j, 0),
    });
    return point;
  }

  function circle(parent, radius) {
    const reach = 1.1 * radius;
    svg("line", { x1: -reach, x2: reach, y1: 0, y2: 0, class: "axis" }, parent);
    svg("line", { y1: -reach, y2: reach, x1: 0, x2: 0, class: "axis" }, parent);
    svg("circle", { r: radius, class: "unit" }, parent);
  }

  function setUp(n) {
    cancelAnimationFrame(gliding);
    draws = 0;
    phases = NUMBERS.eigenvalues[n].random[0].map((pair) => [...pair]);
    factorsPanel.replaceChildren();
    factorsPanel.classList.toggle("few", n <= 4);
    product.replaceChildren();
    points = phases.map((pair, f) => {
      const panel = svg("svg", {
        viewBox: "-58 -58 116 116", role: "group", "aria-label": `Factor ${f}`,
      }, factorsPanel);
      circle(panel, RADIUS);
      svg("text", { x: 0, y: 4, class: "name", text: `W${"₀₁₂₃₄₅"[f]}` }, panel);
      return pair.map((_, j) => handle(panel, f, j));
    });
    circle(product, LARGE);
    svg("path", { class: "gap" }, product);
    follow = sums().map(() => svg("circle", { r: 4, class: "eigenvalue" }, product));
    draw();
  }

  select(
    [2, 3, 4, 5, 6].map((n) => [n, n]), controls, "Factors",
    (n) => setUp(Number(n))).value = 4;
  button("Equally spaced", controls, () => glide(given().spread));
  button("Random", controls, () => {
    draws += 1;
    glide(given().random[draws % given().random.length]);
  });
  setUp(4);
}
