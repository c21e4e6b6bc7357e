// Bundles: the one folder that `hsm-export bundle` writes and an application ships.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hsm_runtime/export.h"
#include "hsm_runtime/status.h"
#include "hsm_runtime/tensor.h"

namespace hsm_runtime {

/// The graphs that a bundle may hold.
enum class Part : int {
  kModel = 0,   ///< Reads whole sequences.
  kDecode = 1,  ///< Reads pieces, with a state; Generator runs it.
};

/// How a bundle is opened.
struct BundleOptions {
  /// Compare the SHA-256 of every file, which reads all of them. Without it a file is checked by its size alone: for
  /// bundles that the application has verified before and nobody else can write.
  bool verify_digests = true;
};

/// An opened bundle: checked, immutable, cheap to copy, safe to share between threads.
class HSM_RUNTIME_API Bundle {
 public:
  struct Impl;

  /// Opens a bundle that anybody may have written: no link is followed, no other folder is touched, nothing is loaded.
  static Result<Bundle> open(const std::string& path, const BundleOptions& options = {});

  /// Its folder, as open() was told.
  const std::string& path() const;
  /// "language_model", "classification", or "" for a model that does not say.
  const std::string& task() const;
  /// "fp32", "fp16" or "bf16".
  const std::string& precision() const;
  /// The version of hsm-export that wrote it.
  const std::string& writer_version() const;
  /// Whether it has such a graph.
  bool has(Part part) const;
  /// What the graph reads; empty when the bundle lacks the part.
  const std::vector<TensorInfo>& inputs(Part part) const;
  /// What it writes; empty when the bundle lacks the part.
  const std::vector<TensorInfo>& outputs(Part part) const;
  /// The kind of its tokenizer: "bytes" (ids are the bytes of UTF-8 text), "characters" (characters.json), "rwkv" (the
  /// vocabulary of RWKV's World models), "sentencepiece" (a .model of SentencePiece), "huggingface" (a tokenizer.json
  /// of the library tokenizers), or "" for none.
  const std::string& tokenizer() const;
  /// The tokenizer's file; "" where it needs none.
  const std::string& tokenizer_path() const;
  /// The largest absolute error of each output of the self-test, such as "model.logits".
  const std::map<std::string, double>& tolerances() const;

  /// @{
  /// For the library itself.
  const Impl& impl() const { return *impl_; }
  explicit Bundle(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  /// @}

 private:
  std::shared_ptr<const Impl> impl_;
};

}  // namespace hsm_runtime
