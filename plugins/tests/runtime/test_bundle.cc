// What the reader of bundles takes, and what it refuses and with which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "hsm_runtime/bundle.h"
#include "tests/runtime/bundle_writer.h"

namespace hsm::testing {
namespace {

namespace fs = std::filesystem;
using hsm_runtime::Bundle;
using hsm_runtime::Code;
using hsm_runtime::Part;
using hsm_runtime::Result;
using ::testing::HasSubstr;

void expect_refused(const std::string& path, const std::string& words, const std::string& what) {
  const Result<Bundle> bundle = Bundle::open(path);
  ASSERT_FALSE(bundle.ok()) << what;
  EXPECT_EQ(bundle.status().code(), Code::kBadBundle) << what;
  EXPECT_THAT(bundle.status().message(), HasSubstr(words)) << what;
}

TEST(Bundle, SaysWhatItHolds) {
  const TemporaryFolder folder;
  const Result<Bundle> bundle = Bundle::open(write_good_bundle(folder));
  ASSERT_TRUE(bundle.ok()) << bundle.status().message();
  EXPECT_EQ(bundle->precision(), "fp32");
  EXPECT_EQ(bundle->task(), "");
  EXPECT_EQ(bundle->writer_version(), "0.1.0");
  EXPECT_TRUE(bundle->has(Part::kModel));
  EXPECT_FALSE(bundle->has(Part::kDecode));
  EXPECT_TRUE(bundle->inputs(Part::kDecode).empty());
  ASSERT_EQ(bundle->inputs(Part::kModel).size(), 1u);
  EXPECT_EQ(bundle->inputs(Part::kModel)[0].name, "x");
  EXPECT_EQ(std::get<std::string>(bundle->inputs(Part::kModel)[0].shape[0]), "batch");
  EXPECT_EQ(std::get<std::int64_t>(bundle->inputs(Part::kModel)[0].shape[1]), 3);
  EXPECT_DOUBLE_EQ(bundle->tolerances().at("model.y"), 1e-5);
}

TEST(Bundle, LeavesDigestsOutOnRequest) {
  const TemporaryFolder folder;
  const std::string path = write_good_bundle(folder);
  std::fstream file(path + "/model.onnx", std::ios::in | std::ios::out | std::ios::binary);
  file.put('x');
  file.close();
  expect_refused(path, "SHA-256", "changed");
  EXPECT_TRUE(Bundle::open(path, {.verify_digests = false}).ok());
}

// Each spoils the manifest of the good bundle by replacing the first text by the second.
struct Spoiled {
  std::string from, to, words;
};

TEST(Bundle, RefusesSpoiledManifests) {
  const std::string deep = std::string(40, '[') + std::string(40, ']');
  const std::vector<Spoiled> cases = {
      {"\"hsm-bundle\"", "\"zip\"", "not the manifest"},
      {"\"schema\": 1", "\"schema\": 3", "schema 3"},
      {"\"schema\": 1", "\"schema\": 2", "lacks 'libraries'"},
      {"\"schema\": 1", "\"schema\": 1.0", "wrong type"},
      {"\"schema\": 1", "\"schema\": true", "wrong type"},
      {"\"schema\": 1", "\"schema\": 1, \"schema\": 1", "comes twice"},
      {"\"schema\": 1", "\"schema\": 1, \"extra\": 0", "unknown member 'extra'"},
      {"\"task\": \"\", ", "", "lacks 'task'"},
      {"\"task\": \"\"", "\"task\": \"mining\"", "mining"},
      {"\"fp32\"", "\"fp8\"", "fp8"},
      {"\"float32\"", "\"float31\"", "float31"},
      {"[\"batch\", 3]", "[\"batch\", 0]", "dimension of 0"},
      {"[\"batch\", 3]", "[\"batch\", -1]", "dimension of -1"},
      {"[\"batch\", 3]", "[\"\", 3]", "no name"},
      {"\"engines\": []", "\"engines\": {}", "wrong type"},
      {"\"engines\": []", "\"engines\": " + deep, "nested deeper"},
      {"\"engines\": []",
       R"("engines": [{"file": "/a.engine", "of": "model", "target": "tensorrt", "version": "10.1",
 "architectures": ["sm86"], "plugins": true, "embedded_plugins": true, "profiles": []}])",
       "not named engines/"},
      {"\"tokenizer\": null", "\"tokenizer\": {\"kind\": \"huggingface\", \"file\": \"../tokenizer.json\"}",
       "tokenizer"},
      {"\"tokenizer\": null", "\"tokenizer\": {\"kind\": \"huggingface\", \"file\": \"tokenizer.json\"}",
       "among its files"},
      {"1e-5", "-1e-5", "tolerance"},
      {"1e-5", "NaN", "valid JSON"},
      {"1e-5", "1e999", "valid JSON"},
      {"\"model.y\"", "\"decode.y\"", "self-test"},
      {"{\"model.y\": 1e-5}", "{}", "compares nothing"},
      {"\"file\": \"model.onnx\"", "\"file\": \"../model.onnx\"", "not model.onnx"},
      {"\"cpu_file\": null", "\"cpu_file\": \"../model.cpu.onnx\"", "does not know"},
      {"\"cpu_file\": null", "\"cpu_file\": \"decode.cpu.onnx\"", "does not know"},
      {"\"cpu_file\": null", "\"cpu_file\": 0", "wrong type"},
      {"\"cpu_file\": null", "\"cpu_file\": \"model.cpu.onnx\"", "'model.cpu.onnx' is not among its files"},
      {"\"cpu_file\": null, ", "", "lacks 'cpu_file'"},
      {"\"model.onnx\": {", "\"../model.onnx\": {", "not allowed"},
      {"\"model.onnx\": {", "\"/model.onnx\": {", "not allowed"},
      {"\"model.onnx\": {", "\"a/model.onnx\": {", "not allowed"},
      {"\"model.onnx\": {", "\"libevil.SO.1\": {", "shared library"},
      {"\"bytes\": ", "\"bytes\": -", "out of range"},
      {"\"bytes\": ", "\"bytes\": 99999999999999999999", "wrong type"},
      {"\"sha256\": \"", "\"sha256\": \"x", "malformed"},
      {"}}\n", "}", "valid JSON"},
      {"}}\n", "}} trailing", "valid JSON"},
      {"\"0.1.0\"", "\"\xff\"", "valid JSON"},
  };
  for (const Spoiled& spoiled : cases) {
    const TemporaryFolder folder;
    std::string manifest = manifest_of(good_files());
    const std::size_t at = manifest.find(spoiled.from);
    ASSERT_NE(at, std::string::npos) << spoiled.from;
    manifest.replace(at, spoiled.from.size(), spoiled.to);
    write_bundle(folder.path() / "b", good_files(), manifest);
    expect_refused((folder.path() / "b").string(), spoiled.words, spoiled.from + " -> " + spoiled.to);
  }
}

TEST(Bundle, RefusesSpoiledFolders) {
  const auto spoil = [](const std::string& words, const auto& change) {
    const TemporaryFolder folder;
    const fs::path path = write_good_bundle(folder);
    change(path, folder.path());
    expect_refused(path.string(), words, words);
  };
  spoil("lacks its file model.onnx", [](const fs::path& b, const fs::path&) { fs::remove(b / "model.onnx"); });
  spoil("lacks its file manifest.json", [](const fs::path& b, const fs::path&) { fs::remove(b / "manifest.json"); });
  spoil("bytes", [](const fs::path& b, const fs::path&) { fs::resize_file(b / "model.onnx", 10); });
  spoil("is a link", [](const fs::path& b, const fs::path& outside) {
    fs::rename(b / "model.onnx", outside / "m");
    fs::create_symlink(outside / "m", b / "model.onnx");
  });
  spoil("is a link", [](const fs::path& b, const fs::path& outside) {
    fs::rename(b / "manifest.json", outside / "m");
    fs::create_symlink(outside / "m", b / "manifest.json");
  });
  spoil("not listed", [](const fs::path& b, const fs::path&) { std::ofstream(b / "more.txt") << "?"; });
  spoil("not listed", [](const fs::path& b, const fs::path&) { fs::create_directory(b / "folder"); });
  spoil("link or a file", [](const fs::path& b, const fs::path&) { fs::create_directory_symlink("/", b / "engines"); });
  spoil("not listed", [](const fs::path& b, const fs::path&) {
    fs::create_directory(b / "engines");
    std::ofstream(b / "engines" / "a.engine") << "?";
  });
  spoil("plain file", [](const fs::path& b, const fs::path&) {
    fs::remove(b / "model.onnx");
    ASSERT_EQ(mkfifo((b / "model.onnx").c_str(), 0600), 0);
  });
  spoil("larger than 16 MB", [](const fs::path& b, const fs::path&) {
    std::ofstream(b / "manifest.json") << std::string((16u << 20) + 1, ' ');
  });
}

TEST(Bundle, RefusesSharedLibrariesUnderOtherNames) {
  const TemporaryFolder folder;
  auto files = good_files();
  files["weights.bin"] =
      "\x7f"
      "ELF and so on";
  write_bundle(folder.path() / "b", files, manifest_of(files));
  expect_refused((folder.path() / "b").string(), "shared library", "ELF");
}

TEST(Bundle, RefusesWhatIsNoFolder) {
  expect_refused("/nonexistent.hsm", "not a folder", "missing");
  expect_refused("", "not a folder", "empty");
}

// HSM_TEST_HOSTILE_BUNDLES: what tests/exporter/bundling/hostile.py wrote, the list that both readers share.
TEST(Bundle, AgreesWithPython) {
  const char* folder = std::getenv("HSM_TEST_HOSTILE_BUNDLES");
  if (folder == nullptr) GTEST_SKIP() << "HSM_TEST_HOSTILE_BUNDLES names no folder";
  int count = 0;
  for (const bool taken : {true, false}) {
    for (const auto& entry : fs::directory_iterator(fs::path(folder) / (taken ? "accepted" : "refused"))) {
      const Result<Bundle> bundle = Bundle::open(entry.path().string());
      EXPECT_EQ(bundle.ok(), taken) << entry.path() << ": " << bundle.status().message();
      const std::string& words = bundle.status().message();
      EXPECT_TRUE(std::none_of(words.begin(), words.end(), [](unsigned char c) { return c < 0x20; })) << entry.path();
      EXPECT_LT(words.size(), 600u) << entry.path();
      ++count;
    }
  }
  EXPECT_GT(count, 80);
}

}  // namespace
}  // namespace hsm::testing
