// Sorting and filtering by DataTables; without it the tables stand as they are.

for (const table of document.querySelectorAll("table.sortable")) {
  const numbers = [...table.tBodies[0].rows[0].cells].flatMap((cell, i) => cell.classList.contains("number") ? [i] : []);
  for (const i of numbers) table.tHead.rows[0].cells[i].classList.add("right");
  const sorted = new DataTable(table, {
    paging: false, info: false, autoWidth: false, order: [],
    layout: {topStart: null, topEnd: null, bottomStart: null, bottomEnd: null},
    columnDefs: [{targets: numbers, orderSequence: ["desc", "asc", ""]}],
  });
  const filter = table.closest(".scroll").previousElementSibling;
  if (filter?.matches(".filter")) {
    filter.hidden = false;
    filter.querySelector("input").addEventListener("input", event => sorted.search(event.target.value).draw());
  }
}
