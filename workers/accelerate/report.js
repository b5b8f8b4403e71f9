"use strict";
// Draws the figures. Colours come from the style sheet, so that the page may turn light or dark.
const figures = JSON.parse(document.getElementById("figures").textContent);

function template() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["ink", "soft", "line"].map((name) => style.getPropertyValue("--" + name).trim());
  const axis = { gridcolor: line, zerolinecolor: soft, linecolor: line, automargin: true, ticks: "",
    title: { standoff: 10, font: { size: 13, color: soft } }, tickfont: { color: soft } };
  return { layout: { font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
    margin: { l: 60, r: 20, t: 20, b: 50 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 } } };
}

function draw() {
  for (const [slot, figure] of Object.entries(figures)) {
    Plotly.react(slot, figure.data, { ...figure.layout, template: template() }, { responsive: true, displayModeBar: false });
  }
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
