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
// Sends a bundle, and the report of its build where it is chosen too; says what became of it.
async function shoalUpload(input) {
  const form = input.closest("section"), status = form.querySelector(".told"), bar = form.querySelector("progress"), stop = form.querySelector("[data-stop]");
  const say = (text, kind) => { status.textContent = text; status.dataset.kind = kind || ""; };
  const files = [...input.files], reports = files.filter(({ name }) => name.endsWith(".json")), bundles = files.filter(({ name }) => !name.endsWith(".json"));
  if (!files.length || input.ariaBusy === "true") return;
  if (bundles.length !== 1 || reports.length > 1) {
    input.value = "";
    return say("Not published: choose one bundle, and at most one report (.json) with it.", "bad");
  }
  const state = { say, stopped: false, far: (share) => { bar.value = share; } };
  stop.onclick = () => { state.stopped = true; };
  input.ariaBusy = "true";
  bar.hidden = stop.hidden = false;
  say(`Sending ${bundles[0].name}.`);
  try {
    const report = reports.length ? (await shoalSend(reports[0], "", state)).id : "";
    const found = await shoalSend(bundles[0], report, state);
    if (found.refused) throw new Error(found.refused);
    say(`Published ${found.name}. `, "ok");
    const link = document.createElement("a");
    link.href = found.published;
    link.textContent = "Look at it";
    status.append(link);
  } catch (error) {
    say(`Not published: ${error.message}`, "bad");
  }
  if (document.activeElement === stop) input.focus();
  bar.hidden = stop.hidden = true;
  input.ariaBusy = "false";
  input.value = "";
}
// One file in parts; goes on after a broken connection, and when the same file is chosen again.
async function shoalSend(file, report, state) {
  const part = 512 * 1024, most = 6, key = `shoal-upload ${file.name} ${file.size} ${file.lastModified}`;
  let [id, offset] = JSON.parse(sessionStorage.getItem(key) || '["", 0]'), tries = 0, again = false;
  const wait = () => new Promise((go) => setTimeout(go, 500 * 2 ** tries));
  for (;;) {
    if (state.stopped) throw new Error("stopped. Choose the same file again within ten minutes, and it goes on.");
    const asked = new URLSearchParams({ name: file.name, size: file.size, offset, id, report });
    let answer;
    try {
      answer = await fetch(`/ui/upload?${asked}`, { method: "POST", body: file.slice(offset, offset + part), redirect: "manual" });
    } catch {
      if (++tries > most) throw new Error("the connection is gone. Choose the same file again, and it goes on.");
      state.say("The connection is gone: trying again.");
      await wait();
      continue;
    }
    if (answer.type === "opaqueredirect") throw new Error("the session has ended. Sign in, choose the same file again, and it goes on.");
    const found = await answer.json().catch(() => ({}));
    if (answer.ok && (found.published || found.refused || found.done === file.size)) {
      sessionStorage.removeItem(key);
      return found;
    }
    if (answer.ok) {
      if (tries) state.say(`Sending ${file.name}.`);
      [id, offset, tries] = [found.id, found.done, 0];
      sessionStorage.setItem(key, JSON.stringify([id, offset]));
      state.far((100 * offset) / file.size);
      continue;
    }
    const error = found.error || { code: "", message: `the controller answers ${answer.status}` };
    const done = error.detail?.done;
    if (error.code === "bad-range" && done > 0 && done < file.size && done !== offset) offset = done;
    else if (error.code === "no-such-upload" && tries) throw new Error("the connection broke as the last part was sent. Look at the list of bundles whether it is there.");
    else if (["bad-range", "no-such-upload"].includes(error.code) && id && !again) [id, offset, again] = ["", 0, true];
    else if ([429, 502, 503, 504].includes(answer.status) && error.code !== "busy" && ++tries <= most) await wait();
    else {
      sessionStorage.removeItem(key);
      throw new Error(error.message);
    }
  }
}
