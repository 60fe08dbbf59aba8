// The playground: four panels over the service's own routes. No library, nothing from elsewhere.

const $ = (id) => document.getElementById(id);

const WRITTEN_CHARACTERS = 4000; // of the text that suggestions look at, at least
const WRITTEN_STEP = 2000; // by which the beginning moves on: in between, the server has seen all but the last word
const LIVE_MILLISECONDS = 2000;

let info = null;
let apiKey = ""; // kept nowhere else: other pages of this origin cannot read it

// -- asking the service -------------------------------------------------------------------------------------------

class Refused extends Error {}

async function ask(route, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const response = await fetch(route, { ...options, headers, signal });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({ error: { message: response.statusText } }));
  if (response.status === 401) $("key-form").hidden = false;
  throw new Refused(error.message);
}

function tell(error) {
  if (error.name === "AbortError") return;
  $("error").textContent = error instanceof Refused ? error.message : "The server cannot be reached.";
  $("error").hidden = false;
}

function clearError() {
  $("error").hidden = true;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key").value;
  $("key-form").hidden = true;
  clearError();
  suggest();
});

// -- panels -------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  clearError();
  if (!$("about").hidden) showFigures();
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
}

// -- write --------------------------------------------------------------------------------------------------------

const writing = $("writing");
const roundTrips = [];
let suggesting = null;
let asked = null; // the text that suggestions were last asked for
let offered = { words: [], completing: null, text: "" };

function written() {
  const before = writing.value.slice(0, writing.selectionStart);
  if (before.length <= WRITTEN_CHARACTERS) return before;
  const recent = before.slice(Math.floor((before.length - WRITTEN_CHARACTERS) / WRITTEN_STEP) * WRITTEN_STEP);
  return recent.length === before.length ? before : recent.slice(recent.search(/\s/) + 1); // from a word's beginning
}

async function suggest() {
  suggesting?.abort();
  suggesting = new AbortController();
  const text = (asked = written());
  const started = performance.now();
  try {
    const response = await ask("next", { text, top: 3, model: $("model").value }, suggesting.signal);
    const { words, completing } = await response.json();
    roundTrips.push(performance.now() - started);
    offered = { words: words.map((one) => one.word), completing, text };
    showChips(words);
    showRoundTrips();
    clearError();
  } catch (error) {
    if (error.name !== "AbortError") $("chips").replaceChildren();
    tell(error);
  }
}

function showChips(words) {
  $("chips").replaceChildren(
    ...words.map(({ word, prob }, place) => {
      const chip = document.createElement("button");
      const number = document.createElement("small");
      number.textContent = place + 1;
      number.setAttribute("aria-hidden", "true");
      chip.append(number, word);
      chip.title = `${(100 * prob).toFixed(1)} %`;
      chip.addEventListener("click", () => {
        writing.focus();
        take(place);
      });
      return chip;
    }),
  );
}

function showRoundTrips() {
  const recent = roundTrips.slice(-500).sort((a, b) => a - b);
  const at = (share) => recent[Math.min(recent.length - 1, Math.floor(share * recent.length))].toFixed(0);
  $("round-trip").textContent = `a suggestion takes ${at(0.5)} ms (95th percentile ${at(0.95)} ms)`;
  Object.assign($("round-trip").dataset, { count: roundTrips.length, latest: roundTrips.at(-1) });
}

/** Put suggestion `place` where the caret is: in place of the word that is begun and of what is selected, with a space
 *  after it. */
function take(place) {
  const word = offered.words[place];
  if (word === undefined || offered.text !== written()) return false;
  const begin = writing.selectionStart - (offered.completing ?? "").length;
  const before = writing.value.slice(0, begin);
  const space = before && !/\s$/.test(before) && offered.completing === null ? " " : "";
  writing.setSelectionRange(begin, writing.selectionEnd);
  // Deprecated, and the only way to insert text that Ctrl+Z takes out again; it tells of an input, which asks for more.
  if (!document.execCommand("insertText", false, `${space}${word} `)) {
    writing.setRangeText(`${space}${word} `, begin, writing.selectionEnd, "end");
    suggest();
  }
  return true;
}

writing.addEventListener("input", suggest);
document.addEventListener("selectionchange", () => {
  if (document.activeElement === writing && asked !== written()) suggest();
});
writing.addEventListener("keydown", (event) => {
  if (!"123".includes(event.key) || event.ctrlKey || event.metaKey) return;
  // In a number, a digit is a digit.
  const inNumber = /[\d.,$£€#]$/.test(writing.value.slice(0, writing.selectionStart));
  if (!event.altKey && (!$("digits").checked || inNumber)) return;
  if (take(Number(event.key) - 1)) event.preventDefault();
});

// -- sample -------------------------------------------------------------------------------------------------------

let sampling = null;

for (const dial of ["temperature", "top-p"]) {
  const update = () => ($(`${dial}-shown`).textContent = Number($(dial).value).toFixed(2));
  $(dial).addEventListener("input", update);
  update();
}

/** The events of a server-sent stream as they come. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

$("sample-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sampling) return;
  clearError();
  sampling = new AbortController();
  $("generate").disabled = true;
  $("stop").disabled = false;
  $("repeat").hidden = true;
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : Number($("seed").value);
  const unknown = $("unknown").value;
  const body = {
    prompt: $("prompt").value,
    model: $("model").value,
    temperature: Number($("temperature").value),
    top_p: Number($("top-p").value),
    top_k: Number($("top-k").value),
    max_tokens: Number($("max-tokens").value),
    ignore_eos: $("ignore-eos").checked,
    allow_unk: unknown === "spell" ? "spell" : unknown === "show",
    seed,
    stream: true,
  };
  const prompt = document.createElement("span");
  prompt.className = "prompt";
  prompt.textContent = body.prompt;
  const text = document.createTextNode("");
  $("sampled").replaceChildren(prompt, text);
  let unshown = ""; // tokens can come faster than a screen is drawn
  const draw = () => {
    if (unshown) text.appendData(unshown);
    unshown = "";
  };
  $("sample-facts").textContent = `seed ${seed}`;
  const started = performance.now();
  let tokens = 0;
  let ending = "stopped";
  let failed = false;
  const facts = () => `seed ${seed} · ${tokens} tokens · ${(tokens / ((performance.now() - started) / 1000)).toFixed(0)} a second`;
  try {
    for await (const one of eventsOf(await ask("generate", body, sampling.signal))) {
      if (one.error) throw new Refused(one.error.message);
      if (one.usage) {
        tokens = one.usage.completion_tokens;
      } else {
        tokens += 1;
        if (!unshown) requestAnimationFrame(draw);
        unshown += one.text;
        if (one.finish_reason) ending = { eos: "the text ended", length: "that many were asked for", stop: "stopped" }[one.finish_reason];
      }
    }
  } catch (error) {
    failed = error.name !== "AbortError";
    tell(error);
  }
  draw();
  $("sample-facts").textContent = failed ? "failed" : `${facts()} · ${ending}`;
  Object.assign($("repeat"), { hidden: failed, value: seed });
  $("generate").disabled = false;
  $("stop").disabled = true;
  sampling = null;
});

$("stop").addEventListener("click", () => sampling?.abort());
$("repeat").addEventListener("click", () => ($("seed").value = $("repeat").value));

// -- score --------------------------------------------------------------------------------------------------------

const SURPRISES = [2, 4, 7, 10, 14]; // bits where one colour ends and the next begins

function addSentence(text = "") {
  const row = document.createElement("div");
  row.className = "sentence";
  const label = document.createElement("label");
  const field = document.createElement("textarea");
  field.rows = 2;
  field.value = text;
  label.append(`Sentence ${$("sentences").children.length + 1}`, field);
  row.append(label);
  $("sentences").append(row);
}

$("add").addEventListener("click", () => {
  addSentence();
  $("sentences").lastChild.querySelector("textarea").focus();
});

let comparing = null;

$("score-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  clearError();
  comparing?.abort();
  comparing = new AbortController();
  const fields = [...$("sentences").querySelectorAll("textarea")];
  const filled = [...fields.entries()].filter(([, field]) => field.value);
  if (!filled.length) return;
  try {
    const text = filled.map(([, field]) => field.value);
    const response = await ask("score", { text, model: $("model").value, top: 5 }, comparing.signal);
    showScores(await response.json(), filled.map(([place]) => place + 1));
  } catch (error) {
    tell(error);
  }
});

const total = (score) => score.logprob_open ?? score.logprob;
const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
const percent = (probability) => (probability >= 0.001 ? `${(100 * probability).toFixed(1)} %` : probability.toExponential(1));

/** numbers: of the sentences, empty ones left out. */
function showScores({ scores, best, probabilities }, numbers) {
  const others = scores.filter((_, place) => place !== best).map(total);
  if (others.length) {
    const ahead = total(scores[best]) - Math.max(...others);
    const times = ahead < 20 ? `${Math.exp(ahead).toPrecision(3)} times as probable` : `e^${ahead.toFixed(0)} times as probable`;
    $("verdict").textContent = ahead > 0 ? `Sentence ${numbers[best]} wins by ${ahead.toFixed(2)} nats: ${times} as the next.` : "A tie.";
  } else {
    $("verdict").textContent = "";
  }
  $("scores").replaceChildren(
    ...scores.map((score, place) => {
      const article = document.createElement("article");
      article.className = place === best ? "scored best" : "scored";
      const tokens = document.createElement("p");
      tokens.className = "tokens";
      tokens.append(...score.details.map(tokenButton));
      stepWithArrows(tokens);
      const figures = document.createElement("p");
      figures.className = "quiet";
      figures.textContent =
        `${number(total(score))} nats · perplexity ${number(score.perplexity, 1)} · ` +
        `${number(score.bits_per_character)} bits a character · ${percent(probabilities[place])} of these` +
        (score.oov ? ` · unknown words: ${score.oov}${score.logprob_open === null ? "" : ", their spelling in the nats"}` : "");
      article.append(tokens, figures);
      return article;
    }),
  );
}

function tokenButton(detail) {
  const button = document.createElement("button");
  button.type = "button";
  const bits = detail.surprisal_bits ?? 0;
  button.className = `s${SURPRISES.filter((limit) => bits > limit).length}${detail.oov ? " oov" : ""}`;
  const ends = detail.token === "<eos>";
  button.textContent = ends ? "⏎" : detail.text;
  button.setAttribute("aria-label", `${ends ? "end" : named(detail.text)}: ${bits.toFixed(1)} bits${detail.oov ? ", unknown word" : ""}`);
  const explain = () => ($("token").innerText = explanation(detail, ends));
  button.addEventListener("pointerenter", explain);
  button.addEventListener("focus", explain);
  button.addEventListener("click", explain);
  return button;
}

/** One stop for Tab, arrow keys inside: a text may have hundreds of tokens. */
function stepWithArrows(tokens) {
  const buttons = [...tokens.children];
  for (const [place, button] of buttons.entries()) {
    button.tabIndex = place ? -1 : 0;
    button.addEventListener("keydown", (event) => {
      const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (!buttons[next]) return;
      event.preventDefault();
      buttons[next].focus();
    });
    button.addEventListener("focus", () => {
      for (const one of buttons) one.tabIndex = one === button ? 0 : -1;
    });
  }
}

/** A token in words: white space alone has a name. */
function named(text) {
  return text.trim() || { " ": "space", "\n": "line end", "\t": "tab" }[text] || "white space";
}

function explanation(detail, ends) {
  const shown = ends ? "the end" : `“${detail.text.trim() || named(detail.text)}”`;
  if (detail.logprob === null) return `${shown} begins the text: nothing predicts it.`;
  const spelled = detail.spelling_logprob === undefined ? "" : `, and its spelling ${number(-detail.spelling_logprob / Math.log(2), 1)} bits`;
  const first = detail.top.map((one) => `“${one.token.trim() || one.token}” ${percent(Math.exp(one.logprob))}`).join(", ");
  return (
    `${shown}: probability ${percent(Math.exp(detail.logprob))}, ${detail.surprisal_bits.toFixed(1)} bits, ` +
    `rank ${detail.rank}${detail.oov ? `; an unknown word${spelled}` : ""}.\nThe model's own first choices: ${first}.`
  );
}

// -- the model ----------------------------------------------------------------------------------------------------

function describe(list, facts) {
  list.replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      definition.textContent = value;
      return [term, definition];
    }),
  );
}

function chosen() {
  return info.models.find((model) => model.name === $("model").value);
}

function showModel() {
  const model = chosen();
  $("backend").textContent = `${model.name}, ${model.backend}, Carousel ${info.version}`;
  $("card").textContent = model.card;
  describe($("facts"), [
    ["tokens are", { char: "characters", word: "words", split: "words between spaces", bpe: "subwords" }[model.level]],
    ["vocabulary", model.vocabulary_size.toLocaleString("en")],
    ["network", `${model.cell}, ${model.parameters.toLocaleString("en")} parameters`],
    ["weights", `${model.storage}, run as ${model.backend}`],
  ]);
  const choices = [["leave", "never draw one"], ["show", "show as <unk>"]];
  if (model.speller) choices.push(["spell", "spell a new word"]);
  $("unknown").replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  suggest();
}

/** {name: value} of one model's metrics; counts of histograms under NAME_count, NAME_sum. */
function metricsOf(text, model) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = line.match(/^carousel_(\w+)\{(.*)\} (\S+)$/);
    if (match && match[2].includes(`model_name="${model}"`) && !match[2].includes("le=")) found[match[1]] = Number(match[3]);
  }
  return found;
}

let liveTimer = null;

async function showFigures() {
  clearTimeout(liveTimer);
  try {
    const found = metricsOf(await (await ask("metrics")).text(), $("model").value);
    const mean = (name) => (found[`${name}_count`] ? `${((1000 * found[`${name}_sum`]) / found[`${name}_count`]).toFixed(1)} ms` : "–");
    const count = (name) => (found[name] ?? 0).toLocaleString("en");
    const share = found.prefix_cache_queries_total ? `${((100 * found.prefix_cache_hits_total) / found.prefix_cache_queries_total).toFixed(0)} %` : "–";
    describe($("figures"), [
      ["sequences running", count("num_requests_running")],
      ["waiting", count("num_requests_waiting")],
      ["requests so far", count("requests_total")],
      ["tokens generated", count("generation_tokens_total")],
      ["tokens scored", count("scored_tokens_total")],
      ["prompts in the cache", share],
      ["a request takes", mean("e2e_request_latency_seconds")],
      ["first token after", mean("time_to_first_token_seconds")],
    ]);
    clearError();
  } catch (error) {
    tell(error);
  }
  if (!$("about").hidden) liveTimer = setTimeout(showFigures, LIVE_MILLISECONDS);
}

$("model").addEventListener("change", () => {
  comparing?.abort();
  $("scores").replaceChildren();
  $("verdict").textContent = "";
  showModel();
});

// -- begin --------------------------------------------------------------------------------------------------------

addSentence("The apple and pear salad was delicious.");
addSentence("The apple and pair salad was delicious.");
$("prompt").value = "It was";
try {
  info = await (await ask("info")).json();
  $("model").replaceChildren(...info.models.map((model) => new Option(model.name, model.name, model.default, model.default)));
  show(tabs.find((tab) => location.hash === `#${tab.getAttribute("aria-controls")}`) ?? tabs[0]);
  showModel();
} catch (error) {
  tell(error);
}
