// Asking the address that a page came from. A key stays in the page's memory alone.

export const by = (id) => document.getElementById(id);

let key = "";
export const useKey = (given) => { key = given.trim(); };
export const authorized = (headers) => (key ? { ...headers, authorization: `Bearer ${key}` } : headers);
export const hasKey = () => key !== "";

// What is said and the headers; throws an Error with the status and the service's own words.
export const ask = async (path, body, signal) => {
  const headers = authorized({ "content-type": "application/json" });
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, { ...options, headers, signal, credentials: "omit" });
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw Object.assign(new Error(said?.error?.message ?? `HTTP ${answer.status}`), { status: answer.status });
  }
  return { said: await answer.json(), headers: answer.headers };
};
