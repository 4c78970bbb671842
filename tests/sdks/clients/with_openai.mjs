// OpenAI's own client for Node. It asks for base64 by default and unpacks it.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const work = JSON.parse(readFileSync(0, "utf8"));
const client = (baseURL = work.url, apiKey = "none") => new OpenAI({ baseURL, apiKey });

async function embed(input, fields = {}, from = client()) {
  const answer = await from.embeddings.create({ model: work.model, input, ...fields });
  return answer.data.map((one) => one.embedding);
}

function classes(error) {
  const names = [];
  for (let each = error; each && each !== Object.prototype; each = Object.getPrototypeOf(each)) {
    names.push(each.constructor.name);
  }
  return names;
}

async function errorOf(call) {
  try {
    await call();
  } catch (error) {
    return { classes: classes(error), message: String(error.message) };
  }
  return { classes: [], message: "nothing was raised" };
}

const dot = (a, b) => a.reduce((sum, each, at) => sum + each * b[at], 0);
const passages = await embed(work.passages);
const questions = await embed(work.questions, { input_type: "query" });
const nearest = questions.map((question) => {
  const scores = passages.map((passage) => dot(question, passage));
  return scores.indexOf(Math.max(...scores));
});
const small = { model: work.small_model };
const found = {
  passages,
  nearest,
  short: (await embed("x", { dimensions: 32 }))[0].length,
  "unknown model": await errorOf(() => embed("x", { model: "no-such-model" })),
  "too long": await errorOf(() => embed(["x", work.too_long])),
  "wrong key": await errorOf(() => embed("x", small, client(work.guarded_url, "wrong"))),
  "right key": (await embed("x", small, client(work.guarded_url, work.guarded_key))).length,
  "after 429": (await embed("x", small, client(work.busy_url, "node"))).length,
};
process.stdout.write(JSON.stringify(found));
