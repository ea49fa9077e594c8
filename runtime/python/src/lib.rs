//! The shared library of the Python package: every function of `runtime/include/t2lc.h`.

// Links the runtime, whose functions are exported by their C names.
pub use t2lc_runtime::capi::*;
