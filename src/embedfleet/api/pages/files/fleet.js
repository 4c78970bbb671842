import { ask, by, useKey } from "/assets/asking.js";
import { say, translate } from "/assets/words.js";

const EVERY_MS = 2000;
const WELL = new Set(["ready", "draining", "standby"]);

let seen = null;             // { fleet, scaling }
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

const tableOf = (caption, titles, rows) => {
  const table = document.createElement("table");
  table.append(made("caption", caption));
  const head = table.createTHead().insertRow();
  for (const [words, number] of titles) head.append(Object.assign(made("th", words, number ? "number" : ""), { scope: "col" }));
  const body = table.createTBody();
  for (const cells of rows) {
    const line = body.insertRow();
    cells.forEach((cell, at) => line.append(cell instanceof Node ? cell : made("td", cell, titles[at][1] ? "number" : "")));
  }
  const box = made("div", "", "wide");
  box.append(table);
  return box;
};

const stateOf = (replica) => made("td", replica.state, WELL.has(replica.state) ? "good" : replica.state === "ejected" || replica.state === "dead" ? "bad" : "warn");

const shownPool = (pool) => {
  const section = document.createElement("section");
  const scaler = seen.scaling.pools.find((each) => each.name === pool.name);
  section.append(made("h2", [pool.name, ...pool.served_names].join(", ")));
  const ready = pool.replicas.filter((each) => each.state === "ready").length;
  section.append(made("p", say("{0} of {1} replicas ready", ready, pool.replicas.length), ready ? "good" : "bad"));
  const queued = Object.entries(pool.queued_tokens).map(([lane, tokens]) => `${say(lane)} ${count(tokens)}`).join(", ");
  section.append(made("p", say("{0} tokens/s arriving, {1} in flight; queued: {2}", count(pool.tokens_per_s), count(pool.in_flight_tokens), queued)));
  section.append(tableOf(say("replicas"), [
    [say("replica")], [say("state")], [say("for"), true], [say("tokens/s"), true], [say("in flight"), true], [say("engine")], [say("address")], [say("reason")],
  ], pool.replicas.map((each) => [
    each.name, stateOf(each), duration(each.for_s), count(each.measured_tokens_per_s), count(each.in_flight_tokens),
    [each.engine, each.precision].filter(Boolean).join(" ") || "–", each.url, each.reason,
  ])));
  section.append(scaler ? shownScaling(pool, scaler) : made("p", say("not scaled"), "quiet"));
  return section;
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
  part.append(buttons, tableOf(say("decisions"), [[say("time")], [say("replicas"), true], [say("reason")]],
    scaler.decisions.slice(-10).reverse().map((each) => [each.at.slice(11, 19), count(each.ordered), each.decision.reason + (each.trouble ? ` (${each.trouble})` : "")])));
  return part;
};

const confirm = (words, path, pool, replicas) => {
  const dialog = by("order");
  by("order-words").textContent = words;
  by("order-count").parentElement.hidden = replicas === undefined;
  if (replicas !== undefined) by("order-count").value = replicas;
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "confirm") return;
    const body = { pool, ...(replicas === undefined ? {} : { replicas: Number(by("order-count").value) }) };
    await soon(path, body).then(look, failed);
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
    if (cache.redis) words += ` · ${say("Redis {0}", cache.redis.state)}`;
  }
  if (by("said").textContent !== words) by("said").textContent = words;
  by("said").className = fleet.state === "ready" ? "good" : "warn";
  const focused = document.activeElement?.dataset?.order;
  by("pools").replaceChildren(...fleet.pools.map(shownPool));
  if (focused) document.querySelector(`[data-order="${CSS.escape(focused)}"]`)?.focus();
};

const failed = (error) => {
  by("key-row").hidden = error.status !== 401;
  by("said").className = "bad";
  by("said").textContent = error.status ? error.message : say("No answer since {0} s: {1}", Math.round((performance.now() - heard) / 1000), error.message);
};

const look = async () => {
  const [fleet, scaling] = await Promise.all([soon("/fleet"), soon("/autoscaling")]);
  seen = { fleet: fleet.said, scaling: scaling.said };
  heard = performance.now();
  by("key-row").hidden = true;
  draw();
};

by("key-row").onsubmit = (event) => { event.preventDefault(); useKey(by("key").value); look().catch(failed); };

translate(draw);
const again = async () => { if (!document.hidden) await look().catch(failed); setTimeout(again, EVERY_MS); };
again();
