/* One photo on the page: sent once, restored as often as the visitor likes, forgotten when he says so. */

import { call, follow, isAbort, picture, submit } from "/page/api.js";
import { upright } from "/page/upright.js";

const GONE = "upload_gone";
const MEGABYTE = 1024 * 1024;
const REVERSING = /[\u202a-\u202e\u2066-\u2069]/g; // what would turn a name, and the words after it, around
/* The service was started anew, or has thrown the job away. */
const LOST = { title: "The service has lost the photo", detail: "It no longer knows of this restoration", hint: "Try again: the photo is sent once more" };

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
    this.name = file.name.replace(REVERSING, "") || "pasted photo";
    this.url = URL.createObjectURL(file);
    this.turning = this.#turn(); // settled once `url` is the last one
    this.options = options;
    this.limits = limits;
    this.onChange = onChange;
    this.stage = "waiting"; // then sending, queued, running, ended, done, failed, cancelled, deleting
    this.note = ""; // why it takes longer
    this.position = null;
    this.progress = null;
    this.problem = null;
    this.ending = null; // report of the run under way, once it has ended
    this.report = null; // of the picture that is here
    this.sizePx = null; // width and height as the service has them; a browser may take an EXIF resolution into account
    this.measuring = null; // settled once `sizePx` is known before there is a report, or cannot be
    this.resultUrl = null;
    this.isSaved = false; // that picture
    this.near = null; // box of the face that is seen from near
    this.previews = new Map(); // of the run under way, by face
    this.job = null; // of the run under way, or the last one
    this.held = new Set(); // jobs that the service may remember
    this.sending = null; // settled once the job that is being sent is known, or will never be
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
    if (this.stage === "deleting") return;
    const controller = this.#takeOver();
    const { signal } = controller;
    const onWait = this.#waiter(controller);
    this.previews.clear();
    this.#enter("waiting", { position: null, progress: null, problem: null });
    let entered = false;
    try {
      await turn(Boolean(this.job), signal);
      entered = true;
      this.#enter("sending");
      await this.#send(signal, onWait);
      const earlier = [...this.held].filter((job) => job !== this.job);
      this.#forget(earlier).catch(() => {}); // still held: tried again after the next run, and told when he deletes it
      await follow(this.job.urls.events, signal, onWait, (name, state) => {
        if (!signal.aborted) this.#moved(name, state);
      });
      if (this.stage === "ended") await this.#fetch(signal, onWait);
    } catch (error) {
      if (controller !== this.controller || isAbort(error)) return;
      this.#failed(error.problem?.status === 404 ? LOST : problemIn(error));
    } finally {
      if (entered) leave();
    }
  }

  /** Stop the run under way; the result before it stays. */
  async cancel() {
    const controller = this.#takeOver();
    this.previews.clear();
    this.#enter(this.report ? "done" : "cancelled");
    let problem = null;
    try {
      await this.sending;
      const onWait = this.#waiter(controller);
      if (this.job) await unlessGone(call(this.job.urls.cancel, { method: "POST", insists: true, onWait }));
    } catch (error) {
      problem = problemIn(error);
    }
    if (controller !== this.controller) return; // run again, or deleted
    if (problem) this.#undone("The restoration could not be cancelled", problem, "Delete the photo to end it");
    else this.onChange(this, `${this.name}: cancelled.`);
  }

  /** Let service and page forget it; false, and it stays, if the service may still have it. */
  async remove() {
    const controller = this.#takeOver();
    this.previews.clear();
    this.#enter("deleting", { progress: null });
    try {
      await this.sending;
      await this.#forget([...this.held], this.#waiter(controller));
    } catch (error) {
      this.#undone("The photo could not be deleted", problemIn(error), "Delete it again: the service may have it");
      return false;
    }
    await this.turning;
    URL.revokeObjectURL(this.url);
    if (this.resultUrl) URL.revokeObjectURL(this.resultUrl);
    return true;
  }

  /** Show it the right way up where the browser does not. */
  async #turn() {
    const picture = await upright(this.file);
    if (!picture) return this.file;
    const asItLies = this.url;
    this.url = URL.createObjectURL(picture);
    this.onChange(this);
    URL.revokeObjectURL(asItLies);
    return picture;
  }

  /** Find out its size, as previews need it. */
  async #measure() {
    const bitmap = await createImageBitmap(await this.turning);
    this.sizePx ??= [bitmap.width, bitmap.height];
    bitmap.close();
    this.onChange(this);
  }

  /** Give up what is under way, for what comes now. */
  #takeOver() {
    this.controller?.abort();
    return (this.controller = new AbortController());
  }

  #enter(stage, more) {
    Object.assign(this, { stage, note: "", ...more });
    this.onChange(this);
  }

  /** Notes why it takes longer, as long as it is about what is under way. */
  #waiter(controller) {
    return (note) => {
      if (controller !== this.controller) return;
      this.note = note;
      this.onChange(this);
    };
  }

  /** Send it; the job is kept in mind even if the run is given up meanwhile. */
  async #send(signal, onWait) {
    await this.sending; // a run that was given up: its job has the photo
    signal.throwIfAborted();
    const sending = this.#submit(this.job, signal, onWait).then((job) => {
      this.job = job;
      this.held.add(job);
    });
    this.sending = sending.catch(() => {});
    await sending;
    signal.throwIfAborted();
  }

  /** Let the service forget jobs; throws if it may still have one of them. */
  async #forget(jobs, onWait) {
    const forgotten = jobs.map(async (job) => {
      await unlessGone(call(job.urls.report, { method: "DELETE", insists: true, onWait }));
      this.held.delete(job);
    });
    const failed = (await Promise.allSettled(forgotten)).find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
  }

  /** The photo itself where it has to be sent, else the restoration that has it. */
  async #submit(earlier, signal, onWait) {
    const fields = { ...this.options, keep_image: "true", preview: "true" };
    if (earlier) {
      try {
        return await submit({ ...fields, image_from: earlier.id }, signal, onWait);
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
    if (!(await isReadable(this.file))) {
      throw Object.assign(new Error("unreadable"), {
        problem: { title: "The file cannot be read", detail: "It is a folder, or was moved or changed", hint: "Choose the photo again", retryable: false },
      });
    }
    signal.throwIfAborted();
    return submit({ ...fields, image: this.file }, signal, onWait);
  }

  #moved(name, state) {
    if (name === "preview") {
      this.previews.set(state.face_index, state);
      this.measuring ??= this.#measure().catch(() => {}); // the browser cannot show the photo either
      this.onChange(this);
    } else if (state.status === "succeeded") {
      this.#enter("ended", { ending: state }); // shown with its picture
    } else if (state.status === "failed") {
      this.#failed(state.error);
    } else {
      this.#enter(state.status, { position: state.position, progress: state.progress });
    }
  }

  #failed(problem) {
    Object.assign(this, { stage: "failed", note: "", problem });
    this.previews.clear();
    this.onChange(this, `${this.name}: ${problem.title}.`);
  }

  /** The service did not do what the visitor asked for. */
  #undone(title, cause, hint) {
    this.#failed({ title, detail: cause.title, hint, retryable: false });
  }

  async #fetch(signal, onWait) {
    const result = await picture(this.ending.urls.result, signal, onWait);
    signal.throwIfAborted();
    const { seed, upscale } = this.options; // as text: numbers lose digits of large seeds
    const report = { ...this.ending, seed: seed || String(this.ending.seed) };
    const sizePx = [report.width, report.height].map((side) => Math.round(side / Number(upscale)));
    if (this.resultUrl) URL.revokeObjectURL(this.resultUrl);
    Object.assign(this, { stage: "done", note: "", report, sizePx, resultUrl: URL.createObjectURL(result), isSaved: false });
    this.previews.clear();
    this.options = { ...this.options, seed: report.seed }; // changes come one by one
    const count = this.report.faces.filter((face) => face.status === "restored").length;
    this.onChange(this, `${this.name}: ${counted(count, "face")} restored.`);
  }
}

export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** What the service does not know (any more) is as good as gone. */
async function unlessGone(answer) {
  try {
    await answer;
  } catch (error) {
    if (error.problem?.status !== 404) throw error;
  }
}

/** Whether a file is still there, as it was chosen. */
const isReadable = (file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);

/** The problem of a Refusal, or what stands for one. */
function problemIn(error) {
  return error.problem ?? { title: "Something went wrong on this page", detail: String(error.message ?? error) };
}
