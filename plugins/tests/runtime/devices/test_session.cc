// Runs in the TensorRT back end: what is called, with what, in which order, and what a failure leaves.
#include <dlfcn.h>

#include <array>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/runtime/devices/tensorrt_test.h"

namespace hsm::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(TensorRtTest, StagesTensorsOfTheCpuOnTheStream) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_EQ(session->backend(), Backend::kTensorRt);
  expect_doubled(*session, 3);
  fake_gpu().calls.clear();
  expect_doubled(*session, 3);
  EXPECT_THAT(fake_gpu().calls,
              ElementsAre("cudaGetDevice", "setInputShape x (3, 3)", "inferShapes", "setTensorAddress x",
                          "setTensorAddress y", "cudaMemcpyAsync to device 36", "enqueueV3",
                          "cudaMemcpyAsync to host 36", "cudaEventRecord", "cudaEventSynchronize"));
}

TEST_F(TensorRtTest, ServesEveryLayoutOfTensorRt) {
  struct Case {
    std::int32_t version;
    std::string target, text;
  };
  const std::vector<Case> cases = {{100000, "tensorrt", "10.0"},
                                   {101401, "tensorrt", "10.14.1.48"},
                                   {110400, "tensorrt", "11.4.0"},
                                   {10701, "tensorrt-rtx", "1.7.1"}};
  for (const Case& one : cases) {
    fake_gpu().version = one.version;
    const Result<Session> session = open({{.target = one.target, .version = one.text}});
    ASSERT_TRUE(session.ok()) << session.status().message();
    expect_doubled(*session, 2);
  }
}

TEST_F(TensorRtTest, TakesTheNarrowestProfileThatFits) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  expect_doubled(*session, 2);
  expect_doubled(*session, 8);
  expect_doubled(*session, 1);
  EXPECT_THAT(calls_of({"setOptimizationProfileAsync"}),
              ElementsAre("setOptimizationProfileAsync 0", "setOptimizationProfileAsync 1"));
  const Shape shape = {9, 3};
  std::vector<float> x(27), y(27);
  const Status status = session->run(std::array{named("x", x.data(), shape)}, std::array{named("y", y.data(), shape)});
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "the engine does not take these shapes: profile 0 takes 'x' from (1, 3) to (8, 3), not (9, 3), "
            "profile 1 takes 'x' from (1, 3) to (2, 3), not (9, 3)");
}

TEST_F(TensorRtTest, BindsTensorsOfTheGpuWithoutCopies) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  const OnGpu x(24), y(24);
  const Shape shape = {2, 3};
  for (int i = 0; i < 6; ++i) x.floats()[i] = static_cast<float>(i);
  fake_gpu().calls.clear();
  const Status status =
      session->run(std::array{named("x", x.floats(), shape, kGpu)}, std::array{named("y", y.floats(), shape, kGpu)});
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(y.floats()[5], 10);
  EXPECT_THAT(calls_of({"cudaMemcpyAsync", "cudaMalloc"}), IsEmpty());

  const Device other = {Device::Kind::kCuda, 1};
  const auto refused = [&](const NamedTensor& in, const NamedTensor& out, const std::string& words) {
    const Status wrong = session->run(std::array{in}, std::array{out});
    EXPECT_EQ(wrong.code(), Code::kInvalidArgument);
    EXPECT_THAT(wrong.message(), HasSubstr(words));
  };
  const NamedTensor in = named("x", x.floats(), shape, kGpu), out = named("y", y.floats(), shape, kGpu);
  refused(named("x", x.floats(), shape, other), out, "'x' is on GPU 1, but the session is on GPU 0");
  refused(named("x", x.floats() + 1, shape, kGpu), out, "'x' does not start at a multiple of 256 bytes");
  NamedTensor strided = in;
  const Shape column = {1, 2};
  strided.tensor.strides = column;
  refused(strided, out, "not dense");
  refused(named("x", x.floats(), shape, {static_cast<Device::Kind>(7), 0}), out, "no known kind");
}

TEST_F(TensorRtTest, RunsOnTheCallersStream) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  void* library = dlopen(fake_gpu_library().c_str(), RTLD_NOW);
  void* stream = nullptr;
  ASSERT_EQ(reinterpret_cast<int (*)(void**, unsigned)>(dlsym(library, "cudaStreamCreateWithFlags"))(&stream, 1), 0);
  const Shape shape = {1, 3};
  const OnGpu x(12), y(12);
  // What is on the stream before the run comes first.
  fake_gpu().enqueue(stream, [&] { x.floats()[0] = x.floats()[1] = x.floats()[2] = 21; });
  Result<PendingRun> run = session->run_async(std::array{named("x", x.floats(), shape, kGpu)},
                                              std::array{named("y", y.floats(), shape, kGpu)}, {stream});
  ASSERT_TRUE(run.ok()) << run.status().message();
  EXPECT_FALSE(run->done());
  while (!run->done()) {
  }
  EXPECT_EQ(y.floats()[2], 42);
  EXPECT_TRUE(run->wait().ok());
  EXPECT_TRUE(run->wait().ok());
  x.floats()[0] = 4;
  const Status status = session->run(std::array{named("x", x.floats(), shape, kGpu)},
                                     std::array{named("y", y.floats(), shape, kGpu)}, {stream});
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(y.floats()[0], 8);
  reinterpret_cast<int (*)(void*)>(dlsym(library, "cudaStreamDestroy"))(stream);
  dlclose(library);
}

TEST_F(TensorRtTest, RunsSeveralCallsAtOnceInContextsOfTheirOwn) {
  std::optional<Session> session(*open());
  const Shape shape = {1, 3};
  std::vector<std::array<float, 3>> x(3), y(3);
  std::vector<PendingRun> runs;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i].fill(static_cast<float>(i));
    // Names and shapes may go once the run is started.
    std::string name = "x";
    Shape own = shape;
    Result<PendingRun> run =
        session->run_async(std::array{named(name, x[i].data(), own)}, std::array{named("y", y[i].data(), own)});
    ASSERT_TRUE(run.ok()) << run.status().message();
    runs.push_back(*std::move(run));
    name = "z", own = {9, 9};
  }
  EXPECT_EQ(fake_gpu().live["context"], 4);  // the one that loading made is of the other profile
  session.reset();                           // the runs keep what they need
  EXPECT_TRUE(runs[2].wait().ok());
  runs.erase(runs.begin());  // waits
  EXPECT_TRUE(runs[0].wait().ok());
  runs.clear();
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_THAT(y[i], Each(2.0f * static_cast<float>(i)));
}

TEST_F(TensorRtTest, BindsOnceAndMovesOnlyNumbers) {
  std::optional<Session> session(*open());
  std::array<float, 3> x = {}, y = {};
  std::string name = "x";
  Shape shape = kOneRow;
  Result<BoundRun> run =
      session->bind(std::array{named(name, x.data(), shape)}, std::array{named("y", y.data(), shape)});
  ASSERT_TRUE(run.ok()) << run.status().message();
  name = "z", shape = {9, 9};
  session.reset();
  ASSERT_TRUE(run->run().ok());
  for (const float value : {1.0f, 5.0f}) {
    fake_gpu().calls.clear();
    x.fill(value);
    const Status status = run->run();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_THAT(y, Each(2 * value));
    EXPECT_THAT(fake_gpu().calls, ElementsAre("cudaGetDevice", "cudaMemcpyAsync to device 12", "enqueueV3",
                                              "cudaMemcpyAsync to host 12", "cudaEventRecord", "cudaEventSynchronize"));
  }
}

TEST_F(TensorRtTest, BindsMemoryOfTheGpuAndAStream) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  const OnGpu x(24), y(24);
  FakeStream stream;
  Result<BoundRun> run = session->bind(std::array{named("x", x.floats(), kTwoRows, kGpu)},
                                       std::array{named("y", y.floats(), kTwoRows, kGpu)}, {&stream});
  ASSERT_TRUE(run.ok()) << run.status().message();
  for (const float value : {1.0f, 5.0f}) {
    // What is on the stream before the run comes first.
    fake_gpu().enqueue(&stream, [&, value] { std::fill_n(x.floats(), 6, value); });
    const Status status = run->run();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(y.floats()[5], 2 * value);
  }
  EXPECT_THAT(calls_of({"cudaMemcpyAsync", "cudaMalloc"}), IsEmpty());

  const Shape wide = {9, 3};
  std::vector<float> many(27);
  const Status status =
      session->bind(std::array{named("x", many.data(), wide)}, std::array{named("y", many.data(), wide)}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("profile 1 takes 'x' from (1, 3) to (2, 3), not (9, 3)"));
}

TEST_F(TensorRtTest, ReturnsTensorsThatOutliveIt) {
  std::optional<Session> session(*open());
  std::array<float, 6> x = {1, 2, 3, 4, 5, 6};
  Result<std::vector<Tensor>> results = session->run(std::array{named("x", x.data(), kTwoRows)});
  ASSERT_TRUE(results.ok()) << results.status().message();
  session.reset();
  EXPECT_THAT(std::vector(results->at(0).shape().begin(), results->at(0).shape().end()), ElementsAre(2, 3));
  const auto values = results->at(0).values<float>();
  EXPECT_THAT(std::vector(values.begin(), values.end()), ElementsAre(2, 4, 6, 8, 10, 12));
}

TEST_F(TensorRtTest, ServesManyThreads) {
  const Result<Session> session = open();
  ASSERT_TRUE(session.ok()) << session.status().message();
  std::vector<std::thread> threads;
  std::array<int, 4> wrong = {};
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      const Shape shape = {static_cast<std::int64_t>(t) + 1, 3};
      std::vector<float> x(3 * (t + 1), static_cast<float>(t)), y(x.size());
      const std::array in = {named("x", x.data(), shape)}, out = {named("y", y.data(), shape)};
      Result<BoundRun> bound = session->bind(in, out);
      for (int i = 0; i < 100; ++i) {
        std::fill(y.begin(), y.end(), -1.0f);
        Status status;
        if (i % 3 == 0) {
          status = session->run(in, out);
        } else if (i % 3 == 1) {
          status = bound.ok() ? bound->run() : bound.status();
        } else {
          Result<PendingRun> run = session->run_async(in, out);
          status = run.ok() ? run->wait() : run.status();
        }
        if (!status.ok() || y != std::vector<float>(x.size(), 2.0f * static_cast<float>(t))) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, Each(0));
  EXPECT_LE(fake_gpu().counts["createExecutionContext"], 5);  // no more than threads, and the one of loading
}

TEST_F(TensorRtTest, SurvivesEveryFailureOfEveryFunction) {
  const std::string path = write_engine_bundle(folder_, {{.plugins = true}});
  const Result<Bundle> bundle = Bundle::open(path);
  ASSERT_TRUE(bundle.ok()) << bundle.status().message();
  options_.plugin_library = fake_gpu_library();
  const auto scenario = [&]() -> Status {
    const Result<Session> session = Session::open(*bundle, Part::kModel, options_);
    if (!session.ok()) return session.status();
    std::array<float, 3> x = {1, 2, 3}, y = {};
    const std::array in = {named("x", x.data(), kOneRow)}, out = {named("y", y.data(), kOneRow)};
    if (const Status status = session->run(in, out); !status.ok()) {
      // The session goes on.
      const Status again = session->run(in, out);
      EXPECT_TRUE(again.ok()) << again.message();
      return status;
    }
    Result<PendingRun> run = session->run_async(in, out);
    if (!run.ok()) return run.status();
    if (const Status status = run->wait(); !status.ok()) return status;
    Result<BoundRun> bound = session->bind(in, out);
    if (!bound.ok()) return bound.status();
    if (const Status status = bound->run(); !status.ok()) {
      const Status again = bound->run();
      EXPECT_TRUE(again.ok()) << again.message();
      EXPECT_THAT(y, ElementsAre(2, 4, 6));
      return status;
    }
    const auto results = session->run(in);
    return results.status();
  };
  const Status good = scenario();
  ASSERT_TRUE(good.ok()) << good.message();
  const std::map<std::string, int> counts = fake_gpu().counts;
  int tried = 0;
  for (const auto& [name, count] : counts) {
    // What only tidies up cannot fail usefully, and what merely asks is not an error.
    if (name.ends_with("Destroy") || name == "cudaFree") continue;
    for (int call = 1; call <= count; ++call, ++tried) {
      fake_gpu().reset();
      fake_gpu().failing = name, fake_gpu().failing_call = call;
      const Status status = scenario();
      // The last questions for the device are asked while all is torn down.
      if (name == "cudaGetDevice" && status.ok()) continue;
      EXPECT_FALSE(status.ok()) << name << " " << call;
      const bool is_load = status.message().find("no back end can run") != std::string::npos;
      const Code expected = is_load                                                    ? Code::kNoBackend
                            : name == "cudaMalloc" || name == "createExecutionContext" ? Code::kOutOfMemory
                                                                                       : Code::kRunFailed;
      EXPECT_EQ(status.code(), expected) << name << " " << call << ": " << status.message();
      EXPECT_FALSE(status.message().empty());
      expect_clean();
    }
  }
  EXPECT_GT(tried, 40);
}

}  // namespace
}  // namespace hsm::testing
