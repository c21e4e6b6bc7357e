// The libraries of operators that are not ours, which a bundle names and a machine has installed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/manifest.h"

namespace hsm::runtime {

// Returns the paths of those of a bundle's libraries that an adapter loads, in the manifest's order. Each is looked for
// by its name in `search_path` (folders separated by colons), in the folders of HSM_EXPORT_LIBRARIES, and in
// `own_folder`; what has another digest than the manifest's is not taken. Throws Error(kNoBackend) with what to
// install.
std::vector<std::string> find_libraries(const std::vector<OperatorLibrary>& libraries, std::string_view adapter,
                                        const std::string& search_path, const std::string& own_folder);

}  // namespace hsm::runtime
