/* Photos come in by picker, drop or paste; each has an entry in the list, and one is in the viewer. */

import { json } from "/page/api.js";
import { look, shape, split } from "/page/compare.js";
import { showFaces, showPreviews } from "/page/faces.js";
import { limitOptions, readOptions, showOptions, showSeed, watchOptions } from "/page/options.js";
import { Photo, counted } from "/page/photo.js";

const byId = (id) => document.getElementById(id);
const FORMATS = { jpeg: "JPEG", png: "PNG", webp: "WebP" };
const ADVICE = { // the service's own words are for programmers
  no_face_found: "Choose a photo in which a face can be seen, or is larger.",
  too_many_faces: "Choose “the largest” under Faces.",
  unsupported_format: "Save it as JPEG, PNG or WebP first; phones call this “most compatible”.",
};
const photos = [];
const entries = new Map(); // by photo: its parts in the list
let limits = null;
let beginning = null; // settled once the service has told its limits, or has not
let shown = null;
let shownUrl = null; // of the picture in the viewer

/** In a few words, where a photo is. */
function stageOf(photo) {
  const { stage, position, progress, note } = photo;
  if (note) return note;
  if (stage === "queued" && position !== null) return position ? `${position} before it in the line` : "next in the line";
  if (stage === "running" && progress?.num_steps) {
    return `Step ${progress.steps_done} of ${progress.num_steps}, ${counted(progress.num_faces, "face")}`;
  }
  return { waiting: "Waits its turn", sending: "Sending", queued: "In the line", running: "Looking for faces", ended: "Fetching",
    done: "Done", failed: photo.problem?.title, cancelled: "Cancelled", deleting: "Deleting" }[stage];
}

function paintBar(bar, photo) {
  if (photo.share === null) bar.removeAttribute("value");
  else bar.value = photo.share;
}

function addEntry(photo) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const picture = new Image();
  picture.alt = "";
  picture.addEventListener("error", () => picture.classList.add("unreadable"));
  const text = document.createElement("span");
  const name = document.createElement("strong");
  name.textContent = photo.name;
  const stage = document.createElement("small");
  const bar = document.createElement("progress");
  bar.max = 1;
  bar.setAttribute("aria-label", `Progress of ${photo.name}`);
  text.append(name, stage);
  button.append(picture, text);
  button.addEventListener("click", () => select(photo));
  item.append(button, bar);
  byId("photos").append(item);
  entries.set(photo, { item, button, picture, stage, bar });
}

function paintEntry(photo) {
  const entry = entries.get(photo);
  if (!entry) return;
  entry.item.dataset.stage = photo.stage;
  if (entry.picture.src !== photo.url) entry.picture.src = photo.url;
  entry.stage.textContent = stageOf(photo);
  entry.bar.hidden = !photo.busy;
  paintBar(entry.bar, photo);
}

function select(photo) {
  shown = photo;
  for (const [each, { button }] of entries) button.setAttribute("aria-current", String(each === photo));
  for (const id of ["list", "viewer"]) byId(id).hidden = !photo;
  byId("empty").hidden = Boolean(photo);
  byId("whose").textContent = photo ? `of ${photo.name}` : "for the next photos";
  shownUrl = null;
  if (!photo) {
    showOptions({ ...readOptions(), seed: "" }); // that one was the other photo's
    return;
  }
  byId("name").textContent = photo.name;
  byId("compare").hidden = true; // until its shape is known
  byId("before").src = photo.url;
  showOptions(photo.options);
  showFaces([], null, null, () => look(null));
  byId("facts").textContent = "";
  split(50);
  paintViewer(photo);
}

/** A text of the service as a sentence; its own have no stop. */
function sentence(text) {
  return text && (/[.?!]$/.test(text) ? text : `${text}.`);
}

function paintViewer(photo) {
  const focused = document.activeElement;
  const hasFocus = byId("viewer").contains(focused);
  if (byId("before").src !== photo.url) byId("before").src = photo.url;
  const isMoving = photo.busy || photo.stage === "deleting";
  byId("running").hidden = !isMoving;
  byId("cancel").hidden = !photo.busy;
  byId("stage").textContent = stageOf(photo);
  paintBar(byId("progress"), photo);
  byId("problem").hidden = photo.stage !== "failed";
  const { title = "", detail = "", hint = "", code, retryable } = photo.problem ?? {};
  byId("problem-title").textContent = title;
  byId("problem-detail").textContent = sentence(detail);
  byId("problem-hint").textContent = ADVICE[code] ?? sentence(hint);
  byId("retry").hidden = retryable === false;
  byId("compare").classList.toggle("busy", photo.busy);
  if (photo.sizePx) shape(...photo.sizePx);
  showPreviews(photo.previews);
  const hasResult = Boolean(photo.resultUrl);
  for (const id of ["after-layer", "slider", "tag-before", "tag-after", "download"]) byId(id).hidden = !hasResult;
  byId("outcome").hidden = isMoving;
  byId("show-boxes").parentElement.hidden = !hasResult;
  if (shownUrl !== photo.resultUrl) {
    shownUrl = photo.resultUrl;
    if (hasResult) paintResult(photo);
  }
  if (hasFocus && !focused.checkVisibility()) focusViewer();
}

function paintResult(photo) {
  const { report } = photo;
  byId("after").src = photo.resultUrl;
  byId("download").href = photo.resultUrl;
  const ending = report.output_format === "jpeg" ? "jpg" : report.output_format;
  byId("download").download = `${photo.name.replace(/\.\w+$/, "")}-restored.${ending}`;
  const seconds = (report.timings_ms.total / 1000).toFixed(2);
  byId("facts").textContent = `${report.width} × ${report.height} px · ${counted(report.num_steps, "step")}, fidelity ${report.fidelity}, ` +
    `seed ${report.seed} · ${seconds} s · ${report.model}`;
  showSeed(photo.options.seed);
  showFaces(report.faces, report.fidelity, photo.near, (face) => {
    photo.near = face?.box ?? null;
    look(photo.near, ...photo.sizePx);
  });
}

function changed(photo, words) {
  paintEntry(photo);
  if (photo === shown) paintViewer(photo);
  if (words) byId("status").textContent = words;
}

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

async function take(files) {
  if (!files.length) return; // pasted text
  const chosen = [...files]; // the picker's list is emptied
  if (!limits) await begin();
  if (!limits) return;
  showError("");
  const added = chosen.map((file) => new Photo(file, readOptions(), limits, changed));
  if (shown) for (const photo of added) photo.options.seed = ""; // that one was the other photo's
  for (const photo of added) {
    photos.push(photo);
    addEntry(photo);
    photo.restore();
  }
  byId("status").textContent = added.length === 1 ? `${added[0].name} added.` : `${added.length} photos added.`;
  if (!shown || !shown.busy || added.length === 1) select(added[0]);
}

async function forget() {
  const photo = shown;
  const removal = photo.remove();
  focusViewer();
  if (!(await removal)) return;
  const at = photos.indexOf(photo);
  const entry = entries.get(photo);
  const focused = document.activeElement;
  photos.splice(at, 1);
  entries.delete(photo);
  let losesFocus = entry.item.contains(focused);
  if (photo === shown) { // he may have chosen another one meanwhile
    losesFocus ||= focused === document.body || byId("viewer").contains(focused);
    select(photos[Math.min(at, photos.length - 1)] ?? null);
  }
  if (losesFocus) (shown ? entries.get(shown).button : byId("image")).focus();
  entry.item.remove();
  byId("status").textContent = `${photo.name}: deleted from the service and from this page.`;
}

/** Ask the service what it takes; where it does not tell, the next photo asks again. */
function begin() {
  return (beginning ??= readBounds().finally(() => (beginning = null)));
}

async function readBounds() {
  try {
    const told = await json("/v1/limits");
    limitOptions(told);
    const megabytes = Math.floor(told.max_upload_bytes / 2 ** 20);
    const formats = told.input_formats.map((name) => FORMATS[name] ?? name).join(", ");
    byId("accepted").textContent = `${formats}, up to ${megabytes} MB`;
    limits = told;
    showError("");
    document.documentElement.dataset.ready = "";
  } catch (error) {
    const { title = String(error), detail = "", hint = "" } = error.problem ?? {};
    showError([title, detail, hint].filter(Boolean).map(sentence).join(" "));
  }
}

/** Where the focus goes when the button that had it is gone. */
function focusViewer() {
  byId("viewer").focus({ preventScroll: true });
}

function again() {
  if (!shown) return;
  shown.options = readOptions();
  shown.restore();
}

byId("before").addEventListener("load", ({ target }) => {
  shape(...(shown?.sizePx ?? [target.naturalWidth, target.naturalHeight]));
  byId("compare").hidden = false;
});
byId("image").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // the same photo may be chosen again
});
byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("cancel").addEventListener("click", () => {
  shown.cancel();
  focusViewer();
});
byId("retry").addEventListener("click", () => {
  again();
  focusViewer();
});
byId("forget").addEventListener("click", forget);
byId("download").addEventListener("click", () => (shown.isSaved = true));
addEventListener("beforeunload", (event) => {
  if (navigator.userActivation?.hasBeenActive === false) return; // browsers would not ask, and complain
  if (photos.some((photo) => photo.busy || (photo.resultUrl && !photo.isSaved))) event.preventDefault();
});
byId("show-boxes").addEventListener("change", ({ target }) => byId("compare").classList.toggle("plain", !target.checked));
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}
byId("options").open = matchMedia("(min-width: 52rem)").matches; // on a phone the photo comes first
watchOptions(again);

await begin();
