// Ask a running `palmtop serve` with OpenAI's npm client, unmodified, and check its answers.
//
//   npm install openai
//   palmtop serve "$(palmtop demo --where)" &
//   node docs/serve/npm_check.mjs http://127.0.0.1:8080/v1
//
// Exits with 1 at the first wrong answer. The answers are the packaged model's.
import assert from "node:assert/strict";
import {createReadStream, readFileSync} from "node:fs";
import OpenAI from "openai";

const baseURL = process.argv[2], samples = new URL("../../runtime/reference/samples/", import.meta.url).pathname;
const client = new OpenAI({baseURL, apiKey: "none", maxRetries: 0});
const model = (await client.models.list()).data[0].id;
const data = name => readFileSync(samples + name).toString("base64");
const picture = {type: "image_url", image_url: {url: "data:image/png;base64," + data("image.png")}};
const sound = {type: "input_audio", input_audio: {data: data("audio.wav"), format: "wav"}};
const user = (text, ...parts) => [{role: "user", content: [...parts, {type: "text", text}]}];
const digits = user("digits: two eight nine. What is it?");
const digit = {type: "integer", minimum: 0, maximum: 9};
const parameters = {type: "object", properties: {a: digit, b: digit}, required: ["a", "b"], additionalProperties: false};
const tools = [{type: "function", function: {name: "add", description: "Adds two numbers.", parameters}}];
const create = (messages, more = {}) => client.chat.completions.create({model, messages, ...more});
const said = async (...request) => (await create(...request)).choices[0].message;

assert.equal((await said(digits)).content, "289");
assert.equal((await said(user("What is it?", sound))).content, "753");

let text = "";
for await (const chunk of await create(user("What is it?", picture), {stream: true, stream_options: {include_usage: true}})) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, "303");

for (const stream of [false, true]) {  // parallel calls, whole and put together from deltas by the client
  const request = {model, messages: digits, tools, tool_choice: "required", parallel_tool_calls: true, max_tokens: 800};
  const {message} = (stream
    ? await client.chat.completions.stream(request).finalChatCompletion()
    : await client.chat.completions.create(request)).choices[0];
  assert.ok(message.tool_calls.length >= 1 && message.tool_calls.length <= 8);
  assert.equal(new Set(message.tool_calls.map(call => call.id)).size, message.tool_calls.length);
  for (const call of message.tool_calls) {
    const values = JSON.parse(call.function.arguments);
    assert.equal(call.function.name, "add");
    assert.ok([values.a, values.b].every(n => Number.isInteger(n) && n >= 0 && n <= 9));
  }
  const results = message.tool_calls.map(call => ({role: "tool", tool_call_id: call.id, content: "7"}));
  const after = await said([...digits, {role: "assistant", content: null, tool_calls: message.tool_calls}, ...results], {tools});
  assert.ok(after.content !== null || after.tool_calls.length);
  console.log(`${stream ? "streamed" : "whole"}: ${message.tool_calls.length} calls, then ${JSON.stringify(after.content)}`);
}

const schema = {name: "sum", schema: parameters};
const formed = JSON.parse((await said(digits, {response_format: {type: "json_schema", json_schema: schema}})).content);
assert.deepEqual(Object.keys(formed).sort(), ["a", "b"]);

const written = await client.audio.transcriptions.create({model, file: createReadStream(samples + "audio.wav")});
assert.equal(typeof written.text, "string");

const left = await create(digits, {stream: true, max_tokens: 4000, response_format: {type: "json_object"}});
for await (const _ of left) { left.controller.abort(); break; }
assert.equal((await said(digits)).content, "289");
await assert.rejects(create(digits, {model: "none"}), error => error.status === 404 && error.code === "model_not_found");
console.log("every answer is right");
