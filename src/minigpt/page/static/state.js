// The state of the page is its address, so that every view can be bookmarked and sent.

const listeners = new Set();
let parameters = new URLSearchParams(location.search);

/** Return a parameter of the address. */
export const get = (name, fallback = null) => parameters.get(name) ?? fallback;

/** Return a parameter that is a number. */
export function getNumber(name, fallback = null) {
  const value = parameters.get(name);
  return value === null || value === "" || !Number.isFinite(Number(value)) ? fallback : Number(value);
}

/** Return a parameter that is a list. */
export const getList = (name) => (parameters.get(name) ? parameters.get(name).split(",") : []);

/** Change parameters; null removes one. The listeners are told the names of those that changed. */
export function set(changes) {
  const changed = new Set();
  for (const [name, value] of Object.entries(changes)) {
    const text = value === null || value === undefined || value.length === 0 ? null : String(value);
    if (text === parameters.get(name)) continue;
    changed.add(name);
    if (text === null) parameters.delete(name);
    else parameters.set(name, text);
  }
  if (changed.size === 0) return;
  if (location.protocol !== "file:") history.replaceState(null, "", address(location.pathname)); // a file has no address to change
  listeners.forEach((listener) => listener(changed));
}

/** Return the address of a view. What belongs to all views is kept. */
export function address(path, shared = false) {
  const kept = new URLSearchParams([...parameters].filter(([name]) => !shared || ["text", "step", "off"].includes(name)));
  const query = kept.toString();
  return query ? `${path}?${query}` : path;
}

/** Read the address again. */
export function reread() {
  parameters = new URLSearchParams(location.search);
}

/** Call a function when parameters change, until the view changes. */
export const onChange = (listener) => listeners.add(listener);
export const forgetListeners = () => listeners.clear();
