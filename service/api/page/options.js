/* The controls: their ranges from the service's own limits, their values as text by name. */

const NAMES = ["fidelity", "num_steps", "seed", "upscale", "faces"];
const ENLARGEMENTS = [1, 1.5, 2, 3, 4];
const QUIET_MS = 400; // keys move a control step by step
const SEEDS = 2 ** 32;

const byId = (id) => document.getElementById(id);
let usual = ""; // fidelity that the service takes where none is sent, or more
let timer = null; // runs while a choice has not come to rest
let seedIsTouched = false; // by the visitor, since it was shown or used

/** Ranges and defaults. */
export function limitOptions({ options }) {
  for (const name of ["fidelity", "num_steps"]) {
    byId(name).min = options[name].minimum;
    byId(name).max = options[name].maximum;
    byId(name).value = options[name].default;
  }
  usual = byId("fidelity").value;
  const choices = ENLARGEMENTS.filter((factor) => factor <= options.upscale.maximum);
  byId("upscale").replaceChildren(...choices.map((factor) => new Option(factor === 1 ? "not at all" : `${factor} ×`, factor)));
  showFidelity();
}

/** The choices; what is empty is left to the service. */
export function readOptions() {
  const options = Object.fromEntries(NAMES.map((name) => [name, byId(name).value]));
  if (options.fidelity === usual) options.fidelity = "";
  return options;
}

/** Show a photo's own; what was being changed was another's. */
export function showOptions(options) {
  clearTimeout(timer);
  seedIsTouched = false;
  for (const name of NAMES) byId(name).value = options[name];
  if (!options.fidelity) byId("fidelity").value = usual;
  showFidelity();
}

/** Show the seed that a run drew where the visitor left the choice to it; whatever he has changed meanwhile stays. */
export function showSeed(seed) {
  if (!byId("seed").value && !seedIsTouched) byId("seed").value = seed;
}

/** Tell `onChange` when the visitor has come to rest on another valid choice. */
export function watchOptions(onChange) {
  const settle = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (!NAMES.every((name) => byId(name).reportValidity())) return;
      seedIsTouched = false;
      onChange();
    }, QUIET_MS);
  };
  byId("fidelity").addEventListener("input", showFidelity);
  byId("seed").addEventListener("input", () => (seedIsTouched = true));
  byId("options").addEventListener("change", settle);
  byId("reseed").addEventListener("click", () => {
    byId("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS);
    settle();
  });
}

function showFidelity() {
  byId("fidelity-value").textContent = Number(byId("fidelity").value).toFixed(2);
}
