/* One photo on the page: sent once, restored as often as the visitor likes, forgotten when he says so. */

import { call, follow, isAbort, json, submit } from "/page/api.js";

const GONE = "upload_gone";
const MEGABYTE = 1024 * 1024;

/* Each run holds a connection to the end, and browsers open six to one host: the others wait their turn. */
const AT_ONCE = 3;
const waiting = [];
let running = 0;

/** Wait for one's turn; whoever leaves hands it over. */
async function turn(isUrgent, signal) {
  if (running < AT_ONCE) {
    running += 1;
  } else {
    await new Promise((resolve, reject) => {
      if (isUrgent) waiting.unshift(resolve);
      else waiting.push(resolve);
      signal.addEventListener("abort", () => {
        const at = waiting.indexOf(resolve);
        if (at >= 0) waiting.splice(at, 1);
        reject(signal.reason);
      }, { once: true });
    });
  }
  if (signal.aborted) {
    leave();
    throw signal.reason;
  }
}

function leave() {
  const next = waiting.shift();
  if (next) next();
  else running -= 1;
}

export class Photo {
  /**
   * @param file What the visitor chose.
   * @param options Options by name, as text; the photo's own from now on.
   * @param limits What the service accepts.
   * @param onChange Told whenever something of the photo has changed, and what in words worth saying aloud, if any.
   */
  constructor(file, options, limits, onChange) {
    this.file = file;
    this.name = file.name || "pasted photo";
    this.url = URL.createObjectURL(file);
    this.options = options;
    this.limits = limits;
    this.onChange = onChange;
    this.stage = "waiting"; // then sending, queued, running, done, failed, cancelled
    this.note = ""; // why it takes longer
    this.position = null;
    this.progress = null;
    this.problem = null;
    this.ending = null; // report of the run under way, once it has ended
    this.report = null; // of the picture that is here
    this.resultUrl = null;
    this.previews = new Map(); // of the run under way, by face
    this.job = null; // of the run under way, or the last one
    this.controller = null;
  }

  get busy() {
    return ["waiting", "sending", "queued", "running", "ended"].includes(this.stage);
  }

  /** Share of the work that is done, 0 to 1; null before that is known. */
  get share() {
    return this.progress?.num_steps ? this.progress.steps_done / this.progress.num_steps : null;
  }

  /** Restore it, or restore it again with the options as they are now; a run under way is given up for it. */
  async restore() {
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    const earlier = this.job;
    Object.assign(this, { stage: "waiting", note: "", position: null, progress: null, problem: null });
    this.previews.clear();
    this.onChange(this);
    let entered = false;
    try {
      await turn(Boolean(earlier), controller.signal);
      entered = true;
      this.stage = "sending";
      this.onChange(this);
      this.job = await this.#submit(earlier, controller.signal);
      if (earlier) forget(earlier);
      await follow(this.job.urls.events, controller.signal, (name, state) => {
        if (!controller.signal.aborted) this.#moved(name, state);
      });
      if (this.stage === "ended") await this.#fetch(controller.signal);
    } catch (error) {
      if (controller !== this.controller || isAbort(error)) return;
      this.#failed(error.problem ?? { title: "Something went wrong on this page", detail: String(error.message ?? error) });
    } finally {
      if (entered) leave();
    }
  }

  /** Stop the run under way; the result before it stays. */
  async cancel() {
    const job = this.job;
    this.controller?.abort();
    this.stage = this.report ? "done" : "cancelled";
    this.previews.clear();
    this.onChange(this, `${this.name}: cancelled.`);
    if (job) await call(job.urls.cancel, { method: "POST" }).catch(() => {}); // ended already is as good
  }

  /** Let service and page forget it. */
  async remove() {
    this.controller?.abort();
    this.controller = null;
    URL.revokeObjectURL(this.url);
    if (this.resultUrl) URL.revokeObjectURL(this.resultUrl);
    if (this.job) await forget(this.job);
  }

  /** The photo itself where it has to be sent, else the restoration that has it. */
  async #submit(earlier, signal) {
    const fields = { ...this.options, keep_image: "true", preview: "true" };
    const wait = (note) => {
      this.note = note;
      this.onChange(this);
    };
    if (earlier) {
      try {
        return await submit({ ...fields, image_from: earlier.id }, signal, wait);
      } catch (error) {
        if (error.problem?.code !== GONE) throw error;
      }
    }
    const most = this.limits.max_upload_bytes;
    if (this.file.size > most) {
      const sizes = [this.file.size, most].map((bytes) => `${(bytes / MEGABYTE).toFixed(1)} MB`);
      throw Object.assign(new Error("too large"), {
        problem: { title: "The photo is too large", detail: `It has ${sizes[0]}, the service takes ${sizes[1]}.`, hint: "Send a smaller one." },
      });
    }
    return submit({ ...fields, image: this.file }, signal, wait);
  }

  #moved(name, state) {
    if (name === "preview") {
      this.previews.set(state.face_index, state);
    } else if (state.status === "succeeded") {
      Object.assign(this, { stage: "ended", ending: state }); // shown with its picture
    } else if (state.status === "failed") {
      this.#failed(state.error);
      return;
    } else {
      Object.assign(this, { stage: state.status, note: "", position: state.position, progress: state.progress });
    }
    this.onChange(this);
  }

  #failed(problem) {
    Object.assign(this, { stage: "failed", problem });
    this.previews.clear();
    this.onChange(this, `${this.name}: ${problem.title}.`);
  }

  async #fetch(signal) {
    const picture = await (await call(this.ending.urls.result, { signal })).blob();
    if (this.resultUrl) URL.revokeObjectURL(this.resultUrl);
    Object.assign(this, { stage: "done", report: this.ending, resultUrl: URL.createObjectURL(picture) });
    this.previews.clear();
    if (!this.options.seed) this.options = { ...this.options, seed: String(this.report.seed) }; // changes come one by one
    const count = this.report.faces.filter((face) => face.status === "restored").length;
    this.onChange(this, `${this.name}: ${counted(count, "face")} restored.`);
  }
}

export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

async function forget(job) {
  await call(job.urls.report, { method: "DELETE" }).catch(() => {}); // gone already is as good
}

export const readLimits = () => json("/v1/limits");
