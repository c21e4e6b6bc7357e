// A graph that a back end has loaded: what every back end implements.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "hsm_runtime/session.h"
#include "hsm_runtime/tensor.h"
#include "runtime/error.h"
#include "runtime/manifest.h"

namespace hsm::runtime {

using hsm_runtime::Device;
using hsm_runtime::NamedTensor;
using hsm_runtime::RunOptions;
using hsm_runtime::Tensor;
using hsm_runtime::TensorView;

[[noreturn]] inline void fail_cancelled() { fail(Code::kCancelled, "the run was cancelled"); }

// Inputs and outputs bound to memory that stays, whose numbers each run reads anew: running it allocates nothing in
// this library. One thread at a time. The program outlives it.
class Binding {
 public:
  virtual ~Binding() = default;
  void run() { run_until({}); }
  // After a failure it may be called again. Throws Error(kCancelled) when it was stopped.
  virtual void run_until(const std::stop_token& stop) = 0;
};

// A run in flight. Its destructor waits. One thread at a time.
class Started {
 public:
  virtual ~Started() = default;
  virtual bool done() const = 0;
  virtual void wait() = 0;  // throws Error when the run failed; ends at once when called again
};

// Memory of one kind: where a back end likes its tensors to be. Implementations throw Error and wait until all is done.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual Device device() const = 0;
  // Where a tensor may start: at a multiple of so many bytes.
  virtual std::size_t alignment() const { return 1; }
  // Zeros. The pointer keeps alive what it needs.
  virtual std::shared_ptr<std::byte> allocate(std::size_t bytes) const = 0;
  // One side may be ordinary memory of the CPU.
  virtual void copy(std::byte* to, const std::byte* from, std::size_t bytes) const = 0;
  virtual void clear(std::byte* memory, std::size_t bytes) const = 0;
};

// The CPU's memory.
const Memory& cpu_memory();

// Implementations throw Error. Tensors come checked (check.h); all methods may be called from several threads at once.
class Program {
 public:
  virtual ~Program() = default;
  virtual std::vector<Tensor> run(std::span<const NamedTensor> inputs, const RunOptions& options) const = 0;
  // Keeps the memory's addresses, and copies of names and shapes.
  virtual std::unique_ptr<Binding> bind(std::span<const NamedTensor> inputs, std::span<const NamedTensor> outputs,
                                        const RunOptions& options) const = 0;

  // Starts a run that goes on by itself; null where a thread has to run it.
  virtual std::unique_ptr<Started> start(std::span<const NamedTensor>, std::span<const NamedTensor>,
                                         const RunOptions&) const {
    return nullptr;
  }
  // The device whose memory tensors may lie in besides the CPU's.
  virtual Device device() const { return {}; }
  // Tensors inside of the graph that were asked for as outputs, which come after the graph's own.
  virtual std::vector<hsm_runtime::TensorInfo> extra_outputs() const { return {}; }
  // Where a generator keeps its states.
  virtual const Memory& memory() const { return cpu_memory(); }
  // Whether one buffer may be bound to a state and to its new value.
  virtual bool updates_in_place(const StateTensor& /*tensor*/) const { return false; }
};

}  // namespace hsm::runtime
