"use strict";

// How the norm of a gradient changes over T steps back: formulas that move, and recorded draws.
{
  const { html, svg, change, slider, raised, fromLog, counted } = drawing;
  const { steps, every, factors, radius, curves, epsilons, nearly } = NUMBERS.gradientNorms;
  const LIMIT = 30; // the vertical axis goes from 10^-30 to 10^30
  const [LEFT, RIGHT, TOP, BOTTOM] = [46, 350, 8, 232];

  const across = (k) => LEFT + (k / steps) * (RIGHT - LEFT);
  const height = (log) => TOP + ((LIMIT - log) / (2 * LIMIT)) * (BOTTOM - TOP);
  const path = (logs, step) =>
    `M ${logs.map((log, i) => `${across(i * step)} ${height(log)}`).join(" L ")}`;

  function plot(parent, name) {
    const panel = svg("svg", { viewBox: "0 0 360 272", role: "img" }, parent);
    const clip = svg("clipPath", { id: `clip-${name}` }, panel);
    svg("rect", { x: LEFT, y: TOP, width: RIGHT - LEFT, height: BOTTOM - TOP }, clip);
    for (let log = -LIMIT; log <= LIMIT; log += 10) {
      const y = height(log);
      svg("line", { x1: LEFT, x2: RIGHT, y1: y, y2: y, class: "axis" }, panel);
      const text = log ? `10${raised(log)}` : "1";
      svg("text", { x: LEFT - 5, y: y + 4, class: "tick end", text }, panel);
    }
    for (let k = 0; k <= steps; k += steps / 4) {
      svg("line", { x1: across(k), x2: across(k), y1: TOP, y2: BOTTOM, class: "axis" }, panel);
      svg("text", { x: across(k), y: BOTTOM + 16, class: "tick", text: k }, panel);
    }
    const middle = (LEFT + RIGHT) / 2;
    svg("text", { x: middle, y: BOTTOM + 34, class: "tick", text: "steps back in time" }, panel);
    const lines = svg("g", { "clip-path": `url(#clip-${name})` }, panel);
    return { panel, line: (kind) => svg("path", { class: kind }, lines) };
  }

  // A piece of a line, for a legend.
  function sample(kind) {
    const piece = svg("svg", { viewBox: "0 0 30 8", class: "sample", "aria-hidden": "true" });
    const d = kind === "bounds" ? "M 0 0 H 30 V 8 H 0 Z" : "M 0 4 H 30";
    svg("path", { class: kind, d }, piece);
    return piece;
  }

  const row = html("div", { class: "panels" }, document.querySelector("#gradient-norm .drawing"));

  // ---- One matrix again and again: the spectral radius ---------------------------------------

  {
    const side = html("div", {}, row);
    html("p", { class: "heading", text: "The spectral radius ρ" }, side);
    const controls = html("div", { class: "controls" }, side);
    const said = html("output", {}, side);
    const { panel, line } = plot(side, "radius");
    const [power, gaussian] = [line("formula"), line("draw")];
    const legend = html("div", { class: "legend" }, side);
    for (const [kind, text] of [
      ["formula", "ρ to the power k, after k steps"],
      ["draw", "a Gaussian matrix, scaled to the spectral radius ρ"],
    ]) html("div", {}, legend).append(sample(kind), text);

    // ρ W / radius has the spectral radius ρ, and k steps of it scale what k steps of W do.
    const scaled = (rho) =>
      curves.Gaussian.map((log, i) => log + i * every * Math.log10(rho / radius));

    function show(rho) {
      const end = steps * Math.log10(rho);
      const drawn = scaled(rho);
      change(power, { d: path([0, end], steps) });
      change(gaussian, { d: path(drawn, every) });
      said.textContent =
        `ρ = ${rho.toFixed(3)}. After ${counted(steps)} steps: ρ to that power ${fromLog(end)}, ` +
        `the Gaussian matrix ${fromLog(drawn.at(-1))}.`;
      change(panel, { "aria-label": `Norm of the gradient, logarithmic. ${said.textContent}` });
      change(input, { "aria-valuetext": rho.toFixed(3) });
    }
    const range = { min: 0.94, max: 1.06, step: 0.001, value: 0.98 };
    const input = slider(range, controls, "ρ", show);

    Object.entries(curves).forEach(([name, logs], i) => {
      const drawn = line(`recorded style-${i}`);
      change(drawn, { d: path(logs, every) });
      const box = html("input", { type: "checkbox" });
      const as = name === "Gaussian" ? `Gaussian as drawn, ρ = ${radius.toFixed(3)}` : name;
      const label = html("label", {}, legend);
      label.append(box, sample(`recorded style-${i}`), `${as}: ${fromLog(logs.at(-1))}`);
      const toggle = () => drawn.classList.toggle("hidden", !box.checked);
      box.checked = name.startsWith("tanh, orth") || name.startsWith("modReLU");
      box.addEventListener("change", toggle);
      toggle();
    });
    show(range.value);
  }

  // ---- A Kronecker product of nearly unitary factors: the distance ε --------------------------

  {
    const side = html("div", {}, row);
    html("p", { class: "heading", text: "The distance ε from unitary" }, side);
    const controls = html("div", { class: "controls" }, side);
    const said = html("output", {}, side);
    const { panel, line } = plot(side, "distance");
    const [bounds, ...draws] = [line("bounds"), ...nearly[0].map(() => line("draw"))];
    const legend = html("div", { class: "legend" }, side);
    const exponent = () => html("sup", { text: `${factors}k` });
    const between = html("span");
    between.append(
      "between (1 − ε)", exponent(), " and (1 + ε)", exponent(), " after k steps");
    html("div", {}, legend).append(sample("bounds"), between);
    html("div", {}, legend).append(
      sample("draw"), `${draws.length} draws of ${factors} factors with singular values 1 ± ε`);

    function show(index) {
      const epsilon = epsilons[index];
      const ends = [1 - epsilon, 1 + epsilon].map((s) => factors * steps * Math.log10(s));
      // the two bounds are straight lines from the point (0 steps, 1)
      const corners = [[steps, ends[0]], [0, 0], [steps, ends[1]]];
      change(bounds, {
        d: `M ${corners.map(([k, log]) => `${across(k)} ${height(log)}`).join(" L ")} Z`,
      });
      draws.forEach((draw, i) => change(draw, { d: path(nearly[index][i], every) }));
      const shown = fromLog(Math.log10(epsilon));
      said.textContent =
        `ε = ${shown}. After ${counted(steps)} steps: bounds ` +
        `${ends.map(fromLog).join(" and ")}; draws ` +
        `${nearly[index].map((logs) => fromLog(logs.at(-1))).join(", ")}.`;
      change(panel, { "aria-label": `Norm of the gradient, logarithmic. ${said.textContent}` });
      change(input, { "aria-valuetext": shown });
    }
    const range = { min: 0, max: epsilons.length - 1, step: 1, value: epsilons.length - 8 };
    const input = slider(range, controls, "ε", show);
    show(range.value);
  }
}
