// Vercel's AI SDK with its provider for OpenAI-compatible servers: whole, streamed, and its errors.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, jsonSchema, streamObject, streamText, tool } from "ai";
import { apiKey, baseURL, model, question } from "./server.js";

const provider = createOpenAICompatible({
  name: "octavo",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const capital = jsonSchema({
  type: "object",
  properties: { city: { enum: ["Rome", "Paris"] } },
  required: ["city"],
  additionalProperties: false,
});
const settings = { prompt: question, temperature: 0, maxOutputTokens: 12, maxRetries: 0 };

test("text, whole and streamed, is the same", async () => {
  const whole = await generateText({ ...settings, model: provider(model) });
  assert.match(whole.text, /Paris/);
  assert.equal(whole.finishReason, "stop");
  const stream = streamText({ ...settings, model: provider(model) });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, "stop");
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});

test("a conversation with a system message", async () => {
  const messages = [
    { role: "user", content: [{ type: "text", text: question }] },
    { role: "assistant", content: "Paris." },
    { role: "user", content: "Say it again." },
  ];
  const { text, usage } = await generateText({
    model: provider(model),
    system: "Answer in one word.",
    messages,
    temperature: 0,
    maxOutputTokens: 4,
  });
  assert.ok(text.length > 0 && usage.inputTokens > 20);
});

test("completions", async () => {
  const { text } = await generateText({ ...settings, model: provider.completionModel(model), maxOutputTokens: 4 });
  assert.ok(text.length > 0);
});

test("a call that must be made", async () => {
  const asked = {
    ...settings,
    model: provider(model),
    tools: { look: tool({ inputSchema: capital }) },
    providerOptions: { octavo: { parallel_tool_calls: false } },
    maxOutputTokens: 60,
  };
  const { toolCalls } = await generateText({ ...asked, toolChoice: "required" });
  assert.equal(toolCalls[0].toolName, "look");
  assert.ok(["Rome", "Paris"].includes(toolCalls[0].input.city));
  const stream = streamText({ ...asked, toolChoice: { type: "tool", toolName: "look" } });
  await stream.consumeStream();
  assert.deepEqual((await stream.toolCalls)[0].input, toolCalls[0].input);
});

test("an object, whole and streamed", async () => {
  const asked = { ...settings, model: provider(model), schema: capital, maxOutputTokens: 60 };
  const { object, finishReason } = await generateObject(asked);
  assert.ok(["Rome", "Paris"].includes(object.city));
  assert.equal(finishReason, "stop");
  const stream = streamObject(asked);
  let last;
  for await (const part of stream.partialObjectStream) last = part;
  assert.deepEqual(last, object);
  assert.deepEqual(await stream.object, object);
});

test("errors become the client's own", async () => {
  const check = (status, words) => (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, status);
    assert.match(error.message, words);
    return true;
  };
  const wrong = { ...settings, model: provider(model), temperature: 3 };
  await assert.rejects(generateText(wrong), check(400, /temperature/));
  await assert.rejects(generateText({ ...settings, model: provider("gpt") }), check(404, /does not exist/));
  let seen;
  const stream = streamText({ ...wrong, onError: ({ error }) => (seen = error) });
  for await (const part of stream.fullStream) seen ??= part.error;
  check(400, /temperature/)(seen);
});
