#include "runtime/tensorrt/call.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "runtime/dtypes.h"

namespace hsm::runtime::trt {
namespace {

constexpr std::uintptr_t kAlignment = 256;  // what setTensorAddress asks for

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last = 0;
  return ++last;
}

std::string text_of(const Dims& shape) {
  return to_text(std::span(shape.d, static_cast<std::size_t>(std::max(shape.nbDims, 0))));
}

bool same(const Dims& a, const Dims& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + std::max(a.nbDims, 0), b.d);
}

bool is_known(const Dims& shape) {
  return shape.nbDims >= 0 && std::all_of(shape.d, shape.d + shape.nbDims, [](auto size) { return size >= 0; });
}

std::size_t bytes_of(const Dims& shape, std::int32_t dtype) {
  std::size_t bytes = size_of(static_cast<hsm_runtime::DType>(dtype));
  for (std::int32_t i = 0; i < shape.nbDims; ++i) bytes *= static_cast<std::size_t>(shape.d[i]);
  return bytes;
}

bool holds(const Dims& min, const Dims& max, const Dims& shape) {
  for (std::int32_t i = 0; i < shape.nbDims; ++i) {
    if (shape.d[i] < min.d[i] || shape.d[i] > max.d[i]) return false;
  }
  return min.nbDims == shape.nbDims && max.nbDims == shape.nbDims;
}

// How much more than one shape a profile takes: a kernel is chosen for all of them.
double width_of(const Profile& profile) {
  double width = 0;
  for (std::size_t i = 0; i < profile.max.size(); ++i) {
    for (std::int32_t axis = 0; axis < profile.max[i].nbDims; ++axis) {
      width += std::log2(1.0 + static_cast<double>(profile.max[i].d[axis] - profile.min[i].d[axis]));
    }
  }
  return width;
}

}  // namespace

BoundCall::BoundCall(LoadedEngine& engine, std::span<const hsmrt_tensor> inputs, std::span<const hsmrt_tensor> outputs)
    : engine_(engine), id_(next_id()), bound_(engine.tensors().size()) {
  for (const hsmrt_tensor& tensor : inputs) add(tensor);
  for (const hsmrt_tensor& tensor : outputs) add(tensor);
  const auto& tensors = engine.tensors();
  int best = -1;
  std::string refusals;
  for (std::size_t i = 0; i < engine.profiles().size(); ++i) {
    const Profile& profile = engine.profiles()[i];
    std::size_t at = 0;
    while (at < tensors.size() &&
           (!tensors[at].is_input || holds(profile.min[at], profile.max[at], bound_[at].shape))) {
      ++at;
    }
    if (at == tensors.size()) {
      if (best < 0 || width_of(profile) < width_of(engine.profiles()[static_cast<std::size_t>(best)])) {
        best = static_cast<int>(i);
      }
      continue;
    }
    refusals += (refusals.empty() ? "" : ", ") + ("profile " + std::to_string(i)) + " takes '" + tensors[at].name +
                "' from " + text_of(profile.min[at]) + " to " + text_of(profile.max[at]) + ", not " +
                text_of(bound_[at].shape);
  }
  if (best < 0) fail(Code::kInvalidArgument, "the engine does not take these shapes: " + refusals);
  profile_ = best;
}

BoundCall::~BoundCall() {
  if (!lane_) return;
  try {
    wait();
  } catch (const std::exception&) {  // nobody asked how it ended
  }
}

void BoundCall::add(const hsmrt_tensor& tensor) {
  const auto& known = engine_.tensors();
  const auto found = std::find_if(known.begin(), known.end(), [&](const auto& one) { return one.name == tensor.name; });
  const std::string name = tensor.name;
  if (found == known.end()) fail(Code::kInvalidArgument, "the engine has no tensor '" + name + "'");
  Bound& bound = bound_[static_cast<std::size_t>(found - known.begin())];
  bound.data = tensor.data;
  bound.on_device = tensor.device == HSMRT_CUDA;
  bound.shape.nbDims = tensor.rank;
  std::copy_n(tensor.shape, std::min<std::size_t>(static_cast<std::size_t>(tensor.rank), kMaxRank), bound.shape.d);
  bound.bytes = bytes_of(bound.shape, found->dtype);
  if (!bound.on_device) return;
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % kAlignment != 0) {
    fail(Code::kInvalidArgument, "'" + name + "' does not start at a multiple of 256 bytes, as memory of a GPU must");
  }
}

void BoundCall::set_shapes(Lane& lane, const LogScope& log) const {
  const Layout layout = engine_.gpu().nvinfer.layout;
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    const TensorDescription& tensor = engine_.tensors()[i];
    if (!tensor.is_input) continue;
    const Dims& shape = bound_[i].shape;
    if (!call(layout, *lane.context, &VExecutionContext::setInputShape, tensor.name.c_str(), shape)) {
      log.fail(Code::kRunFailed, "TensorRT refuses '" + tensor.name + "' of the shape " + text_of(shape));
    }
  }
  if (call(layout, *lane.context, &VExecutionContext::inferShapes, 0, nullptr) != 0) {
    log.fail(Code::kRunFailed, "TensorRT cannot compute the shapes of the outputs");
  }
}

Dims BoundCall::output_shape(Lane& lane, std::size_t index) const {
  const TensorDescription& tensor = engine_.tensors()[index];
  const Dims shape =
      call(engine_.gpu().nvinfer.layout, *lane.context, &VExecutionContext::getTensorShape, tensor.name.c_str());
  if (!is_known(shape)) {
    fail(Code::kRunFailed, "the shape of '" + tensor.name + "' depends on numbers, which is not supported");
  }
  return shape;
}

// Gives the context this call's shapes and addresses, unless it has them.
void BoundCall::prepare(Lane& lane, const LogScope& log) {
  if (lane.prepared_for == id_) return;
  lane.prepared_for = 0;
  set_shapes(lane, log);
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    const TensorDescription& tensor = engine_.tensors()[i];
    Bound& bound = bound_[i];
    if (!tensor.is_input) {
      const Dims shape = output_shape(lane, i);
      if (bound.data == nullptr) {
        bound.bytes = bytes_of(shape, tensor.dtype);
      } else if (!same(shape, bound.shape)) {
        fail(Code::kInvalidArgument, "'" + tensor.name + "' must have the shape " + text_of(shape) +
                                         " for these inputs, got " + text_of(bound.shape));
      }
    }
    void* address = bound.on_device ? bound.data : lane.staging[i].reserve(engine_.gpu().cuda, bound.bytes);
    if (!call(engine_.gpu().nvinfer.layout, *lane.context, &VExecutionContext::setTensorAddress, tensor.name.c_str(),
              address)) {
      log.fail(Code::kRunFailed, "TensorRT refuses the address of '" + tensor.name + "'");
    }
  }
  lane.prepared_for = id_;
}

void BoundCall::enqueue(Lane& lane, void* stream, const LogScope& log) {
  const Cuda& cuda = engine_.gpu().cuda;
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    const Bound& bound = bound_[i];
    if (!engine_.tensors()[i].is_input || bound.on_device || bound.bytes == 0) continue;
    check(cuda,
          cuda.cudaMemcpyAsync(lane.staging[i].reserve(cuda, bound.bytes), bound.data, bound.bytes, kHostToDevice,
                               stream),
          "cudaMemcpyAsync");
  }
  if (!call(engine_.gpu().nvinfer.layout, *lane.context, &VExecutionContext::enqueueV3,
            static_cast<cudaStream_t>(stream))) {
    log.fail(Code::kRunFailed, "TensorRT cannot run the engine");
  }
  copy_outputs(lane, stream);
  check(cuda, cuda.cudaEventRecord(lane.event.get(), stream), "cudaEventRecord");
}

void BoundCall::copy_outputs(Lane& lane, void* stream) {
  const Cuda& cuda = engine_.gpu().cuda;
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    const Bound& bound = bound_[i];
    if (engine_.tensors()[i].is_input || bound.data == nullptr || bound.on_device || bound.bytes == 0) continue;
    check(cuda,
          cuda.cudaMemcpyAsync(bound.data, lane.staging[i].reserve(cuda, bound.bytes), bound.bytes, kDeviceToHost,
                               stream),
          "cudaMemcpyAsync");
  }
}

void BoundCall::start(void* given) {
  if (lane_) fail(Code::kInvalidArgument, "a run of this call is in flight; wait for it first");
  const Gpu& gpu = engine_.gpu();
  const DeviceScope device(gpu.cuda, gpu.device);
  const LogScope log(gpu.sink);
  std::unique_ptr<Lane> lane = engine_.take(profile_, id_);
  void* stream = given == nullptr ? lane->stream.get() : given;
  try {
    prepare(*lane, log);
    enqueue(*lane, stream, log);
  } catch (...) {
    // What was enqueued may still use the lane and the caller's memory.
    gpu.cuda.cudaStreamSynchronize(stream);
    throw;
  }
  lane_ = std::move(lane);
}

bool BoundCall::is_done() const {
  if (!lane_) return true;
  return engine_.gpu().cuda.cudaEventQuery(lane_->event.get()) != kNotReady;
}

void BoundCall::wait() {
  if (!lane_) return;
  const Gpu& gpu = engine_.gpu();
  std::unique_ptr<Lane> lane = std::move(lane_);
  // Before anything that may fail, and whichever device is current: afterwards the caller's memory is in nobody's use.
  const int error = gpu.cuda.cudaEventSynchronize(lane->event.get());
  if (error != kSuccess) {
    const DeviceScope device(gpu.cuda, gpu.device);
    lane.reset();  // nobody shall have this context again
    check(gpu.cuda, error, "cudaEventSynchronize");
  }
  engine_.give_back(std::move(lane));
}

std::vector<Dims> BoundCall::shapes() {
  const Gpu& gpu = engine_.gpu();
  const DeviceScope device(gpu.cuda, gpu.device);
  const LogScope log(gpu.sink);
  std::unique_ptr<Lane> lane = engine_.take(profile_, id_);
  lane->prepared_for = 0;
  set_shapes(*lane, log);
  std::vector<Dims> shapes;
  for (std::size_t i = 0; i < bound_.size(); ++i) {
    shapes.push_back(engine_.tensors()[i].is_input ? bound_[i].shape : output_shape(*lane, i));
  }
  engine_.give_back(std::move(lane));
  return shapes;
}

}  // namespace hsm::runtime::trt
