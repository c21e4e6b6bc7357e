import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Generator } from "./generator.mjs";

const at = (id) => document.getElementById(id);
const [form, button, output, state] = ["form", "button", "output", "#state"].map((name) => document.querySelector(name));
const address = new URLSearchParams(location.search).get("model") ?? "model.onnx";
ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins
let generator;

async function open(name, bytes) {
  button.disabled = true;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  generator = new Generator(ort, session);
  const size = (bytes.length / 1e6).toFixed(1);
  state.textContent = `${name}: ${size} MB, ${generator.states.length} tensors of state, ready.`;
  button.disabled = false;
}

async function generate() {
  button.disabled = true;
  const prompt = document.createElement("span");
  prompt.className = "prompt";
  prompt.textContent = at("prompt").value;
  const text = document.createTextNode("");
  output.replaceChildren(prompt, text);
  const count = Number(at("count").value);
  generator.reset();
  const begun = performance.now();
  for await (const piece of generator.text(prompt.textContent, count, Number(at("temperature").value))) {
    text.data += piece;
    await new Promise(requestAnimationFrame); // show it
  }
  const seconds = (performance.now() - begun) / 1000;
  state.textContent = `${count} bytes in ${seconds.toFixed(1)} s, ${(count / seconds).toFixed(0)} a second.`;
  button.disabled = false;
}

const said = (promise) => promise.catch((error) => (state.textContent = `It failed: ${error.message}`));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  said(generate());
});
at("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) said(file.arrayBuffer().then((bytes) => open(file.name, new Uint8Array(bytes))));
});
said(
  fetch(address).then(async (found) => {
    if (!found.ok) throw new Error(`there is no ${address} here; choose a file`);
    await open(address, new Uint8Array(await found.arrayBuffer()));
  }),
);
