// The page's generator in Node.js: node generate.mjs model.onnx "And God said" 40
import { readFileSync } from "node:fs";
import ort from "onnxruntime-web";
import { Generator } from "./generator.mjs";

const [file, prompt = "And God said", count = "40"] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ["wasm"] });
for await (const piece of new Generator(ort, session).text(prompt, Number(count))) process.stdout.write(piece);
process.stdout.write("\n");
