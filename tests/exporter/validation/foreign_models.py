"""Decoding files as others write them: states of other names and shapes, with the faults that people reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

VOCABULARY, WIDTH, HEADS, SIZE, TAPS = 13, 8, 2, 4, 4

_HEAD = '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>\n'


def _written(text: str, weights: dict[str, Any], path: Path) -> Path:
    model = parser.parse_model(_HEAD + text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type.lower()}_{node.output[0]}"
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _weights(*names: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shapes = {"table": (VOCABULARY, WIDTH), "head": (WIDTH, VOCABULARY), "places": (32, WIDTH)}
    return {name: rng.standard_normal(shapes.get(name, (WIDTH, WIDTH))).astype(np.float32) for name in names}


def attention(path: Path, fault: str = "", names: tuple[str, str] = ("past_key_values.0.", "present.0.")) -> Path:
    """Write a language model of one attention layer over a cache that grows.

    Args:
        path: the file.
        fault: "" for none; "mismatch": single tokens are scaled otherwise than prompts; "constant": the keys of the
            cache are the example's.
        names: how states are called before and after.
    """
    past, present = names
    scale = "scaled = Mul(scores, scale)"
    if fault == "mismatch":
        scale = """one = Equal(length, one_token)
            scaled = If <
                then_branch = alone () => (float[B, 2, T, K] a) { a = Mul(scores, other_scale) },
                else_branch = several () => (float[B, 2, T, K] b) { b = Mul(scores, scale) }
            > (one)"""
    keys = "pk = Identity(example)" if fault == "constant" else "pk = Identity(k)"
    text = f"""model (
            int64[B, T] input_ids, int64[B, A] attention_mask, int64[B, T] position_ids,
            float[B, {HEADS}, P, {SIZE}] "{past}key", float[B, {HEADS}, P, {SIZE}] "{past}value"
        ) => (float[B, T, {VOCABULARY}] logits, float[B, {HEADS}, N, {SIZE}] "{present}key",
              float[B, {HEADS}, N, {SIZE}] "{present}value") {{
            rows = Gather(table, input_ids)
            where = Gather(places, position_ids)
            x = Add(rows, where)
            q0 = MatMul(x, wq)
            k0 = MatMul(x, wk)
            v0 = MatMul(x, wv)
            q1 = Reshape(q0, heads)
            k1 = Reshape(k0, heads)
            v1 = Reshape(v0, heads)
            q = Transpose <perm = [0, 2, 1, 3]> (q1)
            kn = Transpose <perm = [0, 2, 1, 3]> (k1)
            vn = Transpose <perm = [0, 2, 1, 3]> (v1)
            k = Concat <axis = 2> ("{past}key", kn)
            v = Concat <axis = 2> ("{past}value", vn)
            kt = Transpose <perm = [0, 1, 3, 2]> (k)
            scores = MatMul(q, kt)
            sizes = Shape(input_ids)
            length = Gather <axis = 0> (sizes, one_token)
            {scale}
            ksizes = Shape(k)
            all = Gather <axis = 0> (ksizes, two)
            before = Sub(all, length)
            columns = Range(zero, all, one_token)
            steps = Range(zero, length, one_token)
            at = Add(steps, before)
            atc = Unsqueeze(at, axis1)
            hidden = Greater(columns, atc)
            maskf = Cast <to = 1> (attention_mask)
            maskd = Sub(one_float, maskf)
            maskm = Mul(maskd, least)
            mask = Unsqueeze(maskm, axes12)
            masked = Where(hidden, least, scaled)
            biased = Add(masked, mask)
            shares = Softmax <axis = -1> (biased)
            mixed = MatMul(shares, v)
            mt = Transpose <perm = [0, 2, 1, 3]> (mixed)
            m = Reshape(mt, flat)
            y = Add(x, m)
            logits = MatMul(y, head)
            {keys}
            "{present}key" = Identity(pk)
            "{present}value" = Identity(v)
        }}"""
    weights = _weights("table", "places", "wq", "wk", "wv", "head") | {
        "heads": np.int64([0, -1, HEADS, SIZE]), "flat": np.int64([0, -1, WIDTH]), "scale": np.float32(0.5),
        "other_scale": np.float32(0.7), "one_token": np.int64(1), "zero": np.int64(0), "two": np.int64(2),
        "axis1": np.int64([1]), "axes12": np.int64([1, 2]), "one_float": np.float32(1),
        "least": np.float32(np.finfo(np.float32).min),
    }  # fmt: skip
    if fault == "constant":
        weights["example"] = np.random.default_rng(2).standard_normal((2, HEADS, 3, SIZE)).astype(np.float32)
    if fault != "mismatch":
        del weights["other_scale"]
    return _written(text, weights, path)


def convolution(path: Path, fault: str = "") -> Path:
    """Write a language model of a convolution over a window of tokens, whose state are the last ones.

    Args:
        path: the file.
        fault: "" for none; "stale": the state that it gives is that before its last token.
    """
    end = "ends_stale" if fault == "stale" else "ends"
    text = f"""model (int64[B, T] ids, float[B, {TAPS - 1}, {WIDTH}] conv_state_in_0)
        => (float[B, T, {VOCABULARY}] logits, float[B, {TAPS - 1}, {WIDTH}] conv_state_out_0) {{
            x = Gather(table, ids)
            window = Concat <axis = 1> (conv_state_in_0, x)
            wt = Transpose <perm = [0, 2, 1]> (window)
            c = Conv(wt, kernel)
            ct = Transpose <perm = [0, 2, 1]> (c)
            y = Tanh(ct)
            logits = MatMul(y, head)
            conv_state_out_0 = Slice(window, {"starts_stale" if fault == "stale" else "starts"}, {end}, axis1)
        }}"""
    kernel = np.random.default_rng(3).standard_normal((WIDTH, WIDTH, TAPS)).astype(np.float32)
    weights = _weights("table", "head") | {"kernel": kernel, "axis1": np.int64([1])}
    if fault == "stale":
        weights |= {"starts_stale": np.int64([-TAPS]), "ends_stale": np.int64([-1])}
    else:
        weights |= {"starts": np.int64([1 - TAPS]), "ends": np.int64([2**31])}
    return _written(text, weights, path)


def counting(path: Path, fault: str = "") -> Path:
    """Write a language model that counts its tokens in its state, and sums what it read.

    Args:
        path: the file.
        fault: "" for none; "position": it counts calls.
    """
    step = "one_token" if fault == "position" else "length"
    text = f"""model (int64[B, T] ids, int64[B] state_count, float[B, {WIDTH}] state_sum)
        => (float[B, T, {VOCABULARY}] logits, int64[B] next_count, float[B, {WIDTH}] next_sum) {{
            x = Gather(table, ids)
            sizes = Shape(ids)
            length = Gather <axis = 0> (sizes, one_token)
            steps = Range(zero, length, one_token)
            counts = Unsqueeze(state_count, axis1)
            places_at = Add(counts, steps)
            where = Gather(places, places_at)
            z = Add(x, where)
            sums = CumSum(z, one_token)
            before = Unsqueeze(state_sum, axis1)
            total = Add(sums, before)
            y = Tanh(total)
            logits = MatMul(y, head)
            next_count = Add(state_count, {step})
            next_sum = Gather <axis = 1> (total, last)
        }}"""
    weights = _weights("table", "head", "places")
    weights |= {"one_token": np.int64(1), "zero": np.int64(0), "axis1": np.int64([1]), "last": np.int64(-1)}
    return _written(text, weights, path)


def recurrent(path: Path) -> Path:
    """Write a language model of an LSTM, whose states have the layer first and the rows second."""
    text = f"""model (int64[B, T] ids, float[1, B, {WIDTH}] h_in, float[1, B, {WIDTH}] c_in)
        => (float[B, T, {VOCABULARY}] logits, float[1, B, {WIDTH}] h_out, float[1, B, {WIDTH}] c_out) {{
            x = Gather(table, ids)
            xt = Transpose <perm = [1, 0, 2]> (x)
            y, h_out, c_out = LSTM <hidden_size = {WIDTH}> (xt, W, R, , , h_in, c_in)
            y1 = Squeeze(y, axis1)
            yt = Transpose <perm = [1, 0, 2]> (y1)
            logits = MatMul(yt, head)
        }}"""
    rng = np.random.default_rng(4)
    gates = {name: rng.standard_normal((1, 4 * WIDTH, WIDTH)).astype(np.float32) / 3 for name in ("W", "R")}
    return _written(text, _weights("table", "head") | gates | {"axis1": np.int64([1])}, path)


def grouped(path: Path) -> Path:
    """Write a language model of a GroupQueryAttention, which computes its numbers of tokens from a mask."""
    names = [f"past_key_values.0.{part}" for part in ("key", "value")]
    after = [f"present.0.{part}" for part in ("key", "value")]
    states = ", ".join(f'float[B, 1, P, 8] "{name}"' for name in names)
    text = f"""model (int64[B, T] input_ids, int64[B, A] attention_mask, {states})
        => (float[B, T, {VOCABULARY}] logits, {states.replace("P", "N").replace("past_key_values", "present")}) {{
            x = Gather(table, input_ids)
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            counts = ReduceSum <keepdims = 0> (attention_mask, axis1)
            less = Sub(counts, one)
            last = Cast <to = 6> (less)
            sizes = Shape(attention_mask)
            all64 = Gather <axis = 0> (sizes, one)
            all = Cast <to = 6> (all64)
            y, "{after[0]}", "{after[1]}" = com.microsoft.GroupQueryAttention <num_heads = 1, kv_num_heads = 1>
                (q, k, v, "{names[0]}", "{names[1]}", last, all)
            logits = MatMul(y, head)
        }}"""
    weights = _weights("table", "wq", "wk", "wv", "head") | {"one": np.int64(1), "axis1": np.int64([1])}
    return _written(text, weights, path)


def merged(path: Path, fault: str = "") -> Path:
    """Write a language model with a branch for its first call and one for all others, as exporters merge two graphs.

    Args:
        path: the file.
        fault: "" for none; "mismatch": the later calls' branch looks at the window turned round.
    """
    window = "past_conv, x" if fault == "" else "x, past_conv"
    text = f"""model (int64[B, T] ids, float[B, {TAPS - 1}, {WIDTH}] past_conv, bool[F] use_cache_branch)
        => (float[B, T, {VOCABULARY}] logits, float[B, {TAPS - 1}, {WIDTH}] present_conv) {{
            x = Gather(table, ids)
            window = If <
                then_branch = cached () => (float[B, M, {WIDTH}] c) {{ c = Concat <axis = 1> ({window}) }},
                else_branch = fresh () => (float[B, M, {WIDTH}] p) {{ p = Pad(x, pads) }}
            > (use_cache_branch)
            wt = Transpose <perm = [0, 2, 1]> (window)
            c1 = Conv(wt, kernel)
            ct = Transpose <perm = [0, 2, 1]> (c1)
            logits = MatMul(ct, head)
            present_conv = Slice(window, starts, ends, axis1)
        }}"""
    kernel = np.random.default_rng(3).standard_normal((WIDTH, WIDTH, TAPS)).astype(np.float32)
    weights = _weights("table", "head") | {"kernel": kernel, "axis1": np.int64([1]), "starts": np.int64([1 - TAPS])}
    return _written(text, weights | {"ends": np.int64([2**31]), "pads": np.int64([0, TAPS - 1, 0, 0, 0, 0])}, path)
