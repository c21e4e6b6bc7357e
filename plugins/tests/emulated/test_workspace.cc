// The ONNX Runtime adapter of the CUDA kernels with an arena like ONNX Runtime's: memory that was taken for a stream
// and given back goes to that stream alone, and memory that was taken without one goes to whoever asks next. Kernels do
// not run here: to the adapter that is a GPU which has not come to them yet.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hsm_operators/common/cuda/current_device.h"
#include "onnxruntime/cuda/target.h"
#include "onnxruntime/status.h"
#include "simt.h"
#include "tests/cases.h"

namespace hsm {
namespace {

// What the adapter believes to run on; a test sets it.
cuda::Stream current_stream = nullptr;

}  // namespace

std::optional<cuda::Device> cuda::current_device() noexcept {
  return Device{.sm = 86, .multiprocessors = 82, .shared_memory_per_block = 99 * 1024};
}

namespace onnxruntime {

const char* execution_provider() { return "CUDAExecutionProvider"; }
const char* memory_name() { return "Cuda"; }
cuda::Stream stream_of(const Execution& /*execution*/) { return current_stream; }
int tactic_of(const cuda::Kernels& kernels, const Call& call, const cuda::Device& device) {
  return kernels.default_tactic(call, device);
}
std::string describe(int error) { return "error " + std::to_string(error); }

}  // namespace onnxruntime

namespace {

using ::testing::HasSubstr;

struct Chunk {
  std::unique_ptr<std::byte[]> data;
  std::size_t bytes;
  cuda::Stream stream;  // null: anybody's
  bool taken;
};

// The arena of the adapter under test; C functions have no place for it.
struct Arena {
  std::vector<Chunk> chunks;
  std::vector<void*> given;  // in the order of the calls
  bool full = false;

  void* take(std::size_t bytes, cuda::Stream stream) {
    for (Chunk& chunk : chunks) {
      if (chunk.taken || chunk.bytes < bytes || (chunk.stream != nullptr && chunk.stream != stream)) continue;
      chunk.taken = true;
      given.push_back(chunk.data.get());
      return given.back();
    }
    chunks.push_back({std::make_unique<std::byte[]>(bytes), bytes, stream, true});
    given.push_back(chunks.back().data.get());
    return given.back();
  }

  void give_back(const void* data) {
    for (Chunk& chunk : chunks) {
      if (chunk.data.get() == data) chunk.taken = false;
    }
  }
};
Arena arena;

OrtStatus* no_memory() { return reinterpret_cast<OrtStatus*>(&arena); }

OrtApi fake_api() {
  OrtApi api{};
  api.CreateMemoryInfo = [](const char* name, OrtAllocatorType, int, OrtMemType, OrtMemoryInfo** out) noexcept {
    EXPECT_STREQ(name, "Cuda");
    *out = reinterpret_cast<OrtMemoryInfo*>(&arena);
    return static_cast<OrtStatus*>(nullptr);
  };
  api.ReleaseMemoryInfo = [](OrtMemoryInfo*) noexcept {};
  api.KernelContext_GetAllocator = [](const OrtKernelContext*, const OrtMemoryInfo*, OrtAllocator** out) noexcept {
    *out = reinterpret_cast<OrtAllocator*>(&arena);
    return static_cast<OrtStatus*>(nullptr);
  };
  api.ReleaseAllocator = [](OrtAllocator*) noexcept {};
  api.AllocatorAlloc = [](OrtAllocator*, std::size_t bytes, void** out) noexcept -> OrtStatus* {
    if (arena.full) return no_memory();
    *out = arena.take(bytes, nullptr);
    return nullptr;
  };
  api.KernelContext_GetScratchBuffer = [](const OrtKernelContext*, const OrtMemoryInfo*, std::size_t bytes,
                                          void** out) noexcept -> OrtStatus* {
    if (arena.full) return no_memory();
    *out = arena.take(bytes, current_stream);
    return nullptr;
  };
  api.AllocatorFree = [](OrtAllocator*, void* data) noexcept {
    arena.give_back(data);
    return static_cast<OrtStatus*>(nullptr);
  };
  api.CreateStatus = [](OrtErrorCode, const char* text) noexcept {
    return reinterpret_cast<OrtStatus*>(new std::string(text));
  };
  return api;
}

class Workspace : public ::testing::Test {
 protected:
  void SetUp() override {
    arena = {};
    simt::settings().execute = false;
    simt::clear_launches();
  }
  void TearDown() override {
    current_stream = nullptr;
    simt::settings().execute = true;
    simt::clear_launches();
  }

  static std::vector<opset::Shape> shapes_of(const opset::Operator& op, std::int64_t batch, std::int64_t length) {
    testing::Sizes sizes = testing::small_sizes(op, batch, length);
    testing::adjust(op, testing::small_case(op).attributes, sizes);
    std::vector<opset::Shape> shapes;
    for (const opset::Port& port : op.inputs) shapes.push_back(testing::shape_of(port, sizes));
    return shapes;
  }

  // Whether an operator's own choice of a tactic takes these sizes.
  static bool takes(const opset::Operator& op, std::int64_t batch, std::int64_t length) {
    const std::vector<opset::Shape> shapes = shapes_of(op, batch, length);
    const std::vector<const void*> inputs(op.inputs.size());
    const std::vector<void*> outputs(op.outputs.size());
    const Call question{DType::kFloat32, testing::small_case(op).attributes, shapes, inputs, outputs};
    const cuda::Kernels& kernels = *cuda::kernels_of(op);
    const cuda::Device device = *cuda::current_device();
    return kernels.supports(question, kernels.default_tactic(question, device), device);
  }

  // Calls an operator with so many rows and tokens, on a stream.
  static void run(const opset::Operator& op, std::int64_t batch, std::int64_t length, cuda::Stream stream) {
    const OrtApi api = fake_api();
    const testing::Case& own = testing::small_case(op);
    const std::vector<opset::Shape> shapes = shapes_of(op, batch, length);
    const std::vector<const void*> inputs(op.inputs.size(), reinterpret_cast<const void*>(std::uintptr_t{1} << 20));
    const std::vector<void*> outputs(op.outputs.size(), reinterpret_cast<void*>(std::uintptr_t{1} << 21));
    current_stream = stream;
    onnxruntime::Execution execution{};
    execution.api = &api;
    onnxruntime::compute(op, {DType::kFloat32, own.attributes, shapes, inputs, outputs}, execution);
  }
};

const auto kFirst = reinterpret_cast<cuda::Stream>(std::uintptr_t{1});
const auto kSecond = reinterpret_cast<cuda::Stream>(std::uintptr_t{2});

TEST_F(Workspace, IsNotHandedToAnotherStream) {
  int with_workspace = 0;
  for (const opset::Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op)) continue;
    arena = {};
    run(op, 2, 300, kFirst);
    run(op, 2, 300, kSecond);
    run(op, 2, 300, kFirst);
    run(op, 2, 300, kSecond);
    if (arena.given.empty()) continue;
    ++with_workspace;
    ASSERT_EQ(arena.given.size(), 4U) << op.name;
    EXPECT_NE(arena.given[0], arena.given[1]) << op.name;
    // Within a stream memory is used again: what comes later waits for what came before.
    EXPECT_EQ(arena.given[0], arena.given[2]) << op.name;
    EXPECT_EQ(arena.given[1], arena.given[3]) << op.name;
    for (const Chunk& chunk : arena.chunks) EXPECT_FALSE(chunk.taken) << op.name;
  }
  EXPECT_GT(with_workspace, 0);
}

TEST_F(Workspace, NothingIsLaunchedWithoutMemory) {
  for (const opset::Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op)) continue;
    arena = {};
    run(op, 2, 300, kFirst);
    if (arena.given.empty()) continue;
    arena.full = true;
    simt::clear_launches();
    EXPECT_THROW(run(op, 2, 300, kFirst), onnxruntime::StatusError) << op.name;
    EXPECT_THROW(run(op, 2, 300, nullptr), onnxruntime::StatusError) << op.name;
    EXPECT_TRUE(simt::launches().empty()) << op.name;
  }
}

TEST_F(Workspace, SizesThatNoKernelTakesAreNamed) {
  int refused = 0;
  for (const opset::Operator& op : opset::operators()) {
    if (!onnxruntime::has_kernel(op) || takes(op, 1, std::int64_t{1} << 42)) continue;
    try {
      run(op, 1, std::int64_t{1} << 42, kFirst);
      ADD_FAILURE() << op.name << " was launched";
    } catch (const onnxruntime::StatusError& error) {
      const std::unique_ptr<std::string> text(reinterpret_cast<std::string*>(error.release()));
      EXPECT_THAT(*text, HasSubstr(std::string(op.name) + ": no CUDA kernel takes " + std::string(op.inputs[0].name)));
      EXPECT_THAT(*text, HasSubstr("4398046511104"));
      EXPECT_THAT(*text, HasSubstr("sm_86"));
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace hsm
