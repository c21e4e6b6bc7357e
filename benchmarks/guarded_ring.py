"""Count the bytes of a ring that one decoding step touches: every other row of it is shut by the operating system.

    python benchmarks/guarded_ring.py 1,16        # two groups of channels, shifted by 1 and by 16 tokens

A row fills one page of memory. Before the step, all rows are made inaccessible but those that the operator's
definition needs, so a step that touched any other would end this process with a segmentation fault. With `--shut` the
needed rows are inaccessible too, which shows that the guard is there: the process must then die.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SHUT, OPEN = 0, 3  # PROT_NONE; PROT_READ | PROT_WRITE


def touched_bytes(shifts: Sequence[int]) -> int:
    """Return the bytes of the ring that a step touches at most, as seen in a process of its own.

    Raises:
        RuntimeError: the step touched another row, or the guard does not work here.
    """
    command = [sys.executable, __file__, ",".join(map(str, shifts))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"a step with shifts {list(shifts)} touches other rows: {done.returncode}, {done.stderr}")
    shut = subprocess.run([*command, "--shut"], capture_output=True, text=True)
    if shut.returncode >= 0:
        raise RuntimeError(f"the guard does not work here: {shut.returncode}, {shut.stdout}{shut.stderr}")
    return int(json.loads(done.stdout)["touched_bytes"])


def main(shifts: list[int], shut: bool) -> None:
    """Run one step in place and print the bytes of the rows that were open."""
    import numpy as np

    page = mmap.PAGESIZE
    width, rows = page // 4, max(shifts)
    position = 3 * rows + rows // 2
    memory = mmap.mmap(-1, rows * page)
    ring = np.frombuffer(memory, np.float32).reshape(1, rows, width)
    ring[:] = np.random.default_rng(0).standard_normal(ring.shape)
    group = width // len(shifts)
    columns = [(slice(i * group, (i + 1) * group), (position - shift) % rows) for i, shift in enumerate(shifts)]
    expected = np.concatenate([ring[0, row, channels] for channels, row in columns])
    x, y = np.random.default_rng(1).standard_normal((2, 1, 1, width)).astype(np.float32)
    step = bound_step(shifts, ring, x, y, position)

    needed = {row for _, row in columns} | {position % rows}
    protect(ring, 0, rows, SHUT)
    for row in () if shut else needed:
        protect(ring, row, 1, OPEN)
    step()
    protect(ring, 0, rows, OPEN)
    assert (y[0, 0] == expected).all()
    assert (ring[0, position % rows] == x[0, 0]).all()
    print(json.dumps({"touched_bytes": len(needed) * page, "ring_bytes": rows * page}))


def bound_step(shifts: list[int], ring: Any, x: Any, y: Any, position: int) -> Any:
    """Return a call of a fused TokenShiftCached that updates `ring` (1,R,D) in place and writes y (1,1,D)."""
    import numpy as np
    from onnx.parser import parse_model

    import onnxruntime
    from hsm_export.native import register
    from hsm_operators import functions_for

    _, rows, width = ring.shape
    model = parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "hsm" : 1]> step (float[1,1,D] x, float[1,R,D] ring,'
        " int64[1] position, int64[1] lengths) => (float[1,1,D] y, float[1,R,D] ring_out) { y, ring_out ="
        f' hsm.TokenShiftCached <plugin_namespace = "hsm", plugin_version = "1", shifts = {shifts}>'
        " (x, ring, position, lengths) }".replace("D]", f"{width}]").replace("R,", f"{rows},")
    )
    model.functions.extend(functions_for(model))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    register(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in (("x", x), ("position", np.array([position])), ("lengths", np.array([1]))):
        binding.bind_cpu_input(name, array)
    binding.bind_input("ring", "cpu", 0, np.float32, ring.shape, ring.ctypes.data)
    binding.bind_output("ring_out", "cpu", 0, np.float32, ring.shape, ring.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def protect(ring: Any, row: int, count: int, access: int) -> None:
    """Open or shut rows of the ring."""
    call = ctypes.CDLL(None, use_errno=True).mprotect
    call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if call(ring.ctypes.data + row * mmap.PAGESIZE, count * mmap.PAGESIZE, access) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


if __name__ == "__main__":
    main([int(shift) for shift in sys.argv[1].split(",")], "--shut" in sys.argv[2:])
