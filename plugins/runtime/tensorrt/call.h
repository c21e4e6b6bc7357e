// Tensors bound to an engine, and the run on them that is in flight.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/tensorrt/engine.h"

namespace hsm::runtime::trt {

class BoundCall {
 public:
  // Chooses the narrowest profile that takes the inputs. Throws Error(kInvalidArgument): none does, or memory of the
  // GPU is not aligned.
  BoundCall(LoadedEngine& engine, std::span<const hsmrt_tensor> inputs, std::span<const hsmrt_tensor> outputs);
  // Waits.
  ~BoundCall();
  BoundCall(const BoundCall&) = delete;
  BoundCall& operator=(const BoundCall&) = delete;

  void start(void* stream);
  bool is_done() const;
  void wait();

  // The shapes that outputs will have, by the engine's tensors.
  std::vector<Dims> shapes();

 private:
  struct Bound {
    void* data = nullptr;  // null: an output that nobody asked for
    bool on_device = false;
    Dims shape{};
    std::size_t bytes = 0;
  };

  void add(const hsmrt_tensor& tensor);
  void prepare(Lane& lane, const LogScope& log);
  void set_shapes(Lane& lane, const LogScope& log) const;
  Dims output_shape(Lane& lane, std::size_t index) const;
  void enqueue(Lane& lane, void* stream, const LogScope& log);
  void copy_outputs(Lane& lane, void* stream);

  LoadedEngine& engine_;
  const std::uint64_t id_;  // no other call of the process has it
  int profile_ = 0;
  std::vector<Bound> bound_;  // one for each tensor of the engine
  std::unique_ptr<Lane> lane_;
};

}  // namespace hsm::runtime::trt
