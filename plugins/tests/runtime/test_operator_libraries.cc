// Which file is taken for a library that a bundle names: the first of that name with the right digest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/operator_libraries.h"
#include "runtime/sha256.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kFile = "libacme_onnxruntime.so";
constexpr const char* kVariable = "HSM_EXPORT_LIBRARIES";

class OperatorLibraries : public ::testing::Test {
 protected:
  OperatorLibraries() { unsetenv(kVariable); }
  ~OperatorLibraries() override { unsetenv(kVariable); }

  std::string write(const std::string& folder, const std::string& text) {
    std::filesystem::create_directories(root_ / folder);
    std::ofstream(root_ / folder / kFile) << text;
    return (root_ / folder).string();
  }

  std::string path(const std::string& folder) const { return (root_ / folder / kFile).string(); }

  std::vector<std::string> find(const std::string& search_path, const std::string& own = "") {
    return find_libraries({library_, {"libacme_tensorrt.so", "tensorrt", "", {"acme::Mix"}}}, "onnxruntime",
                          search_path, own);
  }

  std::string refusal(const std::string& search_path) {
    try {
      find(search_path);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Code::kNoBackend);
      return error.what();
    }
    return "";
  }

  testing::TemporaryFolder temporary_;
  std::filesystem::path root_ = temporary_.path();
  OperatorLibrary library_{
      kFile, "onnxruntime", sha256(std::as_bytes(std::span<const char>("right", 5))), {"acme::Mix", "acme::Shift"}};
};

TEST_F(OperatorLibraries, TheFirstFileWithTheDigestIsTaken) {
  const std::string wrong = write("wrong", "wrong"), first = write("first", "right"), second = write("second", "right");
  EXPECT_THAT(find(wrong + ":" + first + ":" + second), ElementsAre(path("first")));
  EXPECT_THAT(find("", second), ElementsAre(path("second")));
  setenv(kVariable, ("::" + first + ":").c_str(), 1);
  EXPECT_THAT(find("", second), ElementsAre(path("first")));
  EXPECT_THAT(find(second, ""), ElementsAre(path("second")));
}

TEST_F(OperatorLibraries, OthersAdaptersLibrariesAreNotLookedFor) {
  EXPECT_THAT(find_libraries({library_}, "onnxruntime_cuda", "", ""), IsEmpty());
}

TEST_F(OperatorLibraries, RefusalsSayWhatToInstall) {
  EXPECT_THAT(refusal("/nonexistent"), HasSubstr("libacme_onnxruntime.so, which runs acme::Mix, acme::Shift, is not "
                                                 "installed here; install the library that the bundle was made with"));
  const std::string wrong = write("wrong", "wrong");
  EXPECT_THAT(refusal(wrong), HasSubstr(path("wrong") + " is not the library of that name"));
  EXPECT_THAT(refusal(wrong), HasSubstr("its SHA-256 differs"));
  std::filesystem::create_directories(root_ / "folder" / kFile);
  EXPECT_THAT(refusal((root_ / "folder").string()), HasSubstr("is not installed here"));
}

}  // namespace
}  // namespace hsm::runtime
