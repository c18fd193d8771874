"use strict";
// Sortable tables: a click, Enter or Space on a heading sorts by it; once more turns the order round.
// Cells give what they are sorted by in data-sort; empty ones stay at the end either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    heading.querySelector("button").addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "descending";
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", down ? "ascending" : "descending");
      const key = (row) => row.cells[place].dataset.sort;
      const numeric = heading.dataset.kind === "number";
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
      const rows = [...body.rows].sort((a, b) => {
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
        return down ? compare(key(a), key(b)) : compare(key(b), key(a));
      });
      body.append(...rows);
    });
  });
}
// A slider moves one line of a drawing along precomputed steps.
for (const panel of document.querySelectorAll(".path")) {
  const steps = JSON.parse(panel.querySelector("script").textContent);
  const slider = panel.querySelector("input");
  const show = () => {
    const { label, points } = steps[slider.value];
    panel.querySelector("polyline").setAttribute("points", points);
    panel.querySelector("output").textContent = label;
    slider.setAttribute("aria-valuetext", label);
  };
  slider.addEventListener("input", show);
  show();
}
