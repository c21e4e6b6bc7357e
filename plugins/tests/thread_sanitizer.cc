// ONNX Runtime is not instrumented, so ThreadSanitizer cannot see its atomics and reports races inside it. What it does
// itself is left out; what it calls, our libraries, is not.
#if defined(__SANITIZE_THREAD__)
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions() {
  return "called_from_lib:libonnxruntime.so\n";
}
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() { return "report_mutex_bugs=0"; }
#endif
