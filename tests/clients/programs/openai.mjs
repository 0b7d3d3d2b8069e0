// The official OpenAI SDK for TypeScript, with its accumulators, parsers and runners.

import OpenAI from "openai";
import { ResponsesToolRunner, runnerFunction } from "openai/helpers/responses-tool-runner";
import {
  zodFunction,
  zodResponseFormat,
  zodResponsesFunction,
  zodTextFormat,
} from "openai/helpers/zod";

import { City, Pet, describe, failure, setting, tell, weather } from "./steps.mjs";

const client = new OpenAI({ baseURL: `${setting.url}/v1`, apiKey: "none", maxRetries: 0 });
const model = setting.scripted;
const user = (content) => [{ role: "user", content }];
const small = { model: setting.small, temperature: 0 };
const pet = {
  ...small,
  messages: user(describe),
  max_tokens: 60,
  response_format: zodResponseFormat(Pet, "pet"),
};
const petItem = {
  ...small,
  input: describe,
  max_output_tokens: 60,
  text: { format: zodTextFormat(Pet, "pet") },
};
const tool = (cities) => ({
  name: "weather",
  description: "Tells it.",
  parameters: City,
  function: (given) => {
    cities.push(given.city);
    return weather(given);
  },
});

async function runTools(stream) {
  const cities = [];
  const runner = client.chat.completions.runTools({
    model,
    messages: user(setting.ask),
    tools: [zodFunction(tool(cities))],
    stream,
  });
  const usage = await runner.totalUsage();
  return {
    content: await runner.finalContent(),
    cities,
    roles: runner.messages.map(({ role }) => role),
    usage,
  };
}

async function runResponsesTools(stream) {
  const cities = [];
  const { function: execute, ...rest } = tool(cities);
  const declared = zodResponsesFunction({ ...rest, function: execute });
  const runner = new ResponsesToolRunner({ functions: [runnerFunction(declared)] });
  const seen = [];
  const final = await runner.run(
    client,
    { model, input: setting.ask, store: false },
    {
      stream,
      maxSteps: 3,
      onEvent: ({ type }) => void seen.push(type),
    },
  );
  return { text: final.output_text, thought: final.output[0].content[0].text, cities, seen };
}

await tell({
  chat: () => client.chat.completions.create({ model, messages: user(setting.greet) }),
  chat_stream: async () => {
    const deltas = [];
    const stream = client.chat.completions.stream({
      model,
      messages: user(setting.greet),
      stream_options: { include_usage: true },
    });
    stream.on("content.delta", ({ delta }) => deltas.push(delta));
    return { final: await stream.finalChatCompletion(), deltas };
  },
  chat_tool_stream: async () => {
    const parts = [];
    const stream = client.chat.completions.stream({
      model,
      messages: user(setting.ask),
      tools: [zodFunction({ ...tool([]) })],
    });
    stream.on("tool_calls.function.arguments.delta", ({ arguments_delta }) =>
      parts.push(arguments_delta),
    );
    return { final: await stream.finalChatCompletion(), parts };
  },
  chat_parse: async () => (await client.chat.completions.parse(pet)).choices[0].message.parsed,
  chat_stream_parse: async () =>
    (await client.chat.completions.stream(pet).finalChatCompletion()).choices[0].message.parsed,
  chat_run_tools: () => runTools(false),
  chat_run_tools_stream: () => runTools(true),

  responses: async () => {
    const created = await client.responses.create({ model, input: setting.greet });
    return { created, text: created.output_text };
  },
  responses_stream: async () => {
    const seen = [];
    const deltas = [];
    const stream = client.responses.stream({ model, input: setting.greet });
    stream.on("event", ({ type }) => seen.push(type));
    stream.on("response.output_text.delta", ({ delta }) => deltas.push(delta));
    return { final: await stream.finalResponse(), deltas, seen };
  },
  responses_parse: async () => (await client.responses.parse(petItem)).output_parsed,
  responses_stream_parse: async () =>
    (await client.responses.stream(petItem).finalResponse()).output_parsed,
  responses_run_tools: () => runResponsesTools(false),
  responses_run_tools_stream: () => runResponsesTools(true),

  embeddings: async () => {
    const { data, usage } = await client.embeddings.create({
      model: setting.embedder,
      input: ["A cat.", "A tax."],
    });
    return {
      lengths: data.map(({ embedding }) => Math.hypot(...embedding)),
      size: data[0].embedding.length,
      usage,
    };
  },
  models: async () => {
    const ids = [];
    for await (const { id } of client.models.list()) ids.push(id);
    return ids;
  },
  no_model: async () => {
    const error = await failure(
      client.chat.completions.create({ model: "nobody/has-it", messages: user("Hi") }),
    );
    const { status, code, param, type, requestID } = error;
    return { right: error instanceof OpenAI.NotFoundError, status, code, param, type, requestID };
  },
  bad_request: async () => {
    const error = await failure(
      client.responses.create({ model, input: "Hi", temperature: "warm" }),
    );
    const { status, param, type, message } = error;
    return { right: error instanceof OpenAI.BadRequestError, status, param, type, message };
  },
  too_long: async () => {
    const body = { ...small, messages: user("word ".repeat(9000)) };
    const error = await failure(client.chat.completions.stream(body).finalChatCompletion());
    return { right: error instanceof OpenAI.BadRequestError, code: error.code };
  },
});
