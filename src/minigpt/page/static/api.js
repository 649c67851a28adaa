// Questions to the server.

/** Return the answer to a question. Throws an Error whose message can be shown. */
export async function ask(name, question, signal) {
  const options = question === undefined ? { signal } : { ...post(question), signal };
  const response = await reach(`/api/${name}`, options);
  const answer = await response.json().catch((error) => {
    if (response.ok || error.name === "AbortError") throw error; // the question is no longer of interest
    return { error: `The server answered with status ${response.status}.` };
  });
  if (!response.ok) throw new Error(answer.error ?? "The server could not answer.");
  return answer;
}

/** Yield the lines of an answer as they arrive. */
export async function* lines(name, question, signal) {
  const response = await reach(`/api/${name}`, { ...post(question), signal });
  if (!response.ok) throw new Error((await response.json()).error);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const part of chunks(response.body.getReader())) {
    const found = (rest + decoder.decode(part, { stream: true })).split("\n");
    rest = found.pop();
    for (const line of found) yield JSON.parse(line);
  }
}

async function* chunks(reader) {
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. It may have been stopped; minigpt serve starts it again.");
  }
}

const post = (question) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(question),
});

/** Return a function that runs one task at a time: a new call aborts the one before it. */
export function latest(onError) {
  let controller = new AbortController();
  return async (task) => {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    try {
      await task(signal);
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) onError(error);
    }
  };
}
