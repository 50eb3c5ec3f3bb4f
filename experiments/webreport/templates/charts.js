"use strict";
// Charts: views to choose, lines to hide, a slider over gamma; colours of the present scheme.

const PALETTES = JSON.parse(document.getElementById("palettes").textContent);
const DARK = matchMedia("(prefers-color-scheme: dark)");
const STROKES = {solid: "", dash: "9 5", dashdot: "9 4 2 4", dot: "2 3", longdash: "14 4", longdashdot: "14 4 2 4"};

const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const lineColor = line => {
  const palette = PALETTES[DARK.matches ? "dark" : "light"];
  return palette[line.meta % palette.length];
};

class Chart {
  constructor(element) {
    this.element = element;
    this.chart = JSON.parse(element.querySelector("script").textContent);
    this.plot = element.querySelector(".plot");
    this.explorer = element.querySelector(".explorer");
    this.hidden = new Set();
    this.view = 0;
    for (const input of element.querySelectorAll(".views input")) {
      input.addEventListener("change", () => { this.view = Number(input.value); this.draw(); });
    }
    if (this.explorer) {
      this.method = this.explorer.querySelector("select");
      this.slider = this.explorer.querySelector("input");
      this.output = this.explorer.querySelector("output");
      this.method.addEventListener("change", () => this.draw());
      this.slider.addEventListener("input", () => this.draw());
    }
    this.draw();
  }

  get lines() { return this.chart.views[this.view].figure.data; }

  draw() {
    const lines = this.lines;
    this.drawLegend(lines);
    const data = lines.filter(line => !this.hidden.has(line.name)).map(line => ({
      ...line, line: {...line.line, color: lineColor(line)}, marker: {...line.marker, color: lineColor(line)},
    }));
    const layout = this.layout();
    if (this.explorer) this.readOff(data, layout);
    Plotly.react(this.plot, data, layout, {responsive: true, displayModeBar: false});
  }

  layout() {
    const layout = this.chart.views[this.view].figure.layout;
    const axis = old => ({
      ...old, gridcolor: color("--rule"), linecolor: color("--plain"), ticks: "outside", tickcolor: color("--plain"),
      automargin: true, fixedrange: true, hoverformat: ".3~g", spikecolor: color("--plain"), spikethickness: 1,
    });
    return {
      ...layout, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), dragmode: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: color("--sans"), size: 13, color: color("--soft")},
      hoverlabel: {bgcolor: color("--card"), bordercolor: color("--rule"), font: {color: color("--ink")}},
    };
  }

  readOff(data, layout) {
    const index = Number(this.slider.value), number = Number(this.method.value);
    const gamma = this.chart.gammas[index], line = this.lines[number];
    layout.shapes = [{type: "line", x0: gamma, x1: gamma, y0: 0, y1: 1, yref: "paper",
      line: {color: color("--plain"), width: 1.5, dash: "dot"}}];
    data.push({x: [gamma], y: [line.y[index]], mode: "markers", hoverinfo: "skip",
      marker: {size: 14, color: lineColor(line), line: {width: 3, color: color("--ground")}}});
    const values = [["gamma", gamma.toFixed(2)]];
    for (const view of this.chart.views) {
      values.push([view.title, `${view.figure.data[number].y[index].toFixed(1)} %`]);
    }
    this.slider.setAttribute("aria-valuetext", `gamma ${gamma.toFixed(2)}`);
    this.output.replaceChildren(...values.map(([name, value]) => {
      const part = document.createElement("span"), strong = document.createElement("b");
      strong.textContent = value;
      part.append(`${name} `, strong);
      return part;
    }));
  }

  drawLegend(lines) {
    const legend = this.element.querySelector(".legend");
    for (const old of legend.querySelectorAll("label")) {
      if (!lines.some(line => line.name === old.dataset.name)) old.remove();
    }
    for (const line of lines) {
      let label = [...legend.querySelectorAll("label")].find(old => old.dataset.name === line.name);
      if (!label) {
        label = this.legendLabel(line);
        legend.append(label);
      }
      const stroke = label.querySelector("line");
      stroke.setAttribute("stroke", lineColor(line));
      stroke.setAttribute("stroke-dasharray", STROKES[line.line.dash]);
    }
  }

  legendLabel(line) {
    const label = document.createElement("label"), box = document.createElement("input");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const stroke = document.createElementNS(svg.namespaceURI, "line");
    for (const [name, value] of Object.entries({width: 30, height: 10, "aria-hidden": "true"})) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({x1: 0, x2: 30, y1: 5, y2: 5, "stroke-width": 2.5})) stroke.setAttribute(name, value);
    svg.append(stroke);
    label.dataset.name = line.name;
    box.type = "checkbox";
    box.checked = !this.hidden.has(line.name);
    box.addEventListener("change", () => {
      this.hidden[box.checked ? "delete" : "add"](line.name);
      this.draw();
    });
    label.append(box, svg, line.name);
    return label;
  }
}

const charts = [...document.querySelectorAll(".chart")].map(element => new Chart(element));
DARK.addEventListener("change", () => charts.forEach(chart => chart.draw()));
