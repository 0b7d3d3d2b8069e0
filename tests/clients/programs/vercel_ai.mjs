// The Vercel AI SDK, with each of its providers that can speak to the server.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateText, isStepCount, streamText, tool } from "ai";

import { City, Pet, describe, setting, tell, weather } from "./steps.mjs";

const options = { baseURL: `${setting.url}/v1`, apiKey: "none" };
const openai = createOpenAI(options);
const anthropic = createAnthropic(options);
const compatible = createOpenAICompatible({
  ...options,
  name: "lmnb",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  responses: (id) => openai(id),
  chat: (id) => openai.chat(id),
  compatible: (id) => compatible(id),
  anthropic: (id) => anthropic(id),
};

const steps = {};
for (const [name, provider] of Object.entries(providers)) {
  const common = { model: provider(setting.scripted), maxRetries: 0, maxOutputTokens: 500 };

  steps[`${name}_text`] = async () => {
    const { text, finishReason, usage, warnings } = await generateText({
      ...common,
      prompt: setting.greet,
    });
    return { text, finishReason, usage, warnings };
  };
  steps[`${name}_stream`] = async () => {
    const errors = [];
    const result = streamText({
      ...common,
      prompt: setting.greet,
      onError: ({ error }) => errors.push(`${error}`),
    });
    const parts = [];
    for await (const part of result.textStream) parts.push(part);
    const [finishReason, usage] = await Promise.all([result.finishReason, result.usage]);
    return { parts, finishReason, usage, errors };
  };
  steps[`${name}_tools`] = async () => {
    const cities = [];
    const execute = (given) => {
      cities.push(given.city);
      return weather(given);
    };
    const tools = { weather: tool({ description: "Tells it.", inputSchema: City, execute }) };
    const result = streamText({ ...common, prompt: setting.ask, tools, stopWhen: isStepCount(3) });
    const [text, thought, steps] = await Promise.all([
      result.text,
      result.reasoningText,
      result.steps,
    ]);
    return { text, thought, cities, reasons: steps.map(({ finishReason }) => finishReason) };
  };
  steps[`${name}_object`] = async () => {
    const model = provider(setting.small);
    const output = Output.object({ schema: Pet });
    return (
      await generateText({ model, prompt: describe, output, maxRetries: 0, maxOutputTokens: 60 })
    ).output;
  };
}

for (const [name, model] of [
  ["openai", openai.embeddingModel(setting.embedder)],
  ["compatible", compatible.embeddingModel(setting.embedder)],
]) {
  steps[`${name}_embeddings`] = async () => {
    const { embeddings, usage } = await embedMany({ model, values: ["A cat.", "A tax."] });
    return { lengths: embeddings.map((one) => Math.hypot(...one)), usage };
  };
}

await tell(steps);
