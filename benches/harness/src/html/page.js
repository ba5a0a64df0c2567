"use strict";
// Sorts a table by the column whose head is pressed: numbers from the largest, texts from A. A second press
// reverses the order. Cells without a number stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric;
      const key = (row) => {
        const cell = row.cells[column];
        if (!numeric) return cell.textContent.trim();
        return "key" in cell.dataset ? Number(cell.dataset.key) : null;
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows.map(([, row]) => row));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}

// Shows the rows that contain all words of the filter.
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.getElementById("all").tBodies[0].rows];
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
  const shown = document.querySelector(".filter output");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => (row.hidden = !words.every((word) => texts[i].includes(word))));
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = (words.length ? count + " of " : "") + rows.length + (rows.length === 1 ? " row" : " rows");
  };
  filter.addEventListener("input", apply);
  apply(); // a browser may keep the typed filter across a reload
  // A link to a row that the filter hides shows it.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      filter.value = "";
      apply();
      target.scrollIntoView();
    }
  });
}
