/* The faces of a report: a box over the photo for each, an entry in the list for each, and what joins the two. */

const SVG = "http://www.w3.org/2000/svg";
const REASONS = {
  below_min_face_px: "too small",
  unreliable: "unlike what the model knows",
  not_selected: "not chosen",
  over_max_faces: "more faces than are restored",
  degenerate_landmarks: "eyes, nose and mouth could not be placed",
};

const byId = (id) => document.getElementById(id);

function element(kind, className, text) {
  const made = document.createElement(kind);
  made.className = className;
  made.textContent = text;
  return made;
}

function shape(kind, attributes) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

function words(face, asked) {
  const size = `${Math.round(face.box[2] - face.box[0])} × ${Math.round(face.box[3] - face.box[1])} px`;
  const status = face.status === "restored" ? "restored" : `skipped: ${REASONS[face.reason] ?? face.reason}`;
  const measures = [size];
  if (face.score !== null) measures.push(`score ${face.score.toFixed(2)}`);
  if (face.ind_rmse !== null) measures.push(`IndRMSE ${face.ind_rmse.toFixed(4)}`);
  if (face.fidelity !== null && face.fidelity !== asked) measures.push(`fidelity ${face.fidelity.toFixed(2)}: hardly degraded`);
  return { status, measures: measures.join(" · ") };
}

/**
 * Show a report's faces.
 * @param faces Of the report; empty shows none.
 * @param asked Fidelity of the report.
 * @param near Box of the face that is seen from near, or null.
 * @param onLook Told which face the visitor wants to see from near, or null for the whole photo; at once for `near`.
 */
export function showFaces(faces, asked, near, onLook) {
  const boxes = faces.map((face) => {
    const [left, top, right, bottom] = face.box;
    const radius = (right - left) / 12;
    return shape("rect", { x: left, y: top, width: right - left, height: bottom - top, rx: radius, class: face.status });
  });
  const buttons = [];
  const lookAt = (index) => {
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === index)));
    onLook(faces[index] ?? null);
  };
  const items = faces.map((face, at) => {
    const { status, measures } = words(face, asked);
    const button = element("button", `face ${face.status}`, "");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(element("strong", "", `Face ${face.index + 1}`), element("span", "status", status), element("span", "measures", measures));
    for (const [name, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) {
      button.addEventListener(name, () => boxes[at].classList.toggle("marked", on));
    }
    button.addEventListener("click", () => lookAt(button.getAttribute("aria-pressed") === "true" ? -1 : at));
    buttons.push(button);
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  byId("boxes").replaceChildren(...boxes);
  byId("face-list").replaceChildren(...items);
  lookAt(faces.findIndex((face) => String(face.box) === String(near)));
}

/** Show intermediate estimates of faces where the faces are. */
export function showPreviews(previews) {
  const group = byId("previews");
  for (const [face, { image, matrix }] of previews) {
    let shown = group.querySelector(`[data-face="${face}"]`);
    if (!shown) {
      shown = shape("image", { "data-face": face, width: 1, height: 1, preserveAspectRatio: "none" });
      group.append(shown);
    }
    shown.setAttribute("transform", `matrix(${matrix.join(" ")})`);
    shown.setAttribute("href", image);
  }
  for (const shown of [...group.children]) if (!previews.has(Number(shown.dataset.face))) shown.remove();
}
