// Commands: a button copies the whole text, by the clipboard where the browser lets it, else by a selection.

const copySelected = text => {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "aside";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
};
const copy = text => navigator.clipboard
  ? navigator.clipboard.writeText(text).then(() => true, () => copySelected(text))
  : Promise.resolve(copySelected(text));

for (const button of document.querySelectorAll("button.copy")) {
  const code = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(code.textContent);
    if (!done) getSelection().selectAllChildren(code); // left for the reader's own keys
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
