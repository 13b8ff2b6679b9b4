// Constrained generation with fetch: a whole answer, a stream, and an error. JavaScript with TypeScript's types in JSDoc, so that
// node, deno, bun and browsers run it as it is, and `tsc --checkJs` checks it.
//
//     node examples/http/generate.mjs [http://HOST:PORT]
// @ts-check

/**
 * @typedef {{ type: string, [option: string]: unknown }} Constraint
 * @typedef {{ max_tokens?: number, temperature?: number, seed?: number, [name: string]: unknown }} Sampling
 * @typedef {{ accepted: boolean, kind: string | null, guarantee: "exact" | "verified" | "none", constraint_satisfied: boolean | null,
 *             unsatisfied_reason: string | null }} Report
 * @typedef {{ text: string, finishReason: string, report: Report | null }} Result
 */

const TIMEOUT_MS = 60_000;

/** An error of the server: `code` is one of Ananke's closed set, or the HTTP status where it says none. */
export class AnankeError extends Error {
  /** @param {number} status @param {string} body */
  constructor(status, body) {
    const text = parsed(body)?.error ?? body;
    const [, code, message] = /\[([a-z_]+)\] ([^]*)/.exec(text) ?? [];
    super(message ?? text);
    this.code = code ?? String(status);
  }
}

/**
 * A whole generation.
 * @param {string} url @param {string} prompt @param {Constraint | null} constraint @param {Sampling} [sampling]
 * @returns {Promise<Result>}
 */
export async function generate(url, prompt, constraint, sampling = {}) {
  const response = await post(`${url}/v2/models/generate/generate`, body(prompt, constraint, sampling, false));
  return resultOf(await response.json());
}

/**
 * A generation's text in pieces, as the model writes it; its result is what the generator returns.
 * @param {string} url @param {string} prompt @param {Constraint | null} constraint @param {Sampling} [sampling]
 * @returns {AsyncGenerator<string, Result>}
 */
export async function* generateStream(url, prompt, constraint, sampling = {}) {
  const response = await post(`${url}/v2/models/generate/generate_stream`, body(prompt, constraint, sampling, true));
  let text = "";
  let last = null;
  for await (const event of events(response)) {
    if (event.error) throw new AnankeError(response.status, JSON.stringify(event));
    last = event;
    text += event.text_output;
    if (event.text_output) yield event.text_output;
  }
  if (!last?.finish_reason) throw new Error("the stream broke off");
  return { ...resultOf(last), text };
}

/** The events of a stream: an event ends with an empty line, wherever the network cuts its bytes. @param {Response} response */
async function* events(response) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    buffer += read.value;
    const whole = buffer.split("\n\n");
    buffer = whole.pop() ?? "";
    for (const event of whole) yield JSON.parse(event.replace(/^data: /, ""));
  }
}

/** @param {string} prompt @param {Constraint | null} constraint @param {Sampling} sampling @param {boolean} stream */
function body(prompt, constraint, sampling, stream) {
  return {
    text_input: prompt,
    ...(constraint && { constraint: JSON.stringify(constraint) }), // JSON text, quoted within the request
    sampling_parameters: JSON.stringify(sampling),
    exclude_input_in_output: true,
    return_finish_reason: true,
    stream,
  };
}

/** @param {string} url @param {object} content @returns {Promise<Response>} */
async function post(url, content) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(content),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!response.ok) throw new AnankeError(response.status, await response.text());
  return response;
}

/** @param {any} answer @returns {Result} */
function resultOf(answer) {
  const report = answer.constraint_report ? JSON.parse(answer.constraint_report) : null;
  return { text: answer.text_output, finishReason: answer.finish_reason, report };
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

async function main() {
  const given = process.argv[2] ?? process.env.ANANKE_HTTP_URL ?? "localhost:8000";
  const url = /^https?:/.test(given) ? given : `http://${given}`;

  const schema = {
    type: "object",
    properties: { city: { type: "string", pattern: "^[A-Z][a-z]{2,11}$" } },
    required: ["city"],
    additionalProperties: false,
  };
  const city = { type: "json_schema", schema, whitespace: "compact" };
  const result = await generate(url, "The capital of France, as JSON: ", city, { max_tokens: 30, temperature: 0 });
  console.log(JSON.stringify({ parsed: JSON.parse(result.text), satisfied: result.report?.constraint_satisfied }));

  const release = { type: "regex", pattern: "v[0-9]{1,2}[.][0-9]{1,2}" };
  const stream = generateStream(url, "The next release is ", release, { max_tokens: 12, seed: 7 });
  const pieces = [];
  let step = await stream.next();
  for (; !step.done; step = await stream.next()) pieces.push(step.value);
  console.log(JSON.stringify({ pieces, text: step.value.text, finish_reason: step.value.finishReason }));

  try {
    await generate(url, "x", { type: "regex", pattern: "(?=a)b" });
  } catch (error) {
    if (!(error instanceof AnankeError)) throw error;
    console.log(JSON.stringify({ code: error.code, message: error.message }));
  }
}

if (import.meta.url === new URL(`file://${process.argv[1]}`).href) await main();
