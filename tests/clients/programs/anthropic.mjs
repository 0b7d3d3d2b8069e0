// The official Anthropic SDK for TypeScript, with its accumulator, parser and runner.

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";

import { City, Pet, describe, failure, setting, tell, weather } from "./steps.mjs";

const client = new Anthropic({ baseURL: setting.url, apiKey: "none", maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const ask = { model: setting.scripted, max_tokens: 500 };
const greet = { ...ask, messages: user(setting.greet) };
const pet = {
  model: setting.small,
  max_tokens: 60,
  messages: user(describe),
  output_config: { format: zodOutputFormat(Pet) },
};
const description = { name: "weather", description: "Tells it.", inputSchema: City };
const declared = {
  name: "weather",
  description: "Tells it.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

function runner(stream) {
  const cities = [];
  const run = (given) => {
    cities.push(given.city);
    return weather(given);
  };
  const tools = [betaZodTool({ ...description, run })];
  const running = client.beta.messages.toolRunner({
    ...ask,
    messages: user(setting.ask),
    tools,
    stream,
  });
  return { running, cities };
}

await tell({
  message: async () => {
    const created = await client.messages.create(greet);
    const counted = await client.messages.countTokens({
      model: greet.model,
      messages: greet.messages,
    });
    return { created, counted };
  },
  message_stream: async () => {
    const stream = client.messages.stream(greet);
    const seen = [];
    const texts = [];
    stream.on("streamEvent", ({ type }) => seen.push(type));
    stream.on("text", (delta) => texts.push(delta));
    const final = await stream.finalMessage();
    return { final, seen, texts };
  },
  tool_stream: async () => {
    const thinking = { type: "enabled", budget_tokens: 400 };
    const stream = client.messages.stream({
      ...ask,
      messages: user(setting.ask),
      tools: [declared],
      thinking,
    });
    const parts = [];
    const thoughts = [];
    stream.on("inputJson", (delta) => parts.push(delta));
    stream.on("thinking", (delta) => thoughts.push(delta));
    return { final: await stream.finalMessage(), parts, thoughts };
  },
  thinking_returns: async () => {
    const thinking = { type: "adaptive" };
    const messages = user(setting.ask);
    const asked = await client.messages.create({ ...ask, messages, thinking, tools: [declared] });
    const { id, input } = asked.content.find(({ type }) => type === "tool_use");
    const result = { type: "tool_result", tool_use_id: id, content: weather(input) };
    messages.push(
      { role: "assistant", content: asked.content },
      { role: "user", content: [result] },
    );
    return client.messages.create({ ...ask, messages, thinking, tools: [declared] });
  },
  parse: async () => (await client.messages.parse(pet)).parsed_output,
  stream_parse: async () => (await client.messages.stream(pet).finalMessage()).parsed_output,
  tool_runner: async () => {
    const { running, cities } = runner(false);
    const messages = [];
    for await (const message of running) messages.push(message);
    return { messages, cities };
  },
  tool_runner_stream: async () => {
    const { running, cities } = runner(true);
    const messages = [];
    for await (const stream of running) messages.push(await stream.finalMessage());
    return { messages, cities };
  },
  models: async () => {
    const models = [];
    for await (const { id, type } of client.models.list()) models.push({ id, type });
    return models;
  },
  no_model: async () => {
    const error = await failure(client.messages.create({ ...greet, model: "nobody/has-it" }));
    const { status, type, requestID } = error;
    return { right: error instanceof Anthropic.NotFoundError, status, type, requestID };
  },
  bad_request: async () => {
    const error = await failure(
      client.messages.stream({ ...greet, messages: user(7) }).finalMessage(),
    );
    const { status, type, message } = error;
    return { right: error instanceof Anthropic.BadRequestError, status, type, message };
  },
});
