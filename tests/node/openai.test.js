// The official `openai` client for Node: chat, completions and responses, whole and streamed, and its errors.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { apiKey, baseURL, model, question } from "./server.js";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const chat = { model, messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 12 };
const asked = { model, input: question, temperature: 0, max_output_tokens: 12 };

test("models", async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, "octavo");
});

test("chat, whole and streamed, says the same", async () => {
  const whole = await client.chat.completions.create(chat);
  assert.match(whole.choices[0].message.content, /Paris/);
  assert.equal(whole.choices[0].finish_reason, "stop");
  let text = "";
  let usage;
  const stream = await client.chat.completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the accumulating helper for chat", async () => {
  const final = await client.chat.completions.stream(chat).finalChatCompletion();
  assert.match(final.choices[0].message.content, /Paris/);
  assert.equal(final.choices[0].finish_reason, "stop");
});

test("completions", async () => {
  const settings = { model, prompt: "The capital of France is", temperature: 0, max_tokens: 4 };
  const whole = await client.completions.create(settings);
  let text = "";
  for await (const chunk of await client.completions.create({ ...settings, stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.match(text, /Paris/);
  assert.equal(text, whole.choices[0].text);
});

test("responses, whole and streamed, say the same", async () => {
  const whole = await client.responses.create(asked);
  assert.match(whole.output_text, /Paris/);
  const kinds = new Set();
  const stream = client.responses.stream(asked).on("event", (event) => kinds.add(event.type));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, whole.output_text);
  assert.ok(kinds.has("response.created") && kinds.has("response.completed"));
});

test("a call that must be made, of a helper that runs it", async () => {
  const properties = { city: { enum: ["Rome", "Paris"] } };
  const parameters = { type: "object", properties, required: ["city"], additionalProperties: false };
  const seen = [];
  const tool = { name: "look", parameters, parse: JSON.parse, function: ({ city }) => seen.push(city) && "Rain." };
  const runner = client.chat.completions.runTools({
    ...chat,
    max_tokens: 60,
    tools: [{ type: "function", function: tool }],
    tool_choice: "required",
    parallel_tool_calls: false,
  }, { maxChatCompletions: 1 });
  await runner.done();
  assert.equal(seen.length, 1);
  assert.ok(["Rome", "Paris"].includes(seen[0]));
  assert.equal(runner.messages.at(-1).role, "tool");
});

test("a stream that is left early is aborted", async () => {
  const stream = await client.chat.completions.create({ ...chat, max_tokens: 900, stream: true });
  for await (const _ of stream) break;
  assert.ok(stream.controller.signal.aborted);
});

test("errors become the client's own", async () => {
  const cases = [
    [{ temperature: 3 }, OpenAI.BadRequestError, "invalid_value", "temperature"],
    [{ max_tokens: 1e6 }, OpenAI.BadRequestError, "context_length_exceeded", "max_tokens"],
    [{ model: "gpt" }, OpenAI.NotFoundError, "model_not_found", "model"],
  ];
  for (const [fields, kind, code, param] of cases) {
    for (const stream of [false, true]) {
      await assert.rejects(client.chat.completions.create({ ...chat, ...fields, stream }), (error) => {
        assert.ok(error instanceof kind);
        assert.deepEqual([error.code, error.param], [code, param]);
        assert.ok(error.requestID);
        return true;
      });
    }
  }
  const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.responses.create(asked), OpenAI.AuthenticationError);
});
