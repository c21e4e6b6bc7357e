// Files, mapped into memory: those of a bundle never through a link.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace hsm::runtime {

// A plain file's bytes, read-only. The mapping stays valid when the file is removed, not when it is shortened.
class MappedFile {
 public:
  MappedFile() = default;
  // Opens `name` in `folder`. Throws Error(kBadBundle): missing, a link, no plain file, or unreadable.
  MappedFile(const std::string& folder, const std::string& name);
  // Opens a file that the caller names, through links too. Throws Error(kBadBundle).
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void map(int file, const std::string& path);

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace hsm::runtime
