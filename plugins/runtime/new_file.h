// A file that is written as a whole or not at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace hsm::runtime {

// Bytes on their way to `path`, in an unnamed file beside it (or one of a random name, where the file system has no
// unnamed ones). What has that name stays as it is until commit(), and for ever without it. Throws
// Error(kInvalidArgument): the path is empty, or names something else than a plain file, or cannot be written.
class NewFile {
 public:
  explicit NewFile(std::string path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::span<const std::byte> bytes);
  // Puts the file in place, with the mode of the one that it replaces, and waits until the disk has it.
  void commit();

 private:
  void link(const std::string& name) const;
  [[noreturn]] void refuse() const;

  std::string path_, folder_;
  std::string scratch_;  // the random name, once there is one
  int descriptor_ = -1;
};

}  // namespace hsm::runtime
