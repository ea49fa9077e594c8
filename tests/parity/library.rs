//! Opening ONNX Runtime: which library and which execution provider.

use std::env;
use std::path::Path;
use std::process::Command;

use t2lc_runtime::backend::ort::{LIBRARY_VARIABLE, Ort};
use t2lc_runtime::backend::{Backend, BackendError, Provider};

use crate::support::parts;

#[test]
fn a_provider_that_is_not_there_is_an_error_and_auto_does_without() {
    let library = parts::onnxruntime_library();
    for provider in Provider::ALL {
        let opened = Ort::with_library(&library, *provider);
        match provider {
            // The library is the CPU build.
            Provider::Auto | Provider::Cpu => {
                let id = opened.unwrap().id();
                assert!(id.starts_with("ort/") && id.ends_with("/cpu"), "{id}");
                assert!(!id.contains("unknown"), "{id}");
            }
            _ => {
                let error = opened.unwrap_err();
                let named = matches!(
                    &error,
                    BackendError::Provider { provider: p, reason }
                        if p == provider && !reason.is_empty()
                );
                assert!(named, "{provider}: {error}");
            }
        }
    }
}

#[test]
fn a_bad_library_is_an_error_and_a_good_one_can_follow() {
    // A process keeps the library that it loads first: the test proper has one of its own.
    const CHILD_VARIABLE: &str = "T2LC_TEST_BAD_LIBRARY";
    let nowhere = "/nowhere/libonnxruntime.so";
    if env::var_os(CHILD_VARIABLE).is_none() {
        let name = "library::a_bad_library_is_an_error_and_a_good_one_can_follow";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD_VARIABLE, "1")
            .env(LIBRARY_VARIABLE, nowhere)
            .output()
            .unwrap();
        let [out, err] = [child.stdout, child.stderr].map(|b| String::from_utf8(b).unwrap());
        assert!(child.status.success() && out.contains("1 passed"), "{out}{err}");
        return;
    }

    let assert_refused = |opened: Result<Ort, BackendError>, library: &Path| {
        let error = opened.unwrap_err();
        let named = matches!(
            &error,
            BackendError::Library { path, .. } if Path::new(path) == library
        );
        assert!(named, "{error}");
    };
    let no_library = parts::encoder_dir().join("tokenizer.json");
    assert_refused(Ort::open(Provider::Cpu), Path::new(nowhere));
    assert_refused(Ort::with_library(&no_library, Provider::Cpu), &no_library);
    let good = parts::onnxruntime_library();
    for _ in 0..2 {
        Ort::with_library(&good, Provider::Cpu).unwrap();
        assert_refused(Ort::open(Provider::Cpu), Path::new(nowhere));
    }
}
