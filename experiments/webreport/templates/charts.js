"use strict";
// Charts as SVG: views to choose, lines to hide, numbers under the pointer or the arrow keys, a slider over gamma.

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "9 5", "9 4 2 4", "2 3", "14 4", "14 4 2 4"];
const MARKS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.5-3.5h7v7h-7z", "M0-5L5 0L0 5L-5 0z", "M0-5L4.5 4h-9z",
  "M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z", "M0 5L4.5-4h-9z"];
const MARGIN = {left: 56, right: 14, top: 12, bottom: 46};
const NUM_COLORS = 7, LABEL_WIDTH = 70, LABEL_HEIGHT = 50;

const svg = (name, attributes, parent) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
};
const html = (name, text, parent) => {
  const element = document.createElement(name);
  element.textContent = text;
  parent?.append(element);
  return element;
};
const colored = (element, line) => {
  element.style.setProperty("--color", `var(--line-${line.place % NUM_COLORS})`);
  return element;
};
const tidy = value => String(Number(value.toPrecision(3)));
const there = value => value !== null && value !== undefined;

// Round numbers from low to high, about `count` of them: steps of 1, 2 or 5 times a power of ten.
const roundTicks = (low, high, count) => {
  const rough = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
};

// A scale from values to pixels.
const scale = (low, high, from, to, log) => {
  const place = log ? Math.log : value => value;
  const span = place(high) - place(low) || 1;
  return value => from + (place(value) - place(low)) / span * (to - from);
};

class Chart {
  constructor(element) {
    this.element = element;
    this.chart = JSON.parse(element.querySelector("script").textContent);
    this.plot = element.querySelector(".plot");
    this.tip = element.querySelector(".tip");
    this.explorer = element.querySelector(".explorer");
    this.hidden = new Set();
    this.view = this.chart.views[0];
    for (const input of element.querySelectorAll(".views input")) {
      input.addEventListener("change", () => { this.view = this.chart.views[Number(input.value)]; this.draw(); });
    }
    if (this.explorer) {
      this.method = this.explorer.querySelector("select");
      this.slider = this.explorer.querySelector("input");
      this.method.addEventListener("change", () => this.draw());
      this.slider.addEventListener("input", () => this.draw());
    }
    this.plot.addEventListener("pointermove", event => this.readNear(event));
    this.plot.addEventListener("pointerleave", () => this.read(null));
    this.plot.addEventListener("blur", () => this.read(null));
    this.plot.addEventListener("keydown", event => this.step(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  get lines() { return this.view.lines.filter(line => !this.hidden.has(line.name)); }

  draw() {
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (!width) return;
    this.drawLegend();
    this.stops = [...new Set(this.view.lines.flatMap(line => line.x))].sort((a, b) => a - b);
    const [low, high] = this.view.y_range ?? this.rangeOfData();
    this.x = scale(this.stops[0], this.stops.at(-1), MARGIN.left, width - MARGIN.right, this.view.log_x);
    this.y = scale(low, high, height - MARGIN.bottom, MARGIN.top);
    this.svg = svg("svg", {width, height, "aria-hidden": "true"});
    this.plot.querySelector("svg")?.remove();
    this.plot.prepend(this.svg);
    this.drawAxes(width, height, low, high);
    this.rule = svg("line", {class: "rule", y1: MARGIN.top, y2: height - MARGIN.bottom}, this.svg);
    for (const line of this.lines) this.drawLine(line);
    if (this.explorer) this.readOff(height);
    this.read(null);
  }

  rangeOfData() {
    const ends = this.lines.flatMap(line => line.y.flatMap((y, i) => there(y)
      ? [y - (line.error?.[i] ?? 0), y + (line.error?.[i] ?? 0)] : []));
    const low = Math.min(...ends), high = Math.max(...ends);
    if (!ends.length) return [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - room, high + room];
  }

  drawAxes(width, height, low, high) {
    const axes = svg("g", {class: "axes"}, this.svg), floor = height - MARGIN.bottom;
    for (const value of roundTicks(low, high, height / LABEL_HEIGHT)) {
      svg("line", {x1: MARGIN.left, x2: width - MARGIN.right, y1: this.y(value), y2: this.y(value)}, axes);
      svg("text", {x: MARGIN.left - 8, y: this.y(value) + 4, class: "end"}, axes).textContent = tidy(value);
    }
    const ticks = this.view.ticks ?? roundTicks(this.stops[0], this.stops.at(-1), width / LABEL_WIDTH);
    for (const value of ticks) {
      svg("line", {x1: this.x(value), x2: this.x(value), y1: floor, y2: floor + 5}, axes);
      svg("text", {x: this.x(value), y: floor + 19, class: "middle"}, axes).textContent = tidy(value);
    }
    svg("line", {class: "floor", x1: MARGIN.left, x2: width - MARGIN.right, y1: floor, y2: floor}, axes);
    const middle = (MARGIN.left + width - MARGIN.right) / 2, half = (MARGIN.top + floor) / 2;
    svg("text", {x: middle, y: height - 6, class: "middle"}, axes).textContent = this.view.x_title;
    svg("text", {transform: `translate(13 ${half}) rotate(-90)`, class: "middle"}, axes).textContent = this.view.y_title;
  }

  drawLine(line) {
    const group = colored(svg("g", {class: "line", "data-name": line.name}, this.svg), line);
    let path = "", pen = "M";
    line.y.forEach((y, i) => {
      if (!there(y)) { pen = "M"; return; }
      const x = this.x(line.x[i]), error = line.error?.[i];
      path += `${pen}${x.toFixed(1)} ${this.y(y).toFixed(1)}`;
      pen = "L";
      if (error) svg("line", {class: "error", x1: x, x2: x, y1: this.y(y - error), y2: this.y(y + error)}, group);
      if (line.marked) svg("path", {d: MARKS[line.place % MARKS.length], class: "mark", transform: `translate(${x} ${this.y(y)})`}, group);
    });
    svg("path", {d: path, "stroke-dasharray": DASHES[line.place % DASHES.length]}, group);
  }

  // The numbers at a stop of the horizontal axis; null for none.
  read(stop) {
    this.stop = stop;
    this.tip.hidden = stop === null;
    this.rule.classList.toggle("shown", stop !== null);
    if (stop === null) return;
    const value = this.stops[stop], x = this.x(value);
    this.rule.setAttribute("x1", x);
    this.rule.setAttribute("x2", x);
    this.tip.replaceChildren();
    html("strong", `${this.view.x_title.replace(/ \(.*/, "")} ${tidy(value)}`, this.tip);
    const unit = this.view.y_title.includes("%") ? " %" : "";
    for (const line of this.lines) {
      const at = line.x.indexOf(value);
      if (at < 0 || !there(line.y[at])) continue;
      const row = colored(html("span", "", this.tip), line), error = line.error?.[at];
      html("i", line.name, row);
      html("b", `${unit ? line.y[at].toFixed(1) : Number(line.y[at].toPrecision(4))}${unit}${error ? ` ± ${tidy(error)}` : ""}`, row);
    }
    const right = x > this.plot.clientWidth / 2;
    this.tip.style.left = right ? "auto" : `${x + 12}px`;
    this.tip.style.right = right ? `${this.plot.clientWidth - x + 12}px` : "auto";
  }

  readNear(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const away = this.stops.map(value => Math.abs(this.x(value) - x));
    this.read(away.indexOf(Math.min(...away)));
  }

  step(event) {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return;
    event.preventDefault();
    this.read(this.stop === null ? 0 : Math.min(Math.max(this.stop + by, 0), this.stops.length - 1));
  }

  readOff(height) {
    const index = Number(this.slider.value), number = Number(this.method.value);
    const gamma = this.chart.gammas[index], line = this.view.lines[number], x = this.x(gamma);
    svg("line", {class: "chosen", x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom}, this.svg);
    if (there(line.y[index])) {
      colored(svg("circle", {class: "chosen", cx: x, cy: this.y(line.y[index]), r: 7}, this.svg), line);
    }
    const output = this.explorer.querySelector("output");
    output.replaceChildren();
    const values = this.chart.views.map(view => [view.title, view.lines[number].y[index]]);
    for (const [name, value] of [["gamma", null], ...values]) {
      const part = html("span", `${name} `, output);
      html("b", name === "gamma" ? gamma.toFixed(2) : there(value) ? `${value.toFixed(1)} %` : "–", part);
    }
    this.slider.setAttribute("aria-valuetext", `gamma ${gamma.toFixed(2)}`);
  }

  drawLegend() {
    const legend = this.element.querySelector(".legend"), names = this.view.lines.map(line => line.name).join("\n");
    if (legend.dataset.names === names) return;
    legend.dataset.names = names;
    for (const old of legend.querySelectorAll("label")) old.remove();
    for (const line of this.view.lines) {
      const label = html("label", "", legend), box = html("input", "", label);
      Object.assign(box, {type: "checkbox", checked: !this.hidden.has(line.name)});
      box.addEventListener("change", () => {
        this.hidden[box.checked ? "delete" : "add"](line.name);
        this.draw();
      });
      const sample = colored(svg("svg", {width: 30, height: 10, class: "line", "aria-hidden": "true"}, label), line);
      svg("path", {d: "M0 5H30", "stroke-dasharray": DASHES[line.place % DASHES.length]}, sample);
      label.dataset.name = line.name;
      label.append(line.name);
    }
  }
}

for (const element of document.querySelectorAll(".chart")) new Chart(element);
