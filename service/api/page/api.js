/* What the page asks the service: JSON, pictures and events, with the visitor's key where the service wants one. */

const KEY = "latent-pmrf-key";
const USABLE_KEY = /^[!-~]+$/; // no header takes another character
const MOST_PAUSES = 20;
const FEW_PAUSES = 4;
const SHORT_S = 1;
/* What a visitor can do; the service's own words are for programmers. */
const NO_KEY = { title: "A key is needed", detail: "You gave none", hint: "Try again when you have one", retryable: true };
const SILENT = { title: "The service does not answer", detail: "The connection failed", hint: "Is it running, and are you online?", status: 503 };
let asking = null;
let keptKey = null; // where the browser lets no page store anything

/** A refusal in words: a problem document (RFC 9457), or what stands for one. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

export const isAbort = (error) => error?.name === "AbortError";

/** A name for a request that nobody else gives; `randomUUID` is not there over plain HTTP. */
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

function keyInUse() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return keptKey;
  }
}

function keepKey(key) {
  keptKey = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // asked for again when the page is loaded again
  }
}

/** Wait, unless `signal` ends it first. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

/**
 * A request with the visitor's key; whoever has none is asked for it, and whoever comes too often comes back when the
 * service says. Throws a Refusal unless the answer is good.
 * @param signal Ends the request and the pauses before it.
 * @param lasts A request that is on its way is brought to its end whatever the signal says; it may be repeated, and is
 *   when its answer is lost.
 * @param insists It is tried again for a while when the service cannot be reached or cannot do it now.
 * @param onWait Told in words why it takes longer, and "" when it goes on.
 */
export async function call(path, { signal, lasts = false, insists = false, onWait = () => {}, ...init } = {}) {
  let end = signal;
  for (let pauses = 0; ; pauses += 1) {
    end?.throwIfAborted();
    const key = keyInUse();
    const headers = { ...init.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const { response, problem } = await answerOf(fetch(path, { ...init, headers, signal: lasts ? null : signal }));
    if (response) return response;
    if (problem.status === 401) {
      if (keyInUse() === key) await askForKey(problem, Boolean(key));
      continue;
    }
    const isOpen = lasts && problem.isLost; // the service may have done it
    const waitS = worthWaiting(problem, pauses, insists || isOpen);
    if (!waitS) throw new Refusal(problem);
    end = isOpen ? null : signal;
    end?.throwIfAborted();
    onWait(`${problem.title}; trying again in ${Math.ceil(waitS)} s`);
    await pause(waitS * 1000, end);
    onWait("");
  }
}

/** Seconds after which a refused request may be sent again; 0 if that is no use. */
function worthWaiting({ status, code, retry_after_s: toldS }, pauses, insists) {
  const comesTooOften = status === 429 && code !== "quota_exceeded"; // that one takes hours
  if (comesTooOften && pauses < MOST_PAUSES) return toldS ?? (insists ? SHORT_S : 0);
  return insists && status === 503 && pauses < FEW_PAUSES ? toldS ?? SHORT_S : 0;
}

/** A picture in full: one that breaks off is fetched again. */
export async function picture(path, signal, onWait) {
  for (let breaks = 0; ; breaks += 1) {
    const response = await call(path, { signal, insists: true, onWait });
    try {
      return await response.blob();
    } catch (error) {
      if (isAbort(error)) throw error;
      if (breaks >= FEW_PAUSES) throw new Refusal(SILENT);
    }
    await pause(SHORT_S * 1000, signal);
  }
}

export const json = async (path, init) => (await call(path, init)).json();

/**
 * Submit a job. Once it is on its way its answer is waited for: only that tells the id by which it can be withdrawn. If the
 * answer is lost the service is asked again, and its key makes that the same job.
 * @param fields The form, by name; a File or the id of an earlier restoration among them.
 */
export async function submit(fields, signal, onWait) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value !== "" && value !== null) body.append(name, value);
  const headers = { Prefer: "wait=0", "Idempotency-Key": newKey() };
  const job = await json("/v1/restorations", { method: "POST", body, headers, signal, lasts: true, onWait });
  const own = job.urls.report; // a job that has ended meanwhile is answered by its report, which has fewer addresses
  return { ...job, urls: { events: `${own}/events`, cancel: `${own}/cancel`, ...job.urls } };
}

/** Follow a job's events until the last one; whatever breaks the connection, it is taken up again. */
export async function follow(path, signal, onWait, onEvent) {
  for (let failures = 0; ; failures += 1) {
    try {
      const response = await call(path, { signal, onWait });
      onWait("");
      for await (const { name, data } of events(response)) {
        failures = 0;
        onEvent(name, data);
        if (name === "end") return;
      }
    } catch (error) {
      if (isAbort(error) || (error.problem && error.problem.status < 500) || failures > 5) throw error;
      onWait(`${SILENT.title}; trying again`);
    }
    await pause(Math.min(500 * 2 ** failures, 8000), signal);
  }
}

/** Server-sent events of a response; EventSource could not send the key. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
        if (fields.data) yield { name: fields.event, data: JSON.parse(fields.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A good response, or else the problem. */
async function answerOf(fetched) {
  try {
    const response = await fetched;
    return response.ok ? { response } : { problem: await problemOf(response) };
  } catch (error) {
    if (isAbort(error)) throw error;
    return { problem: { ...SILENT, isLost: true } };
  }
}

async function problemOf(response) {
  const { status } = response;
  const told = await response.json().catch(() => ({ title: `The service answered with ${status}` }));
  const waitS = told.retry_after_s || Number(response.headers.get("retry-after")) || undefined;
  return { ...told, retry_after_s: waitS, status };
}

/** One question at a time, however many requests wait for the key. */
function askForKey(problem, wasRefused) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("key");
    document.getElementById("ask-why").textContent = wasRefused
      ? `That key was refused: ${problem.detail ?? problem.title}.`
      : "Its operator gives them out. The key is kept until you close this tab.";
    field.value = "";
    field.oninput = () => {
      const isUsable = !field.value || USABLE_KEY.test(field.value.trim());
      field.setCustomValidity(isUsable ? "" : "This is no key: a space or a special character is in it.");
    };
    field.oninput();
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (dialog.returnValue !== "ok") return reject(new Refusal({ ...problem, ...NO_KEY }));
      keepKey(field.value.trim());
      field.value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
