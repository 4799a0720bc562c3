"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("form");
const picker = byId("image");
const status = byId("status");
let running = null;
let resultUrls = null;

/** Fill ranges and defaults from the service's own limits. */
async function loadLimits() {
  const { options } = await (await fetch("/v1/limits")).json();
  byId("fidelity").value = options.fidelity.default;
  byId("num_steps").max = options.num_steps.maximum;
  byId("num_steps").value = options.num_steps.default;
  showFidelity();
}

function showFidelity() {
  byId("fidelity-value").textContent = byId("fidelity").value;
}

function showError(problem) {
  const error = byId("error");
  error.textContent = problem ? [problem.title, problem.detail, problem.hint].filter(Boolean).join(". ") : "";
  error.hidden = !problem;
}

function setRunning(controller) {
  running = controller;
  byId("submit").disabled = Boolean(controller);
  byId("cancel").hidden = !controller;
}

function cells(face) {
  const box = face.box.map((value) => Math.round(value)).join(", ");
  const reason = face.reason ? `${face.status} (${face.reason})` : face.status;
  return [face.index + 1, box, face.score?.toFixed(2) ?? "–", reason, face.ind_rmse?.toFixed(4) ?? "–"];
}

function showReport(report) {
  const seconds = (report.timings_ms.total / 1000).toFixed(2);
  byId("facts").textContent =
    `${report.model}: ${report.num_steps} steps, fidelity ${report.fidelity}, seed ${report.seed}, ${seconds} s`;
  byId("rows").replaceChildren(...report.faces.map((face) => {
    const row = document.createElement("tr");
    row.append(...cells(face).map((text) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      return cell;
    }));
    return row;
  }));
}

function showPictures(before, after, report) {
  for (const [id, blob] of [["before", before], ["after", after]]) {
    URL.revokeObjectURL(byId(id).src);
    byId(id).src = URL.createObjectURL(blob);
  }
  byId("download").href = byId("after").src;
  byId("download").download = `restored.${report.output_format === "jpeg" ? "jpg" : report.output_format}`;
  byId("outcome").hidden = false;
}

async function asked(response) {
  if (response.ok) return response;
  throw await response.json();
}

async function restore() {
  const photo = picker.files[0];
  if (!photo) return;
  const controller = new AbortController();
  setRunning(controller);
  showError(null);
  status.textContent = "Restoring …";
  try {
    const request = { method: "POST", body: new FormData(form), signal: controller.signal,
      headers: { Accept: "application/json" } };
    const report = await (await asked(await fetch("/restore", request))).json();
    if (!report.urls) throw { title: "The result was too large to be kept for this page" };
    const image = await (await asked(await fetch(report.urls.result))).blob();
    resultUrls = report.urls;
    byId("forget").disabled = false;
    showReport(report);
    showPictures(photo, image, report);
    status.textContent = "Done.";
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Cancelled." : "";
    if (error.name !== "AbortError") showError(error instanceof Error ? { title: error.message } : error);
  } finally {
    setRunning(null);
  }
}

async function forget() {
  byId("forget").disabled = true;
  await fetch(resultUrls.report, { method: "DELETE" }); // gone already is as good
  status.textContent = "Deleted from the service; the copy on this page stays until you leave.";
}

function take(files) {
  if (!files.length) return; // pasted text
  const photo = [...files].find((file) => file.type.startsWith("image/"));
  showError(photo ? null : { title: "That is not a photo" });
  if (!photo) return;
  const transfer = new DataTransfer();
  transfer.items.add(photo);
  picker.files = transfer.files;
}

form.addEventListener("submit", (event) => { event.preventDefault(); restore(); });
byId("cancel").addEventListener("click", () => running?.abort());
byId("forget").addEventListener("click", forget);
byId("fidelity").addEventListener("input", showFidelity);
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const name of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}
loadLimits();
