// The official SDKs for JavaScript, `openai` and `@anthropic-ai/sdk`, against the program.
//
// Usage: node test.mjs PATH-OF-THE-BINARY
//
// Starts its own scripted provider, which speaks both protocols; prints one line per case, exits non-zero on failure.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const BINARY = resolve(process.argv[2]);
const CLIENT_KEY = "client-key";
const PROVIDER_KEY = "sk-secret-provider";
const MILLISECONDS = 20_000;
const ARGUMENTS = ['{"city"', ':"Oslo"}'];
const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const hi = [{ role: "user", content: "hi" }];

// --- The provider: how it behaves is the first part of the path.

const words = (text) => text.match(/\S+\s*/g) ?? [];

function message(text, call) {
  const content = [{ type: "text", text }];
  if (call) content.push({ type: "tool_use", id: "toolu_1", name: "get_weather", input: { city: "Oslo" } });
  const usage = { input_tokens: 2, cache_read_input_tokens: 1, cache_creation_input_tokens: 0, output_tokens: 4 };
  const head = { id: "msg_1", type: "message", role: "assistant", model: "real-claude", content };
  return { ...head, stop_reason: call ? "tool_use" : "end_turn", stop_sequence: null, usage };
}

function messageEvents(text, call) {
  const whole = message(text, call);
  const events = [{ type: "message_start", message: { ...whole, content: [], stop_reason: null } }];
  whole.content.forEach((block, index) => {
    const isText = block.type === "text";
    const empty = isText ? { type: "text", text: "" } : { ...block, input: {} };
    const deltas = isText
      ? words(text).map((text) => ({ type: "text_delta", text }))
      : ARGUMENTS.map((partial_json) => ({ type: "input_json_delta", partial_json }));
    events.push({ type: "content_block_start", index, content_block: empty });
    events.push(...deltas.map((delta) => ({ type: "content_block_delta", index, delta })));
    events.push({ type: "content_block_stop", index });
  });
  const delta = { stop_reason: whole.stop_reason, stop_sequence: null };
  events.push({ type: "message_delta", delta, usage: { output_tokens: 4 } }, { type: "message_stop" });
  return events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
}

const usage = {
  prompt_tokens: 3,
  completion_tokens: 4,
  total_tokens: 7,
  prompt_tokens_details: { cached_tokens: 1 },
};
const common = (object) => ({ id: "chatcmpl-1", object, created: 1795400000, model: "real-model" });

function completion(text, call) {
  const toolCall = { id: "call_1", type: "function", function: { name: "get_weather", arguments: ARGUMENTS.join("") } };
  const answer = { role: "assistant", content: text, ...(call && { tool_calls: [toolCall] }) };
  const choice = { index: 0, message: answer, finish_reason: call ? "tool_calls" : "stop", logprobs: null };
  return { ...common("chat.completion"), choices: [choice], usage };
}

function chunks(text, call) {
  const deltas = [{ role: "assistant", content: "" }, ...words(text).map((content) => ({ content }))];
  if (call) {
    const start = { index: 0, id: "call_1", type: "function", function: { name: "get_weather", arguments: "" } };
    deltas.push({ tool_calls: [start] });
    deltas.push(...ARGUMENTS.map((part) => ({ tool_calls: [{ index: 0, function: { arguments: part } }] })));
  }
  const choices = deltas.map((delta) => ({ index: 0, delta, finish_reason: null }));
  choices.push({ index: 0, delta: {}, finish_reason: call ? "tool_calls" : "stop" });
  const events = choices.map((choice) => ({ ...common("chat.completion.chunk"), choices: [choice] }));
  events.push({ ...common("chat.completion.chunk"), choices: [], usage });
  return [...events.map((event) => JSON.stringify(event)), "[DONE]"].map((data) => `data: ${data}\n\n`);
}

function answer(path, request, response) {
  const anthropic = path.includes("/messages");
  const whole = (status, body) => {
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  };
  const fail = (status, type, message) => {
    whole(status, anthropic ? { type: "error", error: { type, message } } : { error: { type, message } });
  };
  if (path.includes("/count_tokens")) return whole(200, { input_tokens: 42 });
  const behaviour = path.split("/")[1];
  if (behaviour === "overloaded") return fail(529, "overloaded_error", "Overloaded");
  if (behaviour === "strict") return fail(400, "invalid_request_error", "top_k: must be below 500");
  const seen = JSON.stringify(request.messages.at(-1));
  const call = Boolean(request.tools) && !seen.includes("3 C");
  const text = seen.includes("3 C") ? "It is 3 C in Oslo." : call ? "One moment." : "You said hi.";
  if (!request.stream) return whole(200, anthropic ? message(text, call) : completion(text, call));
  const events = anthropic ? messageEvents(text, call) : chunks(text, call);
  response.writeHead(200, { "content-type": "text/event-stream" });
  if (behaviour === "cut") {
    response.write(events.slice(0, 3).join(""), () => response.destroy());
    return;
  }
  response.end(events.join(""));
}

const provider = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => answer(request.url, JSON.parse(Buffer.concat(parts)), response));
});
await new Promise((listening) => provider.listen(0, "127.0.0.1", listening));

// --- The program.

/// Runs `use` with clients of a program that has these backends, such as "anthropic/good", in this order.
async function withProxy(backends, use) {
  const url = `http://127.0.0.1:${provider.address().port}`;
  const entries = backends.map((backend, at) => {
    const [protocol, behaviour] = backend.split("/");
    const base = `${url}/${behaviour}${protocol === "openai" ? "/v1" : ""}`;
    const entry = `provider: p${at}, name: ${behaviour}-${at}, api_key: ${PROVIDER_KEY}, model: model-${at}`;
    return `  - {priority: ${at + 1}, backends: [{${entry}, base_url: "${base}", protocol: ${protocol}}]}\n`;
  });
  const directory = mkdtempSync(join(tmpdir(), "ai-free-swap-sdk-"));
  const config = join(directory, "config.yaml");
  writeFileSync(config, `max_wait: 0\nserver: {api_key: ${CLIENT_KEY}}\nproviders:\n${entries.join("")}`);
  const options = { cwd: directory, env: {}, stdio: ["ignore", "ignore", "pipe"] };
  const program = spawn(BINARY, ["--config", config, "--host", "127.0.0.1", "--port", "0"], options);
  let log = "";
  const address = new Promise((found, failed) => {
    program.stderr.on("data", (data) => {
      log += data;
      const line = log.match(/listening on (http:\/\/\S+)/);
      if (line) found(line[1]);
    });
    program.on("exit", () => failed(new Error(`the program ended: ${log}`)));
  });
  const ended = new Promise((done) => program.on("exit", done));
  try {
    const baseURL = await address;
    const more = { apiKey: CLIENT_KEY, maxRetries: 0, timeout: MILLISECONDS };
    const openai = new OpenAI({ baseURL: `${baseURL}/v1`, ...more });
    await use({ openai, anthropic: new Anthropic({ baseURL, ...more }) });
  } finally {
    program.kill("SIGKILL");
    await ended;
    rmSync(directory, { recursive: true });
  }
  assert.ok(!log.includes(PROVIDER_KEY) && !log.includes("panicked"), log);
}

// --- Asking, whole or through the stream helper of the SDK.

const chat = ({ openai }, stream, messages = hi, more = {}) => {
  const body = { model: "aifree", messages, ...more };
  return stream ? openai.chat.completions.stream(body).finalChatCompletion() : openai.chat.completions.create(body);
};
const messages = ({ anthropic }, stream, turns = hi, more = {}) => {
  const body = { model: "aifree", max_tokens: 500, messages: turns, ...more };
  return stream ? anthropic.messages.stream(body).finalMessage() : anthropic.messages.create(body);
};
const responses = ({ openai }, stream, input = "hi", more = {}) => {
  const body = { model: "aifree", input, ...more };
  return stream ? openai.responses.stream(body).finalResponse() : openai.responses.create(body);
};
const textOf = (answer) => answer.content.filter((block) => block.type === "text").map((block) => block.text).join("");

const cases = {
  async text(good, stream) {
    await withProxy([good], async (clients) => {
      assert.equal((await chat(clients, stream)).choices[0].message.content, "You said hi.");
      const message = await messages(clients, stream);
      assert.deepEqual([textOf(message), message.stop_reason], ["You said hi.", "end_turn"]);
      assert.deepEqual([message.usage.input_tokens, message.usage.output_tokens], [2, 4]);
      const response = await responses(clients, stream);
      assert.deepEqual([response.output_text, response.status], ["You said hi.", "completed"]);
      assert.equal(response.usage.total_tokens, 7);
    });
  },

  async chat_tools(good, stream) {
    await withProxy([good], async (clients) => {
      const tools = [{ type: "function", function: { name: "get_weather", parameters: SCHEMA } }];
      const { message, finish_reason } = (await chat(clients, stream, hi, { tools })).choices[0];
      assert.equal(finish_reason, "tool_calls");
      assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Oslo" });
      const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "3 C" };
      const last = await chat(clients, stream, [...hi, message, result], { tools });
      assert.equal(last.choices[0].message.content, "It is 3 C in Oslo.");
    });
  },

  async messages_tools(good, stream) {
    await withProxy([good], async (clients) => {
      const tools = [{ name: "get_weather", input_schema: SCHEMA }];
      const first = await messages(clients, stream, hi, { tools });
      const call = first.content.at(-1);
      assert.deepEqual([first.stop_reason, call.name, call.input], ["tool_use", "get_weather", { city: "Oslo" }]);
      const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "3 C" }] };
      const turns = [...hi, { role: "assistant", content: first.content }, result];
      assert.equal(textOf(await messages(clients, stream, turns, { tools })), "It is 3 C in Oslo.");
    });
  },

  async responses_tools(good, stream) {
    await withProxy([good], async (clients) => {
      const tools = [{ type: "function", name: "get_weather", parameters: SCHEMA, strict: false }];
      const first = await responses(clients, stream, "hi", { tools });
      const call = first.output.find((item) => item.type === "function_call");
      assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
      const input = [{ type: "function_call_output", call_id: call.call_id, output: "3 C" }];
      const last = await responses(clients, stream, input, { tools, previous_response_id: first.id });
      assert.equal(last.output_text, "It is 3 C in Oslo.");
      assert.equal((await clients.openai.responses.retrieve(last.id)).id, last.id);
    });
  },

  async lists_and_counts(good) {
    await withProxy([good], async ({ openai, anthropic }) => {
      const { input_tokens } = await anthropic.messages.countTokens({ model: "m", messages: hi });
      assert.ok(good.startsWith("anthropic") ? input_tokens === 42 : input_tokens > 0 && input_tokens < 30);
      for (const client of [openai, anthropic]) {
        const ids = [];
        for await (const model of client.models.list()) ids.push(model.id);
        assert.deepEqual(ids, ["aifree"]);
      }
    });
  },

  async errors(good, stream) {
    const protocol = good.split("/")[0];
    await withProxy([good], async ({ openai, anthropic }) => {
      const wrong = { openai: openai.withOptions({ apiKey: "x" }), anthropic: anthropic.withOptions({ apiKey: "x" }) };
      await assert.rejects(messages(wrong, stream), Anthropic.AuthenticationError);
      await assert.rejects(responses(wrong, stream), OpenAI.AuthenticationError);
    });
    await withProxy([`${protocol}/strict`], async (clients) => {
      const told = (kind) => (e) => e instanceof kind && e.message.includes("top_k");
      await assert.rejects(messages(clients, stream), told(Anthropic.BadRequestError));
      await assert.rejects(responses(clients, stream), told(OpenAI.BadRequestError));
      await assert.rejects(chat(clients, stream), told(OpenAI.BadRequestError));
    });
    await withProxy([`${protocol}/overloaded`], async (clients) => {
      const told = (status) => (e) => e.status === status && e.message.includes("All configured providers failed");
      await assert.rejects(messages(clients, stream), told(529));
      await assert.rejects(responses(clients, stream), told(503));
      await assert.rejects(chat(clients, stream), told(503));
    });
  },

  async an_answer_that_breaks_off(good) {
    await withProxy([good.replace("good", "cut")], async (clients) => {
      await assert.rejects(messages(clients, true), /broke off/);
      await assert.rejects(chat(clients, true), /broke off/);
      const response = await responses(clients, true).catch((e) => e);
      assert.ok(response instanceof Error || response.status === "failed", JSON.stringify(response));
    });
  },

  async failures_are_invisible(good, stream) {
    const other = good.startsWith("openai") ? "anthropic" : "openai";
    for (const failing of ["overloaded", "strict"]) {
      await withProxy([`${other}/${failing}`, good], async (clients) => {
        assert.equal(textOf(await messages(clients, stream)), "You said hi.");
        assert.equal((await responses(clients, stream)).output_text, "You said hi.");
        assert.equal((await chat(clients, stream)).choices[0].message.content, "You said hi.");
      });
    }
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  const told = [];
  for (const protocol of ["openai", "anthropic"]) {
    for (const stream of [false, true]) {
      await run(`${protocol}/good`, stream).catch((e) => {
        told.push(`FAILED over ${protocol}, stream ${stream}\n${e.stack}\n`);
      });
    }
  }
  failed += told.length > 0;
  console.log(`${name}: ${told.join("") || "ok"}`);
}
console.log(`node ${process.version}: ${failed} failed`);
process.exit(failed ? 1 : 0);
