/* Before and after in one place: a boundary that pointer, finger and keys move, and a view that comes near to a face. */

const STEPS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };
const ENDS = { Home: 0, End: 100 };
const AROUND_FACE = 2.4; // sides of the face's box that the view shows

const byId = (id) => document.getElementById(id);
const frame = byId("compare");
const slider = byId("slider");

/** Where the boundary is, in percent from the left. */
export function split(percent) {
  const at = Math.min(100, Math.max(0, Math.round(percent)));
  frame.style.setProperty("--split", `${at}%`);
  slider.setAttribute("aria-valuenow", String(at));
  slider.setAttribute("aria-valuetext", `${at} % before, ${100 - at} % after`);
}

/** Let the frame have the photo's shape; pixels of the photo are the overlay's units. */
export function shape(width, height) {
  frame.style.setProperty("--ratio", String(width / height));
  byId("overlay").setAttribute("viewBox", `0 0 ${width} ${height}`);
}

/** Show the whole photo, or what is around a box of it. */
export function look(box, width, height) {
  let [scale, x, y] = [1, 0, 0];
  if (box) {
    const side = AROUND_FACE * Math.max(box[2] - box[0], box[3] - box[1]);
    scale = Math.max(1, Math.min(width, height) / side);
    const within = (centre, size) => Math.min(0, Math.max(1 - scale, 0.5 - (scale * centre) / size));
    x = within((box[0] + box[2]) / 2, width);
    y = within((box[1] + box[3]) / 2, height);
  }
  frame.style.setProperty("--nearness", String(scale));
  frame.style.setProperty("--view", `translate(${x * 100}%, ${y * 100}%) scale(${scale})`);
}

function follow(event) {
  const { left, width } = frame.getBoundingClientRect();
  split(((event.clientX - left) / width) * 100);
}

frame.addEventListener("pointerdown", (event) => {
  if (slider.hidden || event.button) return;
  frame.setPointerCapture(event.pointerId);
  follow(event);
  slider.focus({ preventScroll: true });
  event.preventDefault();
});
frame.addEventListener("pointermove", (event) => {
  if (frame.hasPointerCapture(event.pointerId)) follow(event);
});
slider.addEventListener("keydown", (event) => {
  const now = Number(slider.getAttribute("aria-valuenow"));
  if (event.key in STEPS) split(now + STEPS[event.key]);
  else if (event.key in ENDS) split(ENDS[event.key]);
  else return;
  event.preventDefault();
});
split(50);
