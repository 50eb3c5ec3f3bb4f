// Picture browsers: show the pictures that agree with every chosen label; those without one always agree.

for (const browser of document.querySelectorAll(".browser")) {
  const selects = [...browser.querySelectorAll("select")];
  const pictures = [...browser.querySelectorAll(".pictures > figure")];
  const show = () => {
    for (const picture of pictures) {
      picture.hidden = selects.some(({dataset, value}) => {
        const label = picture.dataset[dataset.kind];
        return value && label !== undefined && label !== value;
      });
    }
    const shown = pictures.filter(picture => !picture.hidden).length;
    const status = browser.querySelector(".shown");
    if (status) status.textContent = `${shown} of ${pictures.length} shown`;
  };
  for (const select of selects) select.addEventListener("change", show);
  if (selects.length) show();
}

// The contents mark the section being read.
const links = new Map([...document.querySelectorAll(".contents a")].map(link => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const link = links.get(entry.target.id);
    if (link && entry.isIntersecting) link.setAttribute("aria-current", "true");
    else if (link) link.removeAttribute("aria-current");
  }
}, {rootMargin: "-20% 0px -75% 0px"});
for (const section of document.querySelectorAll("main > section")) reading.observe(section);
