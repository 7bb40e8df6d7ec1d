// Changes the page in place: what is the same stays, so focus, selection and scroll stay too.
function shoalMorph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh.cloneNode(true));
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  shoalChildren(old, fresh);
}
function shoalChildren(old, fresh) {
  const have = [...old.childNodes], want = [...fresh.childNodes];
  want.forEach((node, i) => (i < have.length ? shoalMorph(have[i], node) : old.appendChild(node.cloneNode(true))));
  have.slice(want.length).forEach((node) => node.remove());
}
function shoalPatch(id, html) {
  const target = document.getElementById(id);
  if (!target) return;
  const template = document.createElement("template");
  template.innerHTML = `<div>${html}</div>`;
  shoalChildren(target, template.content.firstChild);
  // What is ticked is a device, wherever its row is now.
  target.querySelectorAll(".pick").forEach((box) => (box.checked = shoalPicked.has(box.value)));
}
const shoalPicked = new Set();
document.addEventListener("change", ({ target }) => {
  if (target.matches(".pick")) shoalPicked[target.checked ? "add" : "delete"](target.value);
});
function shoalTheme() {
  const dark = !document.body.classList.contains("body--dark");
  document.cookie = `shoal_theme=${dark ? "dark" : "light"}; path=/ui; max-age=31536000; samesite=strict`;
  Quasar.Dark.set(dark);
  emitEvent("shoal_theme", dark);
}
// Copies a text; without TLS browsers give no clipboard, then what is selected is copied.
async function shoalCopy(id, told) {
  const source = document.getElementById(id), status = document.getElementById(told);
  let done = false;
  try {
    await navigator.clipboard.writeText(source.textContent);
    done = true;
  } catch {
    getSelection().selectAllChildren(source);
    done = document.execCommand("copy");
  }
  if (status) status.textContent = done ? "Copied." : "Select the line and copy it.";
}
// Sends a bundle's file in parts; says how far it is, and what became of it.
async function shoalUpload(input, told) {
  const file = input.files[0], status = document.getElementById(told), part = 512 * 1024;
  if (!file) return;
  const say = (text, kind) => { status.textContent = text; status.dataset.kind = kind || ""; };
  input.disabled = true;
  try {
    for (let offset = 0, id = ""; ; offset += part) {
      const asked = new URLSearchParams({ name: file.name, size: file.size, offset, id });
      const answer = await fetch(`/ui/upload?${asked}`, { method: "POST", body: file.slice(offset, offset + part), redirect: "error" });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error.message);
      if (found.refused) throw new Error(found.refused);
      if (found.published) {
        say(`Published ${found.name}. `, "ok");
        const link = document.createElement("a");
        link.href = found.published;
        link.textContent = "Look at it";
        status.append(link);
        break;
      }
      id = found.id;
      say(`${Math.floor((100 * found.done) / file.size)} % of ${file.name}`);
    }
  } catch (error) {
    say(`Not published: ${error.message}`, "bad");
  }
  input.disabled = false;
  input.value = "";
}
