// Text from a decoding file, by ONNX Runtime for JavaScript: in a page, or in Node.js.
// The contract of the file (tokens, position, lengths, past.* -> logits, present.*) is in docs/decoding.md.

const BYTES = { float32: Float32Array, int64: BigInt64Array };

export class Generator {
  /**
   * @param ort      the package onnxruntime-web or onnxruntime-node
   * @param session  an InferenceSession of a file that `hsm-export export --decode` wrote, in fp32
   * @param capacity tokens that growing states hold
   */
  constructor(ort, session, capacity = 1024) {
    this.ort = ort;
    this.session = session;
    // The first three inputs are tokens, position and lengths; the outputs are the logits and the state in the same order.
    this.states = session.inputMetadata.slice(3).map((input, index) => ({
      past: input.name,
      present: session.outputNames[index + 1],
      type: input.type,
      shape: input.shape.map((size) => (size === "batch" ? 1 : size === "capacity" ? capacity : size)),
    }));
    const grows = session.inputMetadata.some((input) => input.shape.includes("capacity"));
    this.capacity = grows ? capacity : Infinity;
    this.reset();
  }

  /** Forget everything: a state starts as zeros. */
  reset() {
    this.position = 0;
    this.state = Object.fromEntries(
      this.states.map(({ past, type, shape }) => {
        const count = shape.reduce((product, size) => product * size, 1);
        return [past, new this.ort.Tensor(type, new BYTES[type](count), shape)];
      }),
    );
  }

  /** Read tokens (numbers) and return the logits (Float32Array) of the last one. */
  async read(tokens) {
    const length = tokens.length;
    if (this.position + length > this.capacity) throw new Error(`the state holds ${this.capacity} tokens`);
    const { Tensor } = this.ort;
    const found = await this.session.run({
      tokens: new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, length]),
      position: new Tensor("int64", BigInt64Array.of(BigInt(this.position)), [1]),
      lengths: new Tensor("int64", BigInt64Array.of(BigInt(length)), [1]),
      ...this.state,
    });
    for (const { past, present } of this.states) this.state[past] = found[present];
    this.position += length;
    const { data, dims } = found.logits;
    return data.slice(data.length - dims[2]);
  }

  /**
   * Yield pieces of text, whole characters each. The zoo's models read bytes.
   * @param temperature 0 takes the likeliest byte
   */
  async *text(prompt, count, temperature = 0, random = Math.random) {
    const decoder = new TextDecoder();
    let logits = await this.read([...new TextEncoder().encode(prompt)]);
    for (let step = 0; step < count; step++) {
      const token = choose(logits, temperature, random);
      yield decoder.decode(Uint8Array.of(token), { stream: true });
      if (step + 1 < count) logits = await this.read([token]);
    }
    yield decoder.decode();
  }
}

function choose(logits, temperature, random) {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token] > logits[best]) best = token;
  if (temperature <= 0) return best;
  const weights = Array.from(logits, (logit) => Math.exp((logit - logits[best]) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let token = 0; token < weights.length; token++) if ((left -= weights[token]) < 0) return token;
  return best;
}
