// What all programs have in common: the setting they are given, and how they tell what happened.

import { z } from "zod";

export const setting = JSON.parse(process.argv[2]);

// For the small model, which is bound to it.
export const Pet = z.object({
  kind: z.enum(["cat", "dog", "hen"]),
  tame: z.boolean(),
});
export const describe = "Describe a pet as JSON.";

export const City = z.object({ city: z.string() });

// The tool of every program: only the right city has any weather.
export const weather = ({ city }) => (city === setting.city ? setting.weather : `no ${city}`);

// What a rejected promise is rejected with.
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing failed");
}

export async function tell(steps) {
  const told = {};
  for (const [name, step] of Object.entries(steps)) {
    try {
      told[name] = { said: await step() };
    } catch (error) {
      told[name] = { failed: `${error?.stack ?? error} ${JSON.stringify(error)}` };
    }
  }
  console.log(JSON.stringify(told));
}
