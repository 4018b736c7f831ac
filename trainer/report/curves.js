"use strict";
// Curves over updates as SVG, with the values at the nearest update where a person points.
(() => {
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [560, 250, 52, 14, 12, 30];
const COLOURS = ["#2f6690", "#b5651d", "#4b8a5a"];
const DASHES = ["", "6 3", "2 3"]; // curves differ without colour too

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// round steps of an axis: 1, 2 or 5 times a power of ten
function ticks(most, count) {
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, n) => n * step);
}

const short = (value) => (Math.abs(value) >= 1e4 ? value.toLocaleString("en") : String(Number(value.toPrecision(3))));
const exact = (value) => String(Number(value.toPrecision(4)));

function draw(figure, box) {
  const points = figure.curves.flatMap((curve) => curve.points);
  const last = Math.max(1, ...points.map(([step]) => step));
  const highest = Math.max(...points.map(([, value, , high]) => Math.max(value, high ?? value))) || 1;
  const x = (step) => LEFT + (step / last) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / highest) * (HEIGHT - TOP - BOTTOM);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: "0", role: "img" });
  svg.append(element("title", {}, `${figure.title}, ${figure.unit}`));
  for (const value of ticks(highest, 4)) {
    svg.append(element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(element("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const step of ticks(last, 6).filter(Number.isInteger))
    svg.append(element("text", { x: x(step), y: HEIGHT - 10, "text-anchor": "middle" }, short(step)));
  for (const [n, curve] of figure.curves.entries()) {
    const band = curve.points.filter(([, , low]) => low !== undefined);
    if (band.length > 1) {
      const edge = [...band.map(([step, , low]) => [step, low]), ...band.toReversed().map(([step, , , high]) => [step, high])];
      svg.append(element("polygon", { points: edge.map(([step, value]) => `${x(step)},${y(value)}`).join(" "), fill: COLOURS[n], opacity: 0.14 }));
    }
    const line = curve.points.map(([step, value]) => `${x(step)},${y(value)}`).join(" ");
    svg.append(element("polyline", { points: line, fill: "none", stroke: COLOURS[n], "stroke-width": 1.8, "stroke-dasharray": DASHES[n], "stroke-linejoin": "round" }));
    if (curve.points.length < 40)
      for (const [step, value] of curve.points) svg.append(element("circle", { cx: x(step), cy: y(value), r: 2.6, fill: COLOURS[n] }));
  }
  const rule = element("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "rule" });
  const marks = figure.curves.map((_, n) => element("circle", { r: 4.5, fill: COLOURS[n], stroke: "#fff", "stroke-width": 1.5 }));
  svg.append(rule, ...marks);
  const told = document.createElement("figcaption");
  const steps = [...new Set(points.map(([step]) => step))].sort((a, b) => a - b);
  let at = steps.length - 1;

  // each curve's value at its own nearest update: they are not all measured at the same
  function tell(pointed) {
    const step = steps[at];
    rule.setAttribute("x1", x(step));
    rule.setAttribute("x2", x(step));
    svg.classList.toggle("pointed", pointed);
    const parts = figure.curves.map((curve, n) => {
      const [where, value, low, high] = curve.points.reduce((best, each) => (Math.abs(each[0] - step) < Math.abs(best[0] - step) ? each : best));
      marks[n].setAttribute("cx", x(where));
      marks[n].setAttribute("cy", y(value));
      const part = document.createElement("span");
      part.style.color = COLOURS[n];
      part.textContent = `${curve.name} ${exact(value)}${low === undefined ? "" : ` (${exact(low)} – ${exact(high)})`}${where === step ? "" : ` at ${where}`}`;
      return part;
    });
    told.replaceChildren(`update ${step.toLocaleString("en")} `, ...parts.flatMap((part) => [part, " "]));
  }
  const moved = (event) => {
    const frame = svg.getBoundingClientRect();
    const step = (((event.clientX - frame.left) / frame.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * last;
    at = steps.reduce((best, each, n) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? n : best), 0);
    tell(true);
  };
  svg.addEventListener("pointermove", moved);
  svg.addEventListener("pointerdown", moved);
  svg.addEventListener("pointerleave", () => { at = steps.length - 1; tell(false); });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    at = Math.min(steps.length - 1, Math.max(0, at + by));
    tell(true);
    event.preventDefault();
  });
  const title = document.createElement("h3");
  const unit = document.createElement("small");
  unit.textContent = figure.unit;
  title.append(`${figure.title} `, unit);
  box.append(title, svg, told);
  tell(false);
}

for (const figure of JSON.parse(document.getElementById("data").textContent)) {
  const box = document.createElement("figure");
  document.getElementById("curves").append(box);
  draw(figure, box);
}
})();
