// Constrained generation with fetch: a whole answer, a stream, and an error. Only types that can be stripped, so that node 22.18
// and later, deno and bun run it as it is; for others `tsc generate.mts --target es2022 --module nodenext` makes generate.mjs of it.
//
//     node examples/http/generate.mts [http://HOST:PORT]

import { fileURLToPath } from "node:url";

export type Constraint =
  | { type: "json_schema"; schema: object | boolean; whitespace?: "flexible" | "compact"; unsupported?: "refuse" | "verify" }
  | { type: "regex"; pattern: string; dialect?: "rust" | "ecma" }
  | { type: "choice"; choices: string[] }
  | { type: "grammar"; grammar: string; syntax?: "lark" | "gbnf" }
  | { type: "token_mask"; allowed?: number[]; forbidden?: number[] }
  | { type: "composite"; mode: "all" | "any" | "sequence"; constraints: Constraint[] };

/** vLLM's names; see GenerationConfig for the others. */
export interface Sampling {
  max_tokens?: number;
  temperature?: number;
  seed?: number;
  [name: string]: unknown;
}

export interface Report {
  accepted: boolean;
  kind: string | null;
  guarantee: "exact" | "verified" | "none";
  constraint_satisfied: boolean | null;
  unsatisfied_reason: string | null;
}

export interface Result {
  text: string;
  finishReason: string;
  /** What the server made of the constraint; null without one. */
  report: Report | null;
}

/** What Triton answers, as far as it is read here. */
interface Answer {
  text_output: string;
  finish_reason?: string;
  constraint_report?: string;
  error?: string;
}

const TIMEOUT_MS = 60_000;

/** An error of the server: `code` is one of Ananke's closed set, or the HTTP status where it says none. */
export class AnankeError extends Error {
  readonly code: string;

  constructor(status: number, text: string) {
    const [, code, message] = /\[([a-z_]+)\] ([^]*)/.exec(text) ?? [];
    super(message ?? text);
    this.code = code ?? String(status);
  }
}

/** A whole generation. */
export async function generate(url: string, prompt: string, constraint: Constraint | null, sampling: Sampling = {}): Promise<Result> {
  const response = await post(`${url}/v2/models/generate/generate`, requestOf(prompt, constraint, sampling, false));
  return resultOf((await response.json()) as Answer);
}

/** A generation's text in pieces, as the model writes it; its result is what the generator returns. */
export async function* generateStream(
  url: string,
  prompt: string,
  constraint: Constraint | null,
  sampling: Sampling = {},
): AsyncGenerator<string, Result> {
  const response = await post(`${url}/v2/models/generate/generate_stream`, requestOf(prompt, constraint, sampling, true));
  let text = "";
  let last: Answer | undefined;
  for await (const answer of answersOf(response)) {
    if (answer.error !== undefined) throw new AnankeError(response.status, answer.error);
    last = answer;
    text += answer.text_output;
    if (answer.text_output !== "") yield answer.text_output;
  }
  if (last?.finish_reason === undefined) throw new Error("the stream broke off");
  return { ...resultOf(last), text };
}

/** The events of a stream: one ends with an empty line, wherever the network cuts its bytes. */
async function* answersOf(response: Response): AsyncGenerator<Answer> {
  if (response.body === null) return;
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const bytes of response.body) {
    buffer += decoder.decode(bytes, { stream: true });
    const events = buffer.split("\n\n");
    buffer = events.pop() ?? "";
    for (const event of events) yield JSON.parse(event.replace(/^data: /, "")) as Answer;
  }
}

function requestOf(prompt: string, constraint: Constraint | null, sampling: Sampling, stream: boolean): object {
  return {
    text_input: prompt,
    ...(constraint && { constraint: JSON.stringify(constraint) }), // JSON text, quoted within the request
    sampling_parameters: JSON.stringify(sampling),
    exclude_input_in_output: true,
    return_finish_reason: true,
    stream,
  };
}

async function post(url: string, content: object): Promise<Response> {
  const headers = { "content-type": "application/json" };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(content), signal });
  if (!response.ok) throw new AnankeError(response.status, errorIn(await response.text()));
  return response;
}

/** Triton's errors are JSON, in an event where a stream was asked for; a proxy's need not be. */
function errorIn(body: string): string {
  try {
    return (JSON.parse(body.replace(/^data: /, "")) as Answer).error ?? body;
  } catch {
    return body;
  }
}

function resultOf(answer: Answer): Result {
  const report = answer.constraint_report ? (JSON.parse(answer.constraint_report) as Report | null) : null;
  return { text: answer.text_output, finishReason: answer.finish_reason ?? "", report };
}

async function main(): Promise<void> {
  const given = process.argv[2] ?? process.env["ANANKE_HTTP_URL"] ?? "localhost:8000";
  const url = /^https?:/.test(given) ? given : `http://${given}`;

  const schema = {
    type: "object",
    properties: { city: { type: "string", pattern: "^[A-Z][a-z]{2,11}$" } },
    required: ["city"],
    additionalProperties: false,
  };
  const city: Constraint = { type: "json_schema", schema, whitespace: "compact" };
  const result = await generate(url, "The capital of France, as JSON: ", city, { max_tokens: 30, temperature: 0 });
  console.log(JSON.stringify({ parsed: JSON.parse(result.text), satisfied: result.report?.constraint_satisfied }));

  const release: Constraint = { type: "regex", pattern: "v[0-9]{1,2}[.][0-9]{1,2}" };
  const stream = generateStream(url, "The next release is ", release, { max_tokens: 12, seed: 7 });
  const pieces: string[] = [];
  let step = await stream.next();
  for (; !step.done; step = await stream.next()) pieces.push(step.value);
  console.log(JSON.stringify({ pieces, text: step.value.text, finish_reason: step.value.finishReason }));

  const lookahead: Constraint = { type: "regex", pattern: "(?=a)b" };
  for (const ask of [() => generate(url, "x", lookahead), () => generateStream(url, "x", lookahead).next()]) {
    try {
      await ask();
    } catch (error) {
      if (!(error instanceof AnankeError)) throw error;
      console.log(JSON.stringify({ code: error.code, message: error.message }));
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
