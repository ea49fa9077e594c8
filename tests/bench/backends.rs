//! The two graphs of the default bundle in every backend: description → task embedding → matrices.
//!
//! In: the bundle that is built in, one short and one long description. Out: criterion's estimates
//! per stage and backend, with the graphs loaded before. `exact` and tract run on one thread here;
//! ONNX Runtime, where `T2LC_ORT_LIBRARY` names its library, chooses for itself.
//!
//! ```text
//! cargo bench --features ort --bench backends
//! ```

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::ort::LIBRARY_VARIABLE;
use t2lc_runtime::backend::tract::Tract;
use t2lc_runtime::backend::{self, Backend, BackendKind, Provider};
use t2lc_runtime::bundle::Bundle;
use t2lc_runtime::describe::Description;
use t2lc_runtime::encode::Encoder;
use t2lc_runtime::generate::Generator;

const SHORT: &str = "summarize legal text";
const LONG: &str = "You are given two sentences. Say whether the second one follows from the first \
                    one, contradicts it, or whether neither is the case; answer with one word.";

fn stages(criterion: &mut Criterion) {
    let files = t2lc::default_bundle::files().expect("the bundle is built in");
    let bundle = Bundle::from_static(&files).expect("the bundle is sound");
    let mut backends: Vec<(&str, Box<dyn Backend>)> =
        vec![("exact", Box::new(Exact::new(1))), ("tract", Box::new(Tract))];
    if std::env::var_os(LIBRARY_VARIABLE).is_some() {
        let ort = backend::open(BackendKind::Ort, Provider::Cpu).expect("ONNX Runtime opens");
        backends.push(("ort", ort));
    }
    let mut group = criterion.benchmark_group("stages");
    for (name, backend) in &backends {
        let encoder = Encoder::load(&bundle, backend.as_ref()).expect("the encoder loads");
        let generator = Generator::load(&bundle, backend.as_ref()).expect("the hypernet loads");
        for (length, text) in [("short", SHORT), ("long", LONG)] {
            let description = Description::new(text).expect("a plain description");
            group.bench_function(format!("encode {length}/{name}"), |bencher| {
                bencher.iter(|| encoder.encode(black_box(&description)).expect("it encodes"));
            });
        }
        let description = Description::new(SHORT).expect("a plain description");
        let embedding = encoder.encode(&description).expect("it encodes");
        group.bench_function(format!("generate/{name}"), |bencher| {
            bencher.iter(|| generator.generate(black_box(&embedding)).expect("it generates"));
        });
    }
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
