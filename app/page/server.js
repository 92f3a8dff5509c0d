// Speaks to the server: keys, errors in words, events of a stream. Knows no chats and no elements.

const KEY = "octavo.key";

export class ServerError extends Error {
  /** message: words for a person. code: the server's word for programs, "" if it was not the server who spoke. */
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }

  get wantsKey() {
    return this.status === 401;
  }
}

export function apiKey() {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

/** Keep the key for this tab, or for this browser. An empty one is forgotten. */
export function setApiKey(key, remember) {
  for (const storage of [sessionStorage, localStorage]) storage.removeItem(KEY);
  if (key) (remember ? localStorage : sessionStorage).setItem(KEY, key);
}

/**
 * A response with a good status. Throws ServerError; an abort of `signal` is passed on as the browser's AbortError.
 * credentials: see lanes.js.
 */
export async function call(path, { body, signal, credentials = "same-origin" } = {}) {
  const headers = {};
  const key = apiKey();
  // A header carries bytes; the server reads them as UTF-8.
  if (key) headers.authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      credentials,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const { status } = response;
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    // A proxy in between has its own pages.
  }
  if (!error?.message) {
    return new ServerError(`The server answered ${status} ${response.statusText}`.trim() + ".", { status });
  }
  const wait = response.headers.get("retry-after");
  const later = wait && status !== 401 ? ` Try again in ${wait} ${wait === "1" ? "second" : "seconds"}.` : "";
  return new ServerError(error.message + later, { status, code: error.code ?? "" });
}

/**
 * Every event's data, as text. Throws ServerError when the connection breaks.
 * Comments, which keep a silent connection alive, are passed over.
 */
export async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new ServerError("The connection to the server was lost.");
      }
      if (piece.done) return;
      const blocks = (rest + piece.value.replaceAll("\r", "")).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** An event's JSON. Throws the ServerError that it tells, if it tells one. */
export function parse(data) {
  const value = JSON.parse(data);
  if (value.error) throw new ServerError(value.error.message, { code: value.error.code ?? "" });
  return value;
}
