//! Tests of `pooling`: the file that names it, and the operations.

use t2lc_runtime::backend::exact::Exact;
use t2lc_runtime::backend::{Backend, Tensor};

use super::{CONFIG, ModelDir};
use crate::encoder::pooling::{Pooling, pool};
use crate::error::ExportError;
use crate::graph::{Dim, ElementType, GraphBuilder};

#[test]
fn names_round_trip() {
    for (name, pooling) in [("mean", Pooling::Mean), ("cls", Pooling::Cls)] {
        assert_eq!(name.parse::<Pooling>().unwrap(), pooling);
        assert_eq!(pooling.to_string(), name);
    }
    let error = "max".parse::<Pooling>().unwrap_err();
    assert!(matches!(error, ExportError::UnknownPooling { got } if got == "max"));
}

#[test]
fn the_file_names_one_of_two_modes() {
    let mut dir = ModelDir::new("pooling-file", CONFIG, &[]);
    for default in [Pooling::Mean, Pooling::Cls] {
        assert_eq!(Pooling::read(dir.path(), default).unwrap(), default);
    }
    for (modes, expected) in [
        (r#""pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true"#, Pooling::Mean),
        (r#""pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false"#, Pooling::Cls),
        (r#""pooling_mode_cls_token": true, "include_prompt": true"#, Pooling::Cls),
    ] {
        dir = dir.with_pooling(&format!(r#"{{"word_embedding_dimension": 8, {modes}}}"#));
        for default in [Pooling::Mean, Pooling::Cls] {
            assert_eq!(Pooling::read(dir.path(), default).unwrap(), expected);
        }
    }
    for (modes, modes_set) in [
        (
            r#""pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true"#,
            "pooling_mode_cls_token, pooling_mode_mean_tokens",
        ),
        (
            r#""pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": true"#,
            "pooling_mode_lasttoken, pooling_mode_mean_tokens",
        ),
        (r#""pooling_mode_max_tokens": true"#, "pooling_mode_max_tokens"),
        (r#""pooling_mode_mean_tokens": false"#, "none"),
    ] {
        dir = dir.with_pooling(&format!("{{{modes}}}"));
        let error = Pooling::read(dir.path(), Pooling::Mean).unwrap_err();
        assert!(
            matches!(&error, ExportError::UnsupportedConfig { field: "pooling_mode", got, .. }
                if got == modes_set),
            "{error}"
        );
    }
    let dir = dir.with_pooling("[]");
    let error = Pooling::read(dir.path(), Pooling::Mean).unwrap_err();
    assert!(matches!(error, ExportError::Json { .. }));
}

/// Two texts of three tokens and width 2, the second with one token of padding.
fn pooled(pooling: Pooling) -> Vec<f32> {
    let (batch, tokens) = (Dim::Symbol("batch"), Dim::Symbol("tokens"));
    let mut graph = GraphBuilder::new();
    let shape = [batch, tokens, Dim::Fixed(2)];
    let states = graph.input("states", ElementType::F32, &shape).unwrap();
    let mask = graph.input("mask", ElementType::F32, &[batch, tokens]).unwrap();
    let result = pool(&mut graph, states, mask, pooling, 2).unwrap();
    assert_eq!(graph.shape(result).unwrap(), [batch, Dim::Fixed(2)]);
    let model = graph.finish("pooling", &[("result".to_owned(), result)]).unwrap();
    let graph = Exact::default().load("pooling", &model).unwrap();
    let states = vec![3.0, 4.0, 1.0, 0.0, -4.0, 8.0, 0.0, -2.0, 6.0, 2.0, 50.0, 50.0];
    let mask = vec![1.0, 1.0, 1.0, 1.0, 1.0, 0.0];
    let inputs = [
        ("states", Tensor::F32 { shape: vec![2, 3, 2], values: states }),
        ("mask", Tensor::F32 { shape: vec![2, 3], values: mask }),
    ];
    match graph.run(&inputs, &["result"]).unwrap().remove(0) {
        Tensor::F32 { shape, values } => {
            assert_eq!(shape, [2, 2]);
            values
        }
        Tensor::I64 { .. } => panic!("integers"),
    }
}

#[test]
fn mean_and_first_token_get_the_length_of_the_root_of_the_width() {
    let root = 2_f32.sqrt();
    // Means (0, 4) and (3, 0); first tokens (3, 4) and (0, -2).
    for (pooling, expected) in [
        (Pooling::Mean, [0.0, root, root, 0.0]),
        (Pooling::Cls, [0.6 * root, 0.8 * root, 0.0, -root]),
    ] {
        let got = pooled(pooling);
        assert!(super::largest_difference(&got, &expected) < 1e-6, "{pooling}: {got:?}");
    }
}
