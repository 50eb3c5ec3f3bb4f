// Tables: a click on a heading sorts by its column, high numbers first, then low first, then as it was; a box filters.

const ORDERS = {none: "descending", descending: "ascending", ascending: "none"};
const TEXT_ORDERS = {none: "ascending", ascending: "descending", descending: "none"};
const words = new Intl.Collator("en", {numeric: true, sensitivity: "base"});

// What a cell is sorted by: its number without its spread, the lowest where there is none; else its text.
const key = cell => {
  if (!cell.classList.contains("number")) return cell.textContent.trim();
  const number = Number(cell.firstChild.textContent.trim().replaceAll(",", ""));
  return Number.isNaN(number) ? -Infinity : number;
};
const compare = (a, b) => typeof a === "number" ? Math.sign(a - b) || 0 : words.compare(a, b);

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const orders = original[0].cells[column].classList.contains("number") ? ORDERS : TEXT_ORDERS;
    button.addEventListener("click", () => {
      const order = orders[head.getAttribute("aria-sort") ?? "none"], sign = order === "ascending" ? 1 : -1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      if (order !== "none") head.setAttribute("aria-sort", order);
      const keyed = original.map(row => [key(row.cells[column]), row]);
      if (order !== "none") keyed.sort(([a], [b]) => sign * compare(a, b));
      body.append(...keyed.map(([, row]) => row));
    });
  });
  const filter = table.closest(".scroll").previousElementSibling;
  if (!filter?.matches(".filter")) continue;
  filter.hidden = false;
  filter.querySelector("input").addEventListener("input", event => {
    const wanted = event.target.value.trim().toLowerCase().split(/\s+/);
    for (const row of original) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    }
  });
}
