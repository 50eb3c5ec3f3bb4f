// Commands: a button copies the whole text, by the clipboard where the browser lets it, else by a selection.

const select = element => getSelection().selectAllChildren(element);
const copy = async code => {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    select(code);
    return document.execCommand("copy");
  }
};

for (const button of document.querySelectorAll("button.copy")) {
  const code = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(code);
    if (!done) select(code); // left for the reader's own keys
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
