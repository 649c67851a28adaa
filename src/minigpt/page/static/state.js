// The state of the page is its address, so that every view can be bookmarked and sent.

const listeners = new Set();
let parameters = new URLSearchParams(location.search);

/** Return a parameter of the address. */
export const get = (name, fallback = null) => parameters.get(name) ?? fallback;

/** Return a parameter that is an integer from low to high; otherwise the fallback. */
export function getInteger(name, low, high, fallback = null) {
  const value = parameters.get(name);
  return value !== null && /^\d+$/.test(value) && Number(value) >= low && Number(value) <= high
    ? Number(value)
    : fallback;
}

/** Return a parameter that is a list. */
export const getList = (name) => (parameters.get(name) ? parameters.get(name).split(",") : []);

/** Change parameters; null removes one. The listeners are told the names of those that changed. */
export function set(changes) {
  const changed = new Set();
  for (const [name, value] of Object.entries(changes)) {
    const text = value === null || (Array.isArray(value) && value.length === 0) ? null : String(value);
    if (text === parameters.get(name)) continue;
    changed.add(name);
    if (text === null) parameters.delete(name);
    else parameters.set(name, text);
  }
  if (changed.size === 0) return;
  try {
    history.replaceState(null, "", address(location.pathname));
  } catch {
    // a file has no address that could change
  }
  notify(changed);
}

/** Tell the listeners that something has changed: a set of names of parameters, or "latest" for new weights. */
export const notify = (changed) => listeners.forEach((listener) => listener(changed));

/** Return the address of a view. What belongs to all views is kept. */
export function address(path, shared = false) {
  const kept = new URLSearchParams(
    [...parameters].filter(([name]) => !shared || ["text", "step", "off"].includes(name)),
  );
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
