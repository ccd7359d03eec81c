// Runs the models of the page docs/playground.md in the browser. docs/build_playground.py lays them beside this file.
import * as ort from "./ort.wasm.bundle.min.mjs";

const here = (name) => new URL(name, import.meta.url).href;
ort.env.wasm.wasmPaths = { wasm: here("ort-wasm-simd-threaded.wasm") };
ort.env.wasm.numThreads = 1; // more of them need headers that few hosts of static files send

// --- tokens are bytes, after six special ones ---

const NUM_SPECIAL = 6, MASK = 3, SHOWN = 8;
const encode = (text) => Array.from(new TextEncoder().encode(text), (byte) => byte + NUM_SPECIAL);
const decode = (tokens) => new TextDecoder().decode(Uint8Array.from(tokens, (token) => token - NUM_SPECIAL));

function tokenName(token) {
  const byte = token - NUM_SPECIAL;
  if (byte < 0) return ["[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]"][token];
  if (byte === 10) return "⏎";
  if (byte === 32) return "␣";
  return byte > 32 && byte < 127 ? String.fromCharCode(byte) : `byte ${byte}`;
}

function softmax(logits, temperature = 1) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const powers = Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

const best = (probabilities) => [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);

function drawToken(logits, temperature) {
  const masked = logits.map((logit, token) => (token < NUM_SPECIAL ? -Infinity : logit)); // special tokens are no text
  if (temperature === 0) return best(masked)[0];
  let rest = Math.random();
  const drawn = softmax(masked, temperature).findIndex((probability) => (rest -= probability) < 0);
  return drawn < 0 ? best(masked)[0] : drawn; // probabilities may sum to a little less than 1
}

// --- models ---

const ids = (tokens) => new ort.Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
const sessions = {};
const session = (model) => (sessions[model.file] ??= ort.InferenceSession.create(here(model.file)));

/** The last `length` positions of keys or values (1, H, P, K). */
function lastPositions(x, length) {
  const [, heads, seen, size] = x.dims;
  if (seen <= length) return x;
  const kept = new Float32Array(heads * length * size);
  for (let head = 0; head < heads; head++)
    kept.set(x.data.subarray((head * seen + seen - length) * size, (head + 1) * seen * size), head * length * size);
  return new ort.Tensor("float32", kept, [1, heads, length, size]);
}

/** Yields the logits after `prompt`, and after each token that is given to next(). */
async function* steps(model, prompt) {
  const run = await session(model);
  let past = model.past.map(({ shape }) => new ort.Tensor("float32", new Float32Array(0), shape));
  let given = prompt.slice(-model.length);
  let prefix = given.splice(0, Math.max(given.length - model.latents, 0)); // attended to, while latents are computed with
  let position = 0;
  for (;;) {
    let output;
    for (const token of given) {
      const feeds = { input_ids: ids([token]), prefix_ids: ids(prefix), position: new ort.Tensor("int64", [BigInt(position)], [1]) };
      model.past.forEach(({ name }, i) => { feeds[name] = past[i]; });
      output = await run.run(feeds);
      past = model.past.map(({ name, window }) => lastPositions(output["new_" + name], window - 1));
      position += prefix.length + 1;
      prefix = [];
    }
    given = [yield Array.from(output.logits.data)];
  }
}

/** The probabilities of every token at every position. */
async function predictions(model, tokens) {
  const { logits } = await (await session(model)).run({ input_ids: ids(tokens) });
  const size = logits.dims[2];
  return tokens.map((_, i) => softmax(logits.data.subarray(i * size, (i + 1) * size)));
}

// --- the page ---

const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};

function slider(name, label, value, max, step) {
  const shown = make("output", { value });
  const input = make("input", { type: "range", name, min: name === "count" ? step : 0, max, step });
  input.value = value;
  input.oninput = () => { shown.value = input.value; };
  return make("label", {}, label, input, shown);
}

/** Fills `target` with the best tokens and their bars. `choose(token)` is called for one that is clicked. */
function bars(target, probabilities, choose) {
  target.replaceChildren(...best(probabilities).flatMap((token) => {
    const bar = make("i");
    bar.style.width = 100 * probabilities[token] + "%";
    const name = make("button", { type: "button", textContent: tokenName(token), disabled: !choose || token < NUM_SPECIAL });
    if (choose) Object.assign(name, { title: "go on with this one", onclick: () => choose(token) });
    return [name, bar, make("span", { textContent: probabilities[token].toFixed(4) })];
  }));
}

/**
 * Fills the text of a form with pieces: strings, and {token, probabilities, text, look} of what a model predicted. Those are
 * coloured by their probability; the one that is clicked, or reached with the arrow keys, is looked at.
 */
function show(parts, pieces, selected) {
  const predicted = pieces.filter((piece) => typeof piece !== "string");
  const choose = (number) => {
    predicted.forEach((piece, i) => piece.mark.setAttribute("aria-current", i === number));
    predicted[selected = number].look();
  };
  predicted.forEach((piece, number) => {
    const probability = piece.probabilities[piece.token];
    piece.mark = make("span", { textContent: piece.text, title: `${tokenName(piece.token)}: ${probability.toFixed(4)}` });
    piece.mark.style.background = `rgba(var(--accent), ${(0.06 + 0.5 * probability).toFixed(2)})`;
    piece.mark.onclick = () => choose(number);
  });
  parts.text.replaceChildren(...pieces.map((piece) => piece.mark ?? piece));
  parts.text.onkeydown = (event) => {
    const to = selected + { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (to in predicted) choose(to);
  };
  choose(selected);
}

const pause = () => new Promise((done) => setTimeout(done)); // lets the browser paint

/** A form with a text, an output below, and `work(parts)` that a click on the button starts. */
function form(id, title, hint, text, button, settings, work) {
  const parts = {
    running: false, stopped: false,
    input: make("textarea", { name: "text", value: text, spellcheck: false, ariaLabel: title }),
    start: make("button", { type: "submit", className: "act", textContent: button }),
    stop: make("button", { type: "button", className: "act", textContent: "Stop", disabled: true }),
    text: make("div", { className: "text", tabIndex: 0 }),
    status: make("p", { className: "status", role: "status" }),
    bars: make("div", { className: "bars" }),
  };
  parts.run = async (task) => {
    if (parts.running) return;
    parts.running = true;
    parts.stopped = false;
    parts.start.disabled = true;
    parts.stop.disabled = false;
    element.dataset.state = "running";
    parts.status.className = "status";
    parts.status.textContent = "loading the model ...";
    try {
      await task();
      element.dataset.state = "done";
    } catch (error) {
      parts.status.className = "status error";
      parts.status.textContent = error.message;
      element.dataset.state = "failed";
    }
    parts.running = parts.start.disabled = false;
    parts.stop.disabled = true;
  };
  parts.stop.onclick = () => { parts.stopped = true; };
  const element = make("form", { id }, make("h2", { textContent: title }), make("p", { className: "hint", textContent: hint }), parts.input,
    make("div", { className: "row" }, ...settings, parts.start, ...(settings.length ? [parts.stop] : [])),
    parts.text, parts.status, parts.bars);
  element.onsubmit = (event) => { event.preventDefault(); parts.run(() => work(parts, element.elements)); };
  return element;
}

/** The bytes of each character: [[begin, end], ...]. */
function characters(tokens) {
  const result = [];
  tokens.forEach((token, i) => {
    const continues = token - NUM_SPECIAL >> 6 === 2; // 10xxxxxx in UTF-8
    if (continues && result.length) result.at(-1)[1] = i + 1;
    else result.push([i, i + 1]);
  });
  return result;
}

function continuation(model) {
  async function go(parts, settings, prompt, drawn) {
    const given = prompt.concat(drawn.map(({ token }) => token));
    if (!given.length) throw new Error("give a text to continue");
    const temperature = Number(settings.temperature.value), length = drawn.length + Number(settings.count.value);
    const generator = steps(model, given), began = performance.now();
    let { value: logits } = await generator.next();
    const first = performance.now(), start = drawn.length;
    let painted = first;
    for (let more = true; more;) {
      const token = drawToken(logits, temperature);
      drawn.push({ token, probabilities: softmax(logits) });
      more = !parts.stopped && drawn.length < length;
      if (more) ({ value: logits } = await generator.next(token));
      if (!more || performance.now() - painted > 50) {
        draw(parts, settings, prompt, drawn);
        await pause();
        painted = performance.now();
      }
    }
    const seconds = (performance.now() - first) / 1000, number = drawn.length - start;
    parts.status.textContent = `${number} bytes, ${(number / seconds).toFixed(0)} per second, ` +
      `the first one after ${((first - began) / 1000).toFixed(1)} s. Click on a character to see what else it could have been.`;
  }

  function draw(parts, settings, prompt, drawn) {
    const tokens = drawn.map(({ token }) => token);
    const pieces = characters(tokens).map(([begin, end]) => ({
      ...drawn[begin], text: decode(tokens.slice(begin, end)),
      look: () => bars(parts.bars, drawn[begin].probabilities, (token) =>
        parts.run(() => go(parts, settings, prompt, [...drawn.slice(0, begin), { ...drawn[begin], token }]))),
    }));
    show(parts, [decode(prompt), ...pieces], pieces.length - 1);
    parts.text.scrollTop = parts.text.scrollHeight;
    parts.status.textContent = `${drawn.length} bytes ...`;
  }

  return form("clm", "Continue a text", "Perceiver AR, a byte at a time. The deeper the colour, the surer it was.",
    "The \"with\" statement is used to ", "Continue",
    [slider("temperature", "Temperature", 0.7, 1.5, 0.1), slider("count", "Bytes", 200, 1000, 50)],
    (parts, settings) => go(parts, settings, encode(settings.text.value), []));
}

function filling(model) {
  async function fill(parts, settings) {
    const tokens = settings.text.value.split("_").flatMap((part, i) => [...(i ? [MASK] : []), ...encode(part)]);
    const masks = tokens.flatMap((token, i) => (token === MASK ? [i] : []));
    if (!masks.length) throw new Error("write _ where a character is missing");
    if (tokens.length > model.length) throw new Error(`${tokens.length} bytes are more than the ${model.length} of the model`);
    const began = performance.now(), found = await predictions(model, tokens);
    const pieces = masks.map((i) => {
      const token = best(found[i]).find((candidate) => candidate >= NUM_SPECIAL);
      return { token, probabilities: found[i], text: decode([token]), look: () => bars(parts.bars, found[i]) };
    });
    show(parts, settings.text.value.split("_").flatMap((part, i) => (i ? [pieces[i - 1], part] : [part])), 0);
    parts.status.textContent = `${masks.length} filled in ${((performance.now() - began) / 1000).toFixed(1)} s. ` +
      "Click on one to see what else it could be.";
  }

  return form("mlm", "Fill in what is missing", `Perceiver IO, all at once: each _ stands for a byte, of ${model.length} at most.`,
    "Return a new li_t with the el_ments of the se_uence sorted.", "Fill in", [], fill);
}

const models = await (await fetch(here("models.json"))).json();
const forms = { clm: continuation, mlm: filling };
document.getElementById("play").append(...Object.entries(models).map(([name, model]) => forms[name](model)));
// Models load one after the other while the visitor reads. Who starts one that can't be loaded gets the error.
for (const model of Object.values(models)) await session(model).catch(() => {});
