/* What the page asks the service: JSON, pictures and events, with the visitor's key where the service wants one. */

const KEY = "latent-pmrf-key";
const COME_BACK = new Set(["queue_full", "rate_limited"]);
const MOST_PAUSES = 20;
let asking = null;

/** A refusal in words: a problem document (RFC 9457), or what stands for one. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.title);
    this.problem = problem;
  }
}

export const isAbort = (error) => error?.name === "AbortError";

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

/** A request with the visitor's key; whoever has none is asked for it. Throws a Refusal unless the answer is good. */
export async function call(path, init = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...init.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const response = await reached(fetch(path, { ...init, headers }));
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401) throw new Refusal(problem);
    if (sessionStorage.getItem(KEY) === key) await askForKey(problem, Boolean(key));
  }
}

export const json = async (path, init) => (await call(path, init)).json();

/**
 * Submit a job; while the queue is full, come back when the service says.
 * @param fields The form, by name; a File or the id of an earlier restoration among them.
 * @param onWait Told in words why it takes longer.
 */
export async function submit(fields, signal, onWait) {
  for (let pauses = 0; ; pauses += 1) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value !== "" && value !== null) body.append(name, value);
    try {
      return await json("/v1/restorations", { method: "POST", body, signal, headers: { Prefer: "wait=0" } });
    } catch (error) {
      const { code, retry_after_s: waitS, title } = error.problem ?? {};
      if (!COME_BACK.has(code) || !waitS || pauses >= MOST_PAUSES) throw error;
      onWait(`${title}; trying again in ${waitS} s`);
      await pause(waitS * 1000, signal);
    }
  }
}

/** Follow a job's events until the last one; whatever breaks the connection, it is taken up again. */
export async function follow(path, signal, onEvent) {
  for (let failures = 0; ; failures += 1) {
    try {
      const response = await call(path, { signal });
      for await (const { name, data } of events(response)) {
        failures = 0;
        onEvent(name, data);
        if (name === "end") return;
      }
    } catch (error) {
      if (isAbort(error) || (error.problem && error.problem.status < 500) || failures > 5) throw error;
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

async function reached(answer) {
  try {
    return await answer;
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Refusal({ title: "The service does not answer", detail: "The connection failed.", hint: "Is it running, and are you online?", status: 503 });
  }
}

async function problemOf(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || undefined;
  try {
    return { retry_after_s: retryAfter, ...(await response.json()), status: response.status };
  } catch {
    return { title: `The service answered with ${response.status}`, retry_after_s: retryAfter, status: response.status };
  }
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
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (dialog.returnValue !== "ok") return reject(new Refusal(problem));
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
