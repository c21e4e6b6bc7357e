# What a library of operators is made of: the table, the kernels, and an adapter for each runtime. It makes our own
# libraries and, installed with the adapters' sources, those of anybody's operators (HsmOperators.cmake).
#
# HSM_SOURCES is the folder of hsm_operators/common, onnxruntime, tensorrt and torch; the target hsm_options has the
# options that everything is compiled with.
include_guard()

# The operator table, without any kernel: what every adapter shares.
function(hsm_add_table target generated)
  add_library(${target} STATIC "${HSM_SOURCES}/hsm_operators/common/opset.cc"
                               "${HSM_SOURCES}/hsm_operators/common/description.cc" "${generated}/opset.gen.cc")
  target_include_directories(${target} PUBLIC "${HSM_SOURCES}")
  target_link_libraries(${target} PRIVATE hsm_options)
endfunction()

function(hsm_add_cpu_kernels target table generated)
  file(GLOB shared CONFIGURE_DEPENDS "${HSM_SOURCES}/hsm_operators/common/cpu/*.cc")
  add_library(${target} STATIC ${ARGN} ${shared} "${generated}/cpu_kernels.gen.cc" "${generated}/definitions.gen.cc")
  target_link_libraries(${target} PUBLIC ${table} PRIVATE hsm_highway hsm_options)
  # Compiled for the baseline (SSE2, NEON), AVX2 and AVX-512; the steps between them would not run our loops any faster.
  # SVE and RISC-V vectors have no size at compile time, so they cannot be in the arrays of a register block.
  target_compile_definitions(${target} PRIVATE
    "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL|HWY_AVX3_ZEN4|HWY_AVX3_SPR|HWY_NEON_BF16|HWY_ALL_SVE|HWY_RVV)")
endfunction()

# Position-independent and self-contained: a plugin library links it whole.
function(hsm_add_cuda_kernels target table generated)
  add_library(${target} STATIC ${ARGN} "${HSM_SOURCES}/hsm_operators/common/cuda/current_device.cc"
                               "${generated}/cuda_kernels.gen.cc")
  target_link_libraries(${target} PUBLIC ${table} PRIVATE hsm_options CUDA::cudart_static)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
endfunction()

# A library shows the functions of its adapter alone: a version script, because templates of the standard library are
# exported in spite of hidden visibility. Wheels run on systems with an older libstdc++, so it is linked in. Its memory
# pool for exceptions is lost at each unloading (73 kB), so a library of a type MODULE stays loaded once it is.
function(_hsm_finish target adapter)
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc
                                        "-Wl,--version-script=${HSM_SOURCES}/${adapter}/exports.map")
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "MODULE_LIBRARY")
    target_link_options(${target} PRIVATE -Wl,-z,nodelete)
  endif()
  if(NOT HSM_SANITIZE)
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
  set_target_properties(${target} PROPERTIES LINK_DEPENDS "${HSM_SOURCES}/${adapter}/exports.map")
endfunction()

# An adapter for ONNX Runtime without kernels, which the CPU's library and CUDA's share.
function(hsm_add_onnxruntime_adapter target table)
  add_library(${target} OBJECT "${HSM_SOURCES}/onnxruntime/adapter.cc" "${HSM_SOURCES}/onnxruntime/library.cc")
  target_link_libraries(${target} PUBLIC ${table} hsm_onnxruntime_headers PRIVATE hsm_options)
endfunction()

# A custom-op library for ONNX Runtime's CPU provider.
function(hsm_add_onnxruntime_library target adapter cpu)
  add_library(${target} MODULE "${HSM_SOURCES}/onnxruntime/kernels.cc")
  target_link_libraries(${target} PRIVATE ${adapter} ${cpu} hsm_options)
  _hsm_finish(${target} onnxruntime)
endfunction()

# The same on CUDA kernels: a library of its own, so that nobody needs CUDA for the CPU's.
function(hsm_add_onnxruntime_cuda_library target adapter cuda)
  add_library(${target} MODULE "${HSM_SOURCES}/onnxruntime/cuda/kernels.cc" "${HSM_SOURCES}/onnxruntime/cuda/gpu.cc")
  target_link_libraries(${target} PRIVATE ${adapter} ${cuda} hsm_options CUDA::cudart_static)
  _hsm_finish(${target} onnxruntime)
endfunction()

# The CPU kernels as C functions, for PyTorch. It needs nothing of PyTorch, and fits every version of it.
function(hsm_add_kernels_library target cpu)
  add_library(${target} MODULE "${HSM_SOURCES}/torch/library.cc")
  target_link_libraries(${target} PRIVATE ${cpu} hsm_options)
  _hsm_finish(${target} torch)
endfunction()

# The CUDA kernels as C functions, for PyTorch: a library of its own, so that nobody needs CUDA for the CPU's.
function(hsm_add_kernels_cuda_library target cuda)
  add_library(${target} MODULE "${HSM_SOURCES}/torch/cuda/library.cc" "${HSM_SOURCES}/torch/cuda/gpu.cc")
  target_link_libraries(${target} PRIVATE ${cuda} hsm_options CUDA::cudart_static)
  _hsm_finish(${target} torch)
endfunction()

# CUDA kernels under the host shim behind the same functions, in place of the CPU's: to be tested, not to be used.
function(hsm_add_emulated_library target table generated)
  set(sources "")
  foreach(source IN LISTS ARGN) # compiled as C++, whatever else compiles the same file
    string(MD5 digest "${source}")
    set(wrapper "${CMAKE_CURRENT_BINARY_DIR}/emulated_${digest}.cc")
    file(CONFIGURE OUTPUT "${wrapper}" CONTENT "#include \"${source}\"\n" @ONLY)
    list(APPEND sources "${wrapper}")
  endforeach()
  file(GLOB shim CONFIGURE_DEPENDS "${HSM_SOURCES}/tests/simt/*.cc")
  list(FILTER shim EXCLUDE REGEX "/test_[^/]*$")
  add_library(${target} MODULE ${sources} ${shim} "${HSM_SOURCES}/tests/emulated/kernels.cc"
                               "${HSM_SOURCES}/torch/library.cc" "${generated}/cuda_kernels.gen.cc")
  target_include_directories(${target} PRIVATE "${HSM_SOURCES}/tests/simt")
  target_compile_definitions(${target} PRIVATE HSM_SIMT)
  target_compile_options(${target} PRIVATE -Wno-unknown-pragmas) # of loops to unroll
  target_link_libraries(${target} PRIVATE ${table} hsm_cuda_headers hsm_options)
  _hsm_finish(${target} torch)
endfunction()

# An adapter for TensorRT without kernels, whose plugins have the version `version` in timing caches.
function(hsm_add_tensorrt_adapter target table version)
  list(TRANSFORM HSM_TENSORRT_ADAPTER PREPEND "${HSM_SOURCES}/tensorrt/" OUTPUT_VARIABLE sources)
  add_library(${target} OBJECT ${sources})
  target_link_libraries(${target} PUBLIC ${table} hsm_tensorrt_headers hsm_cuda_headers PRIVATE hsm_options)
  target_compile_definitions(${target} PRIVATE "HSM_VERSION=\"${version}\"")
endfunction()
set(HSM_TENSORRT_ADAPTER abi.cc creator.cc fields.cc logging.cc plan.cc plugin.cc signature.cc)

# A plugin library. Not linked to libnvinfer: the library that loads it is that of TensorRT 10, TensorRT 11 or
# TensorRT-RTX.
function(hsm_add_tensorrt_library target adapter cuda)
  add_library(${target} SHARED "${HSM_SOURCES}/tensorrt/library.cc")
  target_link_libraries(${target} PRIVATE ${adapter} ${cuda} hsm_options ${CMAKE_DL_LIBS})
  _hsm_finish(${target} tensorrt)
endfunction()
