import { ask, by, useKey } from "/assets/asking.js";
import { say, translate } from "/assets/words.js";

const EVERY_MS = 2000;
const BATCHES_EVERY = 5;     // looks: they may be read from storage elsewhere
const HISTORY = 300;         // looks, ten minutes
const COLOURS = { ready: "good", standby: "good", ejected: "bad", gone: "bad" };  // of the rest: "warn"
const REDIS = { closed: "connected", open: "unreachable", "half-open": "being tried again" };

let seen = null;             // { fleet, scaling, batches }
const rates = [];            // [seconds, known, asked] of each look, for the hit rate over time
let heard = performance.now();

const soon = (path, body) => ask(path, body, AbortSignal.timeout(10_000));

const count = (number) => (number === null || number === undefined ? "–" : Math.round(number).toLocaleString());
const made = (tag, words, kind = "") => Object.assign(document.createElement(tag), { textContent: words ?? "", className: kind });

const duration = (seconds) => {
  for (const [size, unit] of [[86_400, "d"], [3_600, "h"], [60, "m"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)}${unit}`;
  }
  return `${Math.floor(seconds)}s`;
};

// Brings what is shown up to date in place: what is selected, focused, scrolled to or pressed stays so.
const renew = (shown, drawn) => {
  for (const { name } of [...shown.attributes]) if (!drawn.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of drawn.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  shown.onclick = drawn.onclick;
  const keyed = new Map([...shown.children].map((each) => [each.dataset.key, each]));
  const next = [...drawn.childNodes].map((child, at) => {
    const key = child.dataset?.key, old = key === undefined ? shown.childNodes[at] : keyed.get(key);
    if (old?.nodeName !== child.nodeName || old.dataset?.key !== key) return child;
    keyed.delete(key);       // a second child of this key is another one
    if (child.nodeType === Node.ELEMENT_NODE) renew(old, child);
    else if (old.data !== child.data) old.data = child.data;
    return old;
  });
  if (next.length !== shown.childNodes.length || next.some((each, at) => each !== shown.childNodes[at])) shown.replaceChildren(...next);
};

// Each row begins with its key. A stacked table has its titles beside the cells where the window is narrow.
const tableOf = (caption, titles, rows, stacked = false) => {
  const table = document.createElement("table");
  table.append(made("caption", caption));
  const head = table.createTHead().insertRow();
  for (const [words, number] of titles) head.append(Object.assign(made("th", words, number ? "number" : ""), { scope: "col" }));
  const body = table.createTBody();
  for (const cells of rows) {
    const line = body.insertRow();
    line.dataset.key = cells[0];
    cells.forEach((cell, at) => {
      line.append(cell instanceof Node ? cell : made("td", cell, titles[at][1] ? "number" : ""));
      line.lastChild.dataset.title = titles[at][0];
    });
  }
  const box = made("div", "", stacked ? "wide stacked" : "wide");
  box.append(table);
  return box;
};

const colourOf = (state) => COLOURS[state] ?? "warn";

// How many are ready, and how many in each other state; one that is out of service colours it.
const shownStates = ({ replicas }) => {
  const counts = new Map();
  for (const { state } of replicas) counts.set(state, (counts.get(state) ?? 0) + 1);
  const ready = counts.get("ready") ?? 0, others = [...counts].filter(([state]) => state !== "ready");
  const words = [say("{0} of {1} replicas ready", ready, replicas.length), ...others.map(([state, count]) => `${count} ${state}`)];
  return made("p", words.join(" · "), !ready ? "bad" : others.every(([state]) => colourOf(state) === "good") ? "good" : "warn");
};

const shownPool = (pool) => {
  const section = document.createElement("section");
  const scaler = seen.scaling.pools.find((each) => each.name === pool.name);
  section.dataset.key = pool.name;
  section.append(made("h2", [pool.name, ...pool.served_names].join(", ")), shownStates(pool));
  const queued = Object.entries(pool.queued_tokens).map(([lane, tokens]) => `${say(lane)} ${count(tokens)}`).join(", ");
  section.append(made("p", say("{0} tokens/s arriving, {1} in flight; queued: {2}", count(pool.tokens_per_s), count(pool.in_flight_tokens), queued)));
  if (pool.replicas.length) section.append(tableOf(say("replicas"), [
    [say("replica")], [say("state")], [say("for"), true], [say("tokens/s"), true], [say("in flight"), true], [say("engine")], [say("address")], [say("reason")], [say("by hand")],
  ], pool.replicas.map((each) => [
    each.name, made("td", each.state, colourOf(each.state)), duration(each.for_s), count(each.measured_tokens_per_s), count(each.in_flight_tokens),
    [each.engine, each.precision].filter(Boolean).join(" ") || "–", made("td", each.url, "long"), made("td", each.reason, "long"), handle(pool, each),
  ]), true));
  section.append(scaler ? shownScaling(pool, scaler) : made("p", say("not scaled"), "quiet"));
  return section;
};

const handle = (pool, replica) => {
  const cell = document.createElement("td"), back = replica.drained;
  const button = made("button", back ? say("Readmit") : say("Drain"));
  button.type = "button";
  button.dataset.order = `drain ${pool.name} ${replica.name}`;
  button.setAttribute("aria-label", `${button.textContent} ${replica.name}`);
  const ready = pool.replicas.filter((each) => each.state === "ready").length;
  const force = !back && replica.state === "ready" && ready === 1;
  const question = back ? say("Let {0} back into traffic?", replica.name)
    : force ? say("{0} is the only ready replica of {1}. Drain it all the same? Requests will wait.", replica.name, pool.name)
      : say("Drain {0}? It finishes what it has and gets nothing new until it is readmitted.", replica.name);
  button.onclick = () => confirm(question, back ? "/fleet/readmit" : "/fleet/drain", pool.name, undefined, { replica: replica.name, ...(force ? { force } : {}) });
  cell.append(button);
  return cell;
};

const shownBatches = ({ batches }) => tableOf(say("batches"), [[say("batch")], [say("state")], [say("requests"), true], [say("failed"), true], [say("endpoint")], [`${say("created")} (UTC)`]],
  batches.map((each) => [
    each.id, made("td", each.status, each.status === "failed" ? "bad" : each.status === "completed" ? "good" : ""),
    `${count(each.request_counts.completed)} / ${count(each.request_counts.total)}`, count(each.request_counts.failed),
    each.endpoint, new Date(each.created_at * 1000).toISOString().slice(0, 19).replace("T", " "),
  ]), true);

// Share of texts that the cache knew in each interval between two looks, as a line.
const drawRates = () => {
  const points = [];
  for (let at = 1; at < rates.length; at++) {
    const asked = rates[at][2] - rates[at - 1][2];
    if (asked > 0) points.push([rates[at][0], (rates[at][1] - rates[at - 1][1]) / asked]);
  }
  by("rates").hidden = points.length < 2;
  if (points.length < 2) return;
  const since = rates[0][0], span = Math.max(1, rates.at(-1)[0] - since);
  const words = say("Hit rate of the cache in the last {0}; now {1}", duration(span), `${Math.round(points.at(-1)[1] * 100)} %`);
  const [caption, picture] = by("rates").children;
  caption.textContent = words;
  picture.setAttribute("aria-label", words);
  picture.firstElementChild.setAttribute("points", points.map(([at, rate]) => `${((at - since) / span * 600).toFixed(1)},${(78 - 76 * rate).toFixed(1)}`).join(" "));
};

const shownScaling = (pool, scaler) => {
  const part = document.createElement("div");
  const buttons = made("div", "", "row");
  const order = (words, action) => { const button = made("button", say(words)); button.type = "button"; button.dataset.order = `${words} ${pool.name}`; button.onclick = action; return button; };
  buttons.append(made("span", `${scaler.mode} · ${scaler.min_replicas}–${scaler.max_replicas}`));
  buttons.append(
    scaler.mode === "automatic"
      ? order("Pause scaling", () => confirm(say("Pause the scaling of {0}? The fleet stays as large as it is.", pool.name), "/autoscaling/pause", pool.name))
      : order("Resume scaling", () => confirm(say("Let {0} scale by itself again?", pool.name), "/autoscaling/resume", pool.name)),
    order("Set replicas", () => confirm(say("Keep {0} at how many replicas?", pool.name), "/autoscaling/scale", pool.name, scaler.pinned ?? pool.replicas.length)),
  );
  part.append(buttons, tableOf(say("decisions"), [[`${say("time")} (UTC)`], [say("replicas"), true], [say("reason")]],
    scaler.decisions.slice(-10).reverse().map((each) => [each.at.slice(11, 19), count(each.ordered), each.decision.reason + (each.trouble ? ` (${each.trouble})` : "")])));
  return part;
};

const confirm = (words, path, pool, replicas, more = {}) => {
  const dialog = by("order");
  by("order-words").textContent = words;
  by("order-count").parentElement.hidden = replicas === undefined;
  if (replicas !== undefined) by("order-count").value = replicas;
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "confirm") return;
    const body = { pool, ...more, ...(replicas === undefined ? {} : { replicas: Number(by("order-count").value) }) };
    by("refused").textContent = "";
    try {
      await soon(path, body);
    } catch (error) {
      by("refused").textContent = error.message;  // it stays: `said` is renewed by the next look
    }
    await look().catch(failed);
  };
  dialog.showModal();
};

const draw = () => {
  if (!seen) return;
  const { fleet } = seen, cache = fleet.cache;
  let words = say("{0}: {1}, {2} requests in flight", `embedfleet ${fleet.version}`, fleet.state, fleet.active_requests);
  if (cache) {
    const asked = cache.memory.hits + cache.memory.misses, known = cache.memory.hits + (cache.redis?.hits ?? 0);
    words += ` · ${say("cache: {0} of {1} texts known", count(known), count(asked))}`;
    if (cache.redis) words += ` · ${say("Redis {0}", say(REDIS[cache.redis.state] ?? cache.redis.state))}`;
  }
  if (by("said").textContent !== words) by("said").textContent = words;
  by("said").className = fleet.state === "ready" ? "good" : "warn";
  const focused = document.activeElement?.dataset?.order;
  const pools = made("div");
  pools.id = "pools";
  pools.append(...fleet.pools.map(shownPool));
  renew(by("pools"), pools);
  if (cache) drawRates();
  const batches = made("div");
  batches.id = "batches";
  if (seen.batches?.enabled && seen.batches.batches.length) batches.append(shownBatches(seen.batches));
  renew(by("batches"), batches);
  if (focused) document.querySelector(`[data-order="${CSS.escape(focused)}"]`)?.focus();
};

const failed = (error) => {
  by("key-row").hidden = error.status !== 401;
  by("pools").classList.add("stale");  // until the next look draws it anew
  by("said").className = "bad";
  by("said").textContent = error.status ? error.message : say("No answer since {0} s: {1}", Math.round((performance.now() - heard) / 1000), error.message);
};

let looks = 0;
const look = async () => {
  const [fleet, scaling] = await Promise.all([soon("/fleet"), soon("/autoscaling")]);
  const batches = looks++ % BATCHES_EVERY ? seen?.batches : (await soon("/batches")).said;
  seen = { fleet: fleet.said, scaling: scaling.said, batches };
  const cache = seen.fleet.cache;
  if (cache) rates.push([performance.now() / 1000, cache.memory.hits + (cache.redis?.hits ?? 0), cache.memory.hits + cache.memory.misses]);
  if (rates.length > HISTORY) rates.shift();
  heard = performance.now();
  by("key-row").hidden = true;
  draw();
};

by("key-row").onsubmit = (event) => { event.preventDefault(); useKey(by("key").value); look().catch(failed); };

translate(draw);
const again = async () => { if (!document.hidden) await look().catch(failed); setTimeout(again, EVERY_MS); };
again();
