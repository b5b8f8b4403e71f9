"use strict";
// Draws the chosen case and policy. Colours come from the style sheet, so that the page may turn light or dark.
const book = JSON.parse(document.getElementById("figures").textContent);
const nav = document.querySelector("nav");
const labels = JSON.parse(nav.dataset.labels);
const chosen = { index: book.focus, policy: book.policy };

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "soft", "line", "land", "card"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}

function template({ ink, soft, line }) {
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ticks: "",
    title: { standoff: 10, font: { size: 13, color: soft } }, tickfont: { color: soft } };
  return { layout: {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
    title: { font: { size: 14.5, color: ink }, x: 0, xanchor: "left", xref: "paper" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink }, margin: { l: 60, r: 20, t: 50, b: 50 },
    hoverlabel: { font: { size: 13 } } } };
}

function painted(traces, { line, land, soft }, axes) {
  return traces.map((trace) => ({ ...trace, ...axes })).map((trace) => trace.meta === "land" ? { ...trace, fillcolor: land, line: { ...trace.line, color: soft } }
    : { ...trace, line: { ...trace.line, color: line } });
}

function draw(slot, figure) {
  const div = document.getElementById(slot);
  if (!div) return;
  div.hidden = !figure;
  if (!figure) return;
  const palette = colours();
  const layout = { ...figure.layout, template: template(palette) };
  let data = figure.data;
  if (slot === "flows") {
    const inset = { xaxis: "x2", yaxis: "y2", showlegend: false };
    const again = layout.xaxis2 ? [...painted(book.background, palette, inset), ...data.map((trace) => ({ ...trace, ...inset }))] : [];
    data = [...painted(book.background, palette, {}), ...data, ...again];
    layout.plot_bgcolor = palette.card; // the inset hides what lies under it
  }
  // Its cells are glazes over the page, so that what is written on them is ink.
  if (slot === "matrix") data = data.map((trace) => ({ ...trace, textfont: { color: palette.ink } }));
  // Title, then legend, then the plot: each has its own rows, whatever the height.
  const below = (pixels) => 1 - pixels / layout.height;
  layout.legend = { orientation: "h", x: 0, xanchor: "left", y: below(layout.title ? 30 : 4), yanchor: "top", yref: "container" };
  if (layout.title) layout.title = { ...layout.title, y: below(6), yanchor: "top", yref: "container" };
  const legend = data.some((trace) => trace.name && trace.showlegend !== false && trace.type !== "heatmap");
  layout.margin = { t: 24 + 30 * Boolean(layout.title) + 30 * legend + 26 * (layout.annotations?.length > 0 && legend), ...layout.margin };
  Plotly.react(div, data, layout, { responsive: true, displaylogo: false, scrollZoom: slot === "flows", displayModeBar: slot === "flows" ? "hover" : false,
    modeBarButtonsToRemove: ["lasso2d", "select2d"] });
}

function show() {
  const one = book.cases[chosen.index];
  for (const [slot, figure] of Object.entries(book.overview)) draw(slot, figure);
  for (const slot of ["plane", "classes", "tenants", "regions", "waiting"]) draw(slot, one.figures[slot]);
  const policy = one.policies[chosen.policy] || one.policies[Object.keys(one.policies)[0]];
  for (const slot of ["reliability", "flows", "matrix", "depth"]) draw(slot, policy[slot]);
  document.getElementById("words").innerHTML = one.words;
  document.getElementById("table").innerHTML = one.table;
  document.getElementById("world").innerHTML = one.world;
  for (const span of document.querySelectorAll("h2 .case")) span.textContent = one.name;
}

// A combination nobody simulated falls back to the first case that has the value just chosen.
function choose(changed) {
  const wanted = {};
  for (const select of nav.querySelectorAll("select[data-key]")) wanted[select.dataset.key] = JSON.parse(select.value);
  const fits = (label) => Object.entries(wanted).every(([key, value]) => label[key] === value);
  let index = labels.findIndex(fits);
  if (index < 0 && changed) index = labels.findIndex((label) => label[changed] === wanted[changed]);
  chosen.index = Math.max(0, index);
  for (const select of nav.querySelectorAll("select[data-key]")) select.value = JSON.stringify(labels[chosen.index][select.dataset.key]);
}

nav.addEventListener("change", (event) => {
  if (event.target.id === "policy") chosen.policy = JSON.parse(event.target.value);
  else choose(event.target.dataset.key);
  show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
show();
