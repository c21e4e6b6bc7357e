# Installs what anybody's operators are built from, with the CMake package that does it: HsmOperators.cmake.
include_guard()

function(hsm_install_sources)
  set(share share/hsm)
  install(DIRECTORY hsm_operators/common DESTINATION ${share}/hsm_operators
          FILES_MATCHING PATTERN "*.h" PATTERN "*.cc" PATTERN "*.cuh" PATTERN "test_*" EXCLUDE)
  install(DIRECTORY onnxruntime tensorrt torch DESTINATION ${share}
          FILES_MATCHING PATTERN "*.h" PATTERN "*.cc" PATTERN "exports.map")
  install(DIRECTORY tests/simt tests/emulated DESTINATION ${share}/tests
          FILES_MATCHING PATTERN "*.h" PATTERN "*.cc" PATTERN "test_*" EXCLUDE)
  if(HSM_HAS_highway)
    install(DIRECTORY "${HSM_HIGHWAY_DIR}/hwy" DESTINATION ${share}/third_party/highway
            FILES_MATCHING PATTERN "*.h" PATTERN "tests" EXCLUDE PATTERN "contrib" EXCLUDE PATTERN "examples" EXCLUDE)
    # Compiled, because a part of it takes longer than all else that a library of operators is made of.
    install(TARGETS hsm_highway ARCHIVE DESTINATION ${share}/third_party/highway)
    file(GLOB licences "${HSM_HIGHWAY_DIR}/LICENSE*")
    install(FILES ${licences} DESTINATION ${share}/third_party/highway)
  endif()
  if(HSM_HAS_onnxruntime_headers)
    file(GLOB headers "${HSM_ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_*.h")
    install(FILES ${headers} DESTINATION ${share}/third_party/onnxruntime)
    install(FILES cmake/onnxruntime.LICENSE DESTINATION ${share}/third_party/onnxruntime RENAME LICENSE)
  endif()
  # Those of a TensorRT installed here may be under another licence, and are found again where it is installed.
  if(HSM_HAS_tensorrt_headers)
    file(STRINGS "${HSM_TENSORRT_INCLUDE_DIR}/NvInferRuntime.h" licence LIMIT_COUNT 1
         REGEX "SPDX-License-Identifier: Apache-2.0")
    if(licence)
      file(GLOB headers "${HSM_TENSORRT_INCLUDE_DIR}/NvInfer*.h")
      install(FILES ${headers} DESTINATION ${share}/third_party/tensorrt)
    endif()
  endif()
  include(CMakePackageConfigHelpers)
  configure_package_config_file(cmake/HsmPluginsConfig.cmake.in HsmPluginsConfig.cmake
                                INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/HsmPlugins")
  write_basic_package_version_file(HsmPluginsConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/HsmPluginsConfig.cmake"
                "${CMAKE_CURRENT_BINARY_DIR}/HsmPluginsConfigVersion.cmake"
                cmake/HsmDependencies.cmake cmake/HsmCuda.cmake cmake/HsmAdapters.cmake cmake/HsmOperators.cmake
          DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/HsmPlugins")
endfunction()
