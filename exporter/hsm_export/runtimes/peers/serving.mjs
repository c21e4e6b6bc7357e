// Run one model in a runtime for JavaScript: node serving.mjs PACKAGE FOLDER, where FOLDER holds node_modules.
// Requests and answers are those of serving.py.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

const [name, folder] = process.argv.slice(2);
const kinds = {
  F32: ["float32", Float32Array], F16: ["float16", globalThis.Float16Array ?? Uint16Array], F64: ["float64", Float64Array],
  I64: ["int64", BigInt64Array], I32: ["int32", Int32Array], BOOL: ["bool", Uint8Array], U8: ["uint8", Uint8Array],
};
let ort, version, session;

function load_package() {
  if (ort) return;
  const require = createRequire(resolve(folder) + "/");
  ort = require(name);
  version = ort.env?.versions?.[name.includes("web") ? "web" : "node"] ?? ort.env?.versions?.common;
  const threads = Number(process.env.OMP_NUM_THREADS ?? 1);
  if (ort.env?.wasm) ort.env.wasm.numThreads = threads;
}

function read(path) {
  const data = readFileSync(path);
  const start = 8 + Number(data.readBigUInt64LE(0));
  const feeds = {};
  for (const [key, entry] of Object.entries(JSON.parse(data.subarray(8, start).toString()))) {
    const [first, last] = entry.data_offsets;
    const [kind, Type] = kinds[entry.dtype];
    const bytes = new Uint8Array(data.subarray(start + first, start + last)); // a copy, aligned
    feeds[key] = new ort.Tensor(kind, new Type(bytes.buffer), entry.shape);
  }
  return feeds;
}

function write(tensors, path) {
  const words = Object.fromEntries(Object.entries(kinds).map(([word, [kind]]) => [kind, word]));
  const header = {}, blocks = [];
  let offset = 0;
  for (const [key, tensor] of Object.entries(tensors)) {
    const { buffer, byteOffset, byteLength } = tensor.data;
    header[key] = {
      dtype: words[tensor.type], shape: [...tensor.dims], data_offsets: [offset, offset + byteLength],
    };
    blocks.push(Buffer.from(buffer, byteOffset, byteLength));
    offset += byteLength;
  }
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([size, text, ...blocks]));
}

const handlers = {
  describe() {
    let problem = null;
    try {
      load_package();
    } catch (error) {
      problem = `${folder} has no package ${name}, or it does not load: ${said(error)}`;
    }
    return { static: false, functions: true, options: {}, problem };
  },
  async load({ model }) {
    load_package();
    const threads = Number(process.env.OMP_NUM_THREADS ?? 1);
    session = await ort.InferenceSession.create(model, {
      executionProviders: [name.includes("web") ? "wasm" : "cpu"], intraOpNumThreads: threads, logSeverityLevel: 3,
    });
    return [`version ${version}, Node.js ${process.versions.node}`];
  },
  async run({ inputs, outputs }) {
    const feeds = read(inputs);
    const begun = performance.now();
    const found = await session.run(feeds);
    const seconds = (performance.now() - begun) / 1000;
    write(found, outputs);
    return seconds;
  },
};

function said(error) {
  return String(error?.message ?? error).split("\n").find((line) => line.trim()) ?? "no reason";
}

const answer = process.stdout.write.bind(process.stdout);
console.log = console.error; // a runtime's own words must not stand among the answers
for await (const line of createInterface({ input: process.stdin })) {
  const { request, argument } = JSON.parse(line);
  let reply;
  try {
    reply = { done: await handlers[request](argument) };
  } catch (error) {
    reply = { error: { type: "BadInputError", message: said(error), hint: null } };
  }
  answer(JSON.stringify(reply) + "\n");
}
