"use strict";

// What the three figures share: elements, numbers as text, and whether things may move by
// themselves.
const drawing = (() => {
  const NAMESPACE = "http://www.w3.org/2000/svg";

  function filled(element, attributes, parent) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else element.setAttribute(name, value);
    }
    if (parent) parent.append(element);
    return element;
  }

  // Both make an element; the attribute "text" is what stands in it.
  const html = (tag, attributes = {}, parent = null) =>
    filled(document.createElement(tag), attributes, parent);
  const svg = (tag, attributes = {}, parent = null) =>
    filled(document.createElementNS(NAMESPACE, tag), attributes, parent);
  const change = (element, attributes) => filled(element, attributes, null);

  function button(text, parent, onClick) {
    const made = html("button", { type: "button", text }, parent);
    made.addEventListener("click", onClick);
    return made;
  }

  // A label with something to choose or move in it.
  function labelled(text, control, parent) {
    const label = html("label", { text: `${text} ` }, parent);
    label.append(control);
    return control;
  }

  function select(options, parent, text, onChange) {
    const made = html("select");
    for (const [value, shown] of options) html("option", { value, text: shown }, made);
    made.addEventListener("change", () => onChange(made.value));
    return labelled(text, made, parent);
  }

  function slider({ min, max, step, value }, parent, text, onInput) {
    const made = html("input", { type: "range", min, max, step, value });
    made.addEventListener("input", () => onInput(Number(made.value)));
    return labelled(text, made, parent);
  }

  const counted = (n) => n.toLocaleString("en"); // 4,096

  const raised = (n) =>
    [...String(n)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("");

  // A number given by its logarithm to base 10, for it may be too small or too large itself.
  function fromLog(log) {
    if (Math.abs(log) < 3) return String(Number((10 ** log).toPrecision(3)));
    let exponent = Math.floor(log);
    let mantissa = (10 ** (log - exponent)).toPrecision(2);
    if (mantissa === "10") [mantissa, exponent] = ["1.0", exponent + 1];
    return `${mantissa}·10${raised(exponent)}`;
  }

  // Numbers that are read beside each other.
  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");

  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // Calls step at once and every so many milliseconds until it returns false. Who asked for less
  // motion is not offered it.
  function player(parent, milliseconds, step) {
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      made.textContent = "Play";
    };
    const tick = () => {
      if (!step()) stop();
    };
    const made = button("Play", parent, () => {
      if (timer !== null) return stop();
      made.textContent = "Pause";
      timer = setInterval(tick, milliseconds);
      tick();
    });
    const offer = () => {
      made.hidden = still.matches;
      if (still.matches) stop();
    };
    still.addEventListener("change", offer);
    offer();
    return stop;
  }

  // Keys that a figure uses must not turn the page as well, which the site's arrow keys do.
  function keys(element, actions) {
    element.addEventListener("keydown", (event) => {
      const action = actions[event.key];
      if (!action || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      action(event);
    });
  }

  // Where a pointer is, in the coordinates of the svg element.
  function position(event, element) {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      element.getScreenCTM().inverse(),
    );
    return [x, y];
  }

  return {
    html, svg, change, button, select, slider, counted, fixed, raised, fromLog, still, player, keys,
    position,
  };
})();
