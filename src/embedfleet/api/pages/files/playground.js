import { ask, by, hasKey, useKey } from "/assets/asking.js";
import { say, translate } from "/assets/words.js";

const PART = 256;          // texts of one request
const DRAWN = 200;         // rows and columns of a heat map at most
const SHOWN = 10;          // documents of a ranking
const LISTED = 300;        // characters of each of them
const EXAMPLE = {
  queries: ["How long is the Great Wall?", "长城有多长?", "What do bees make?"],
  documents: [
    "The Great Wall of China is 21,196 km long.", "长城总长度为21196.18千米。", "Bees turn nectar into honey.",
    "蜜蜂采集花蜜酿成蜂蜜。", "Paris is the capital of France.", "The mitochondrion produces most of a cell's energy.",
  ],
};

// -- arithmetic, in a worker -----------------------------------------------------------

const worker = new Worker("/assets/compute.js");
const waiting = new Map();
worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error)); else resolve(data.result);
};
let asked = 0;
const compute = (task, values = {}) => new Promise((resolve, reject) => {
  waiting.set(++asked, { resolve, reject });
  worker.postMessage({ id: asked, task, ...values });
});

// -- what there is to choose -----------------------------------------------------------

let models = [];
const model = () => models.find((each) => each.id === by("model").value);
const floats = (kind) => kind === "float";

const learnModels = async () => {
  const { said } = await ask("/v1/models");
  models = said.data;
  by("model").replaceChildren(...models.filter((each) => each.task !== "rerank").map((each) => new Option(each.id)));
  by("rerank").hidden = !models.some((each) => each.task === "rerank");
  if (!models.length) tell(say("No model is served here yet."), "warn");
  offer();
};

const offer = () => {
  const width = model()?.dimensions ?? 0;
  if (width) setWidth(width);
  showCode();
};

const setWidth = (width) => {
  const slider = by("dimensions");
  if (Number(slider.max) === width) return;
  Object.assign(slider, { min: Math.min(32, width), max: width, step: 8, value: width });
  by("dimensions-shown").textContent = width;
};

const dimensions = () => Number(by("dimensions").value) || results?.width || 0;
const lines = (id) => by(id).value.split("\n").map((each) => each.trim()).filter(Boolean);

// -- embedding -------------------------------------------------------------------------

let results = null;          // { queries, documents, width }
let stopping = null;

const decode = (base64) => Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));

const numbers = {
  float: (bytes) => new Float32Array(bytes.buffer),
  int8: (bytes) => Float32Array.from(new Int8Array(bytes.buffer)),
  uint8: (bytes) => Float32Array.from(bytes, (each) => each - 128),
  binary: (bytes) => bits(Uint8Array.from(bytes, (each) => each ^ 0x80)),   // signed bytes: 128 less
  ubinary: (bytes) => bits(bytes),
};

function bits(bytes) {
  const values = new Float32Array(bytes.length * 8);
  for (let at = 0; at < values.length; at++) values[at] = (bytes[at >> 3] >> (7 - (at & 7))) & 1 ? 1 : -1;
  return values;
}

const bodyOf = (texts, kind, form, size) => {
  const instruction = by("instruction").value.trim();
  const body = { model: by("model").value, input: texts, encoding_format: "base64", input_type: kind };
  if (kind === "query" && instruction) body.instruction = instruction;
  if (form && !floats(form)) body.output_dtype = form;
  if (size && size < Number(by("dimensions").max)) body.dimensions = size;
  return body;
};

// All texts in one array of numbers, a request at a time, so that it can be stopped and seen.
const embed = async (kinds, form, size, note) => {
  let values = null, row = 0;
  const count = kinds.reduce((sum, { texts }) => sum + texts.length, 0);
  for (const { kind, texts } of kinds) {
    for (let from = 0; from < texts.length; from += PART) {
      const part = texts.slice(from, from + PART);
      const started = performance.now();
      const { said, headers: told } = await ask("/v1/embeddings", bodyOf(part, kind, form, size), stopping.signal);
      for (const { embedding } of said.data) {
        const vector = numbers[floats(form) ? "float" : form](decode(embedding));
        values ??= new Float32Array(count * vector.length);
        values.set(vector, row++ * vector.length);
      }
      note({ kind, texts: part.length, usage: said.usage, told, ms: performance.now() - started, row, count });
    }
  }
  return { vectors: values, count, width: values.length / count };
};

const noteRequest = ({ kind, texts, usage, told, ms, row, count }) => {
  const cell = (text, number) => Object.assign(document.createElement("td"), { textContent: text, className: number ? "number" : "" });
  const known = cached(told);
  const line = document.createElement("tr");
  line.append(
    cell(`${kind} · ${told.get("x-request-id") ?? ""}`), cell(texts, true), cell(usage.prompt_tokens, true),
    cell(known ?? "–", true), cell(ms.toFixed(1), true), cell(told.get("x-embedfleet-overhead-ms") ?? "–", true),
    cell(told.get("x-embedfleet-space")?.slice(0, 12) ?? "–"),
  );
  by("requests").tBodies[0].prepend(line);
  while (by("requests").tBodies[0].rows.length > 50) by("requests").tBodies[0].lastChild.remove();
  by("progress").value = row / count;
  by("progress").setAttribute("aria-valuetext", say("{0} of {1} texts", row, count));
  total.texts += texts; total.tokens += usage.prompt_tokens; total.known += known ?? 0;
};

const cached = (told) => {
  const found = (told.get("x-embedfleet-cache") ?? "").match(/hit=(\d+)/);
  return found ? Number(found[1]) : told.has("x-embedfleet-cache") ? 0 : null;
};

let total = { texts: 0, tokens: 0, known: 0 };

const run = async () => {
  const queries = lines("queries"), documents = lines("documents");
  if (!queries.length && !documents.length) return tell(say("There is nothing to embed."), "warn");
  const kinds = [{ kind: "query", texts: queries }, { kind: "document", texts: documents.length ? documents : queries }];
  if (!documents.length) kinds.shift();
  const shown = { queries: documents.length ? queries : [], documents: documents.length ? documents : queries };
  stopping = new AbortController();
  total = { texts: 0, tokens: 0, known: 0 };
  busy(true);
  const started = performance.now();
  try {
    const full = await embed(kinds, "float", 0, noteRequest);
    setWidth(full.width);
    await compute("keep", { name: "full", ...full, dimensions: full.width, queries: shown.queries.length });
    results = { ...shown, kinds, width: full.width };
    const ms = (performance.now() - started).toFixed(0);
    tell(say("{0} texts, {1} tokens, {2} ms; {3} from the cache", total.texts, total.tokens, ms, total.known), "good");
    await show();
  } catch (error) {
    refused(error);
  } finally {
    busy(false);
  }
};

const busy = (yes) => {
  by("embed").disabled = yes;
  by("stop").hidden = by("progress").hidden = !yes;
  by("progress").value = 0;
};

const refused = (error) => {
  if (error.name === "AbortError") return tell(say("Stopped."), "warn");
  if (error.status === 401) {
    by("key-row").hidden = false;
    by("key").focus();
    return tell(`${say("This service asks for a key.")} ${error.message}`, "warn");
  }
  tell(error.status ? error.message : say("No answer: {0}", error.message), "bad");
};

const tell = (words, kind = "") => Object.assign(by("said"), { textContent: words, className: kind });

// -- showing ---------------------------------------------------------------------------

const show = async () => {
  by("results").hidden = false;
  const names = results.queries.length ? results.queries : results.documents;
  by("chosen").replaceChildren(...names.slice(0, DRAWN).map((text, at) => new Option(text.slice(0, 80), at)));
  await showCut();
  await Promise.all([showMap(), showSent()]);
};

// The cut vectors: here for float, from the service for its other forms.
const showCut = async () => {
  if (!results) return;
  const form = by("form").value, size = dimensions();
  try {
    if (floats(form)) await compute("cut", { dimensions: size });
    else {
      stopping = new AbortController();
      const cut = await embed(results.kinds, form, size, noteRequest);
      await compute("keep", { name: "cut", ...cut, dimensions: cut.width, queries: results.queries.length });
    }
  } catch (error) {
    return refused(error);
  }
  const rows = Math.min(DRAWN, results.queries.length || results.documents.length);
  const columns = Math.min(DRAWN, results.documents.length);
  const [full, cut] = await Promise.all(["full", "cut"].map((name) => compute("heat", { name, rows, columns })));
  heat = { rows, columns, full, cut };
  by("full-title").textContent = say("All {0} dimensions", results.width);
  by("cut-title").textContent = say("{0} dimensions, {1}", size, form);
  drawHeat();
  const { kept, moved } = await compute("agreement", { rows });
  by("agreement").textContent =
    say("{0} of the ten nearest documents are the same; cosines differ by {1} on average.", `${(100 * kept).toFixed(1)} %`, moved.toFixed(4))
    + (rows === DRAWN || columns === DRAWN ? ` ${say("Only the first {0} rows and {1} columns are drawn.", rows, columns)}` : "");
  await showRanked();
};

let heat = null, place = { row: 0, column: 0 };

// From blue over grey to orange: told apart by people who don't see red or green, and by lightness.
const tint = (value) => {
  const share = Math.max(0, Math.min(1, value));
  const [from, to, at] = share < 0.5 ? [[20, 62, 110], [168, 178, 186], share * 2] : [[168, 178, 186], [247, 174, 60], share * 2 - 1];
  return `rgb(${from.map((each, number) => Math.round(each + (to[number] - each) * at)).join(" ")})`;
};

const drawHeat = () => {
  const { rows, columns } = heat;
  const size = Math.max(3, Math.min(48, Math.floor(520 / Math.max(rows, columns, 4))));
  for (const name of ["full", "cut"]) {
    const canvas = by(name), pen = Object.assign(canvas, { width: columns * size, height: rows * size }).getContext("2d");
    const scale = name === "cut" ? heat.cut : heat.full;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const value = scale[row * columns + column];
        pen.fillStyle = tint(value);
        pen.fillRect(column * size, row * size, size, size);
        if (size >= 30) {
          pen.fillStyle = value < 0.45 ? "#fff" : "#10151a";
          pen.font = "12px system-ui";
          pen.textAlign = "center";
          pen.fillText(value.toFixed(2), (column + 0.5) * size, (row + 0.5) * size + 4);
        }
      }
    }
    pen.strokeStyle = "#d6336c";
    pen.lineWidth = 2;
    pen.strokeRect(place.column * size + 1, place.row * size + 1, size - 2, size - 2);
    canvas.setAttribute("aria-label", `${by(`${name}-title`).textContent}: ${rows} × ${columns}`);
    canvas.onkeydown = walk;
    canvas.onclick = (event) => {
      const box = canvas.getBoundingClientRect();
      go(Math.floor((event.clientY - box.top) / box.height * rows), Math.floor((event.clientX - box.left) / box.width * columns));
    };
  }
};

const walk = (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  go(place.row + step[0], place.column + step[1]);
};

const go = (row, column) => {
  place = { row: Math.max(0, Math.min(heat.rows - 1, row)), column: Math.max(0, Math.min(heat.columns - 1, column)) };
  drawHeat();
  const at = place.row * heat.columns + place.column;
  const rows = results.queries.length ? results.queries : results.documents;
  by("cell").textContent = `${say("row {0}, column {1}: {2} in full, {3} here", place.row + 1, place.column + 1, heat.full[at].toFixed(4), heat.cut[at].toFixed(4))} — `
    + `“${rows[place.row].slice(0, 120)}” / “${results.documents[place.column].slice(0, 120)}”`;
};

const showRanked = async () => {
  const row = Number(by("chosen").value || 0);
  const found = await compute("ranked", { row, most: SHOWN });
  by("column-full").textContent = say("full");
  by("column-cut").textContent = say("this form");
  listed = found;
  drawRanked(found);
};

let listed = [];
const shortened = (text) => (text.length > LISTED ? `${text.slice(0, LISTED)}…` : text);

const drawRanked = (found) => {
  const scored = found.some((each) => each.score !== undefined);
  document.querySelector('#ranked th[data-say="score"]').hidden = !scored;
  by("ranked").tBodies[0].replaceChildren(...found.map((each, at) => {
    const line = document.createElement("tr");
    const cells = [[at + 1, true], [shortened(results.documents[each.document]), false], [each.full.toFixed(4), true], [each.cut.toFixed(4), true]];
    if (scored) cells.push([each.score.toFixed(4), true]);
    line.append(...cells.map(([text, number]) => Object.assign(document.createElement("td"), { textContent: text, className: number ? "number" : "" })));
    return line;
  }));
};

const rerank = async () => {
  const served = models.find((each) => each.task === "rerank");
  const names = results.queries.length ? results.queries : results.documents;
  const query = names[Number(by("chosen").value || 0)];
  try {
    const documents = listed.map((each) => results.documents[each.document]);
    const { said } = await ask("/v1/rerank", { model: served.id, query, documents });
    drawRanked(said.results.map((each) => ({ ...listed[each.index], score: each.relevance_score })));
  } catch (error) {
    refused(error);
  }
};

const showMap = async () => {
  const points = await compute("map");
  const canvas = by("map"), pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const span = [0, 1].map((which) => {
    const values = points.map((each) => each[which]);
    return [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
  });
  const on = (value, [least, most], size) => 24 + (size - 48) * (most > least ? (value - least) / (most - least) : 0.5);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const labels = [];         // [left, right, y] of those written: none is written over another
  points.forEach((each, at) => {
    const x = on(each[0], span[0], canvas.width), y = on(each[1], span[1], canvas.height), query = at < results.queries.length;
    pen.fillStyle = style.getPropertyValue(query ? "--bad" : "--accent");
    if (query) pen.fillRect(x - 5, y - 5, 10, 10);
    else { pen.beginPath(); pen.arc(x, y, points.length > 300 ? 2 : 5, 0, 7); pen.fill(); }
    if (points.length <= 30) {
      pen.fillStyle = style.getPropertyValue("--ink");
      pen.font = "12px system-ui";
      pen.textAlign = "left";
      const words = [...(query ? results.queries[at] : results.documents[at - results.queries.length])].slice(0, 36).join("");
      const width = pen.measureText(words).width, left = x < canvas.width / 2 ? x + 9 : x - 9 - width;
      const free = (line) => labels.every(([from, to, at]) => left > to || left + width < from || Math.abs(at - line) > 13);
      const line = [y + 4, y - 10, y + 18].find(free);
      if (line === undefined) return;
      labels.push([left, left + width, line]);
      pen.fillText(words, left, line);
    }
  });
  canvas.setAttribute("aria-label", say("Map of {0} texts: queries are squares, documents dots.", points.length));
};

const showSent = async () => {
  const kind = results.queries.length ? "query" : "document";
  const text = (results.queries.length ? results.queries : results.documents)[Number(by("chosen").value || 0)];
  by("sent").textContent = JSON.stringify(bodyOf([text], kind, by("form").value, dimensions()), null, 2);
  try {
    const { said } = await ask("/v1/tokenize", bodyOf([text], kind));
    const { tokens, count } = said.data[0];
    by("tokens").replaceChildren(say("{0} tokens: ", count), ...tokens.slice(0, 400).flatMap((each) =>
      [Object.assign(document.createElement("mark"), { textContent: String(each) }), " "]));
  } catch (error) {
    by("tokens").textContent = error.message;
  }
};

// -- the same in code ------------------------------------------------------------------

const showCode = () => {
  const base = location.origin, shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const texts = lines("documents").slice(0, 2);
  const body = bodyOf(texts.length ? texts : ["…"], "document", by("form").value, dimensions());
  const { model: name, input, encoding_format: _, dimensions: size, ...extra } = body;
  // OpenAI's clients take base64 for that of float32 unless they ask for numbers.
  const numbers = extra.output_dtype ? { encoding_format: "float" } : {};
  const python = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
  const written = {
    curl: [
      `curl ${base}/v1/embeddings \\`,
      "  -H 'content-type: application/json' \\",
      ...(hasKey() ? ["  -H 'authorization: Bearer KEY' \\"] : []),
      `  -d ${shell(JSON.stringify(body))}`,
    ],
    python: [
      "from openai import OpenAI", "",
      `client = OpenAI(base_url="${base}/v1", api_key="${hasKey() ? "KEY" : "EMPTY"}")`,
      "answer = client.embeddings.create(",
      `    model=${JSON.stringify(name)},`,
      `    input=${python(input)},`,
      ...(size ? [`    dimensions=${size},`] : []),
      ...Object.values(numbers).map((each) => `    encoding_format="${each}",`),
      `    extra_body=${python(extra)},`,
      ")",
      "print(answer.data[0].embedding[:4])",
    ],
    client: [
      "from embedfleet import Client", "",
      `with Client("${base}", model=${JSON.stringify(name)}${hasKey() ? ', api_key="KEY"' : ""}) as client:`,
      "    vectors = client.embed(",
      `        ${python(input).replaceAll("\n", "\n    ")},`,
      '        input_type="document",',
      ...(size ? [`        dimensions=${size},`] : []),
      "    )",
      "print(vectors.shape)",
    ],
    node: [
      'import OpenAI from "openai";', "",
      `const client = new OpenAI({ baseURL: "${base}/v1", apiKey: "${hasKey() ? "KEY" : "EMPTY"}" });`,
      `const answer = await client.embeddings.create(${JSON.stringify({ model: name, input, ...(size ? { dimensions: size } : {}), ...numbers, ...extra }, null, 2)});`,
      "console.log(answer.data[0].embedding.slice(0, 4));",
    ],
  };
  by("code").textContent = written[by("code-kind").value].join("\n");
};

// -- what people do --------------------------------------------------------------------

const later = (action, pause = 120) => {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(action, pause); };
};

by("queries").value = EXAMPLE.queries.join("\n");
by("documents").value = EXAMPLE.documents.join("\n");
by("ask").onsubmit = async (event) => {
  event.preventDefault();
  useKey(by("key").value);
  if (!models.length) await learnModels().catch(refused);
  if (models.length) await run();
};
by("stop").onclick = () => stopping?.abort();
by("model").onchange = offer;
by("form").onchange = () => { showCode(); cutLater(); };
by("dimensions").oninput = () => { by("dimensions-shown").textContent = by("dimensions").value; cutLater(); showCode(); };
by("chosen").onchange = async () => { await showRanked(); await showSent(); };
by("rerank").onclick = rerank;
by("code-kind").onchange = showCode;
for (const id of ["queries", "documents", "instruction"]) by(id).oninput = later(showCode);
by("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(by("code").textContent);
    tell(say("Copied."), "good");
  } catch { // there is no clipboard for pages over plain HTTP
    getSelection().selectAllChildren(by("code"));
    tell(say("Selected; the browser copies only on HTTPS or localhost."), "warn");
  }
};
const cutLater = later(async () => { await showCut(); if (results) await showSent(); });

translate(() => { showCode(); if (results) show().catch(refused); });
learnModels().catch(refused);
