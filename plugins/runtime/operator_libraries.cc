#include "runtime/operator_libraries.h"

#include <cstdlib>
#include <filesystem>

#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/sha256.h"

namespace hsm::runtime {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "HSM_EXPORT_LIBRARIES";

void add_folders(std::vector<fs::path>& folders, std::string_view list) {
  while (!list.empty()) {
    const std::string_view folder = list.substr(0, list.find(':'));
    if (!folder.empty()) folders.emplace_back(folder);
    list.remove_prefix(folder.size() == list.size() ? list.size() : folder.size() + 1);
  }
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string find_library(const OperatorLibrary& library, const std::vector<fs::path>& folders) {
  std::string other;
  for (const fs::path& folder : folders) {
    const fs::path path = folder / library.file;
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) continue;
    if (sha256(MappedFile(path.string()).bytes()) == library.sha256) return fs::absolute(path).string();
    if (other.empty()) other = path.string();
  }
  const std::string cure = "; install the library that the bundle was made with, and name its folder in " +
                           std::string(kVariable) + " or in the option operator_libraries";
  if (!other.empty()) {
    fail(Code::kNoBackend, other + " is not the library of that name that runs " + joined(library.operators) +
                               " in this bundle: its SHA-256 differs" + cure);
  }
  fail(Code::kNoBackend, library.file + ", which runs " + joined(library.operators) + ", is not installed here" + cure);
}

}  // namespace

std::vector<std::string> find_libraries(const std::vector<OperatorLibrary>& libraries, std::string_view adapter,
                                        const std::string& search_path, const std::string& own_folder) {
  std::vector<fs::path> folders;
  add_folders(folders, search_path);
  if (const char* named = std::getenv(kVariable)) add_folders(folders, named);
  if (!own_folder.empty()) folders.emplace_back(own_folder);
  std::vector<std::string> paths;
  for (const OperatorLibrary& library : libraries) {
    if (library.adapter == adapter) paths.push_back(find_library(library, folders));
  }
  return paths;
}

}  // namespace hsm::runtime
