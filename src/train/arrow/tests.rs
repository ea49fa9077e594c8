//! Routing against plain adapters, and the fixed mixture against the sum it stands for.

use candle_core::{Device, Tensor};

use super::{Arrow, MeanWeights, routing_weights};
use crate::base::adapter::Delta;
use crate::base::peft::PeftAdapter;
use crate::base::peft::tests::{adapter, base, distance, inputs};
use crate::train::library::Library;

fn library(adapters: Vec<PeftAdapter>) -> Library {
    let named = adapters.into_iter().enumerate();
    Library { adapters: named.map(|(i, adapter)| (format!("task-{i}"), adapter)).collect() }
}

/// Three random adapters, one of another scale.
fn three() -> Library {
    let second = PeftAdapter { alpha: 1.0, use_rslora: true, ..adapter(2) };
    library(vec![adapter(1), second, adapter(3)])
}

fn arrow(library: &Library, top_k: usize) -> Arrow {
    Arrow::new(library, &base(), top_k, &Device::Cpu).unwrap()
}

fn delta(of: &dyn Delta, layer: usize, module: &str, x: &Tensor) -> Tensor {
    of.delta(layer, module, x).unwrap().unwrap()
}

fn plain(adapter: &PeftAdapter, layer: usize, module: &str, x: &Tensor) -> Tensor {
    delta(&adapter.batch(&base(), &Device::Cpu).unwrap(), layer, module, x)
}

/// Every module of every layer with its width.
fn places() -> Vec<(usize, &'static str, usize)> {
    vec![(0, "q_proj", 4), (1, "q_proj", 4), (0, "down_proj", 5), (1, "down_proj", 5)]
}

#[test]
fn one_adapter_is_applied_as_it_is() {
    let arrow = arrow(&library(vec![adapter(1)]), 1);
    for (layer, module, width) in places() {
        let x = inputs(2, 1, 3, width);
        let expected = plain(&adapter(1), layer, module, &x);
        assert!(distance(&delta(&arrow, layer, module, &x), &expected) < 1e-5);
    }
    let x = inputs(2, 1, 3, 4);
    assert!(arrow.delta(0, "k_proj", &x).unwrap().is_none());
    assert!(arrow.delta(2, "q_proj", &x).unwrap().is_none());
}

#[test]
fn the_first_of_all_is_the_adapter_along_the_token() {
    // Adapter i reads component i of its input and nothing else.
    let reading = |component: usize| {
        let mut adapter = adapter(component as u64);
        for (a, _) in adapter.matrices.values_mut() {
            let width = a.len() / 2;
            a.fill(0.0);
            a[component] = 1.0;
            a[width + component] = -0.5;
        }
        adapter
    };
    let adapters: Vec<PeftAdapter> = (0..4).map(reading).collect();
    let arrow = arrow(&library(adapters.clone()), 1);
    for (layer, module, width) in places() {
        for (component, adapter) in adapters.iter().enumerate() {
            let mut token = vec![0.3_f32; width];
            // The sign of a direction does not matter.
            token[component] = if component % 2 == 0 { 2.0 } else { -2.0 };
            let x = Tensor::from_vec(token, (1, 1, width), &Device::Cpu).unwrap();
            let expected = plain(adapter, layer, module, &x);
            assert!(distance(&delta(&arrow, layer, module, &x), &expected) < 1e-5, "{component}");
        }
    }
}

#[test]
fn every_token_is_routed_for_itself() {
    let (library, x) = (three(), inputs(4, 2, 3, 4));
    for top_k in 1..=3 {
        let arrow = arrow(&library, top_k);
        let together = delta(&arrow, 1, "q_proj", &x);
        assert_eq!(together.dims(), [2, 3, 8]);
        for row in 0..2 {
            for token in 0..3 {
                let part = |t: &Tensor| t.narrow(0, row, 1).unwrap().narrow(1, token, 1).unwrap();
                let alone = delta(&arrow, 1, "q_proj", &part(&x));
                assert!(distance(&part(&together), &alone) < 1e-5, "top {top_k}: {row}, {token}");
            }
        }
    }
}

#[test]
fn weights_are_the_softmax_of_the_nearest() {
    let weights = routing_weights(&[1.0, 3.0, 0.5, 2.0], 2);
    let larger = 1.0 / (1.0 + (-1.0_f32).exp());
    for (got, expected) in weights.iter().zip([0.0, larger, 0.0, 1.0 - larger]) {
        assert!((got - expected).abs() < 1e-6, "{weights:?}");
    }
    assert_eq!(routing_weights(&[1.0, 1.0, 1.0], 1), [1.0, 0.0, 0.0]);
    assert_eq!(routing_weights(&[5.0, 5.0], 2), [0.5, 0.5]);
}

#[test]
fn the_mixture_of_a_uniform_router_is_the_mean_of_the_updates() {
    let library = three();
    let arrow = arrow(&library, 3);
    assert!(arrow.finish_recording().is_err());
    arrow.start_recording();
    assert!(arrow.finish_recording().unwrap_err().to_string().contains("no token was routed"));
    arrow.start_recording();
    for (layer, module, width) in places() {
        // Zero is equally far from every direction.
        let zeros = Tensor::zeros((1, 5, width), candle_core::DType::F32, &Device::Cpu).unwrap();
        delta(&arrow, layer, module, &zeros);
    }
    let means = arrow.finish_recording().unwrap();
    for (place, weights) in &means.weights {
        assert!(weights.iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-6), "{place:?} {weights:?}");
    }
    let mixture = means.mixture(&library, &base(), 3).unwrap();
    assert_eq!(mixture.rank, 6);
    for (layer, module, width) in places() {
        let x = inputs(5, 1, 4, width);
        let parts = library.adapters.iter().map(|(_, adapter)| plain(adapter, layer, module, &x));
        let sum = parts.reduce(|left, right| (left + right).unwrap()).unwrap();
        let expected = (sum / 3.0).unwrap();
        assert!(distance(&plain(&mixture, layer, module, &x), &expected) < 1e-5);
    }
}

#[test]
fn only_the_adapters_of_largest_weight_are_kept() {
    let library = three();
    let weights = places().into_iter().map(|(layer, module, _)| {
        // The last adapter is first in one place, but not overall.
        let weights = if layer == 0 { vec![0.7, 0.1, 0.2] } else { vec![0.2, 0.25, 0.55] };
        ((module.to_owned(), layer), weights)
    });
    let ids = library.adapters.iter().map(|(id, _)| id.clone()).collect();
    let means = MeanWeights { ids, weights: weights.collect() };
    let ranking: Vec<&str> = means.ranking().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ranking, ["task-0", "task-2", "task-1"]);
    let mixture = means.mixture(&library, &base(), 2).unwrap();
    assert_eq!(mixture.rank, 4);
    let x = inputs(6, 1, 4, 4);
    let part = |index: usize| plain(&library.adapters[index].1, 1, "q_proj", &x);
    let expected = ((part(0) * 0.2).unwrap() + (part(2) * 0.55).unwrap()).unwrap();
    assert!(distance(&plain(&mixture, 1, "q_proj", &x), &expected) < 1e-5);
    for keep in [0, 4] {
        assert!(means.mixture(&library, &base(), keep).is_err());
    }
    let mut other = library.clone();
    other.adapters[1].0 = "another task".into();
    assert!(means.mixture(&other, &base(), 2).is_err());
}

#[test]
fn libraries_that_cannot_be_routed_are_refused() {
    let new = |library: &Library, top_k| Arrow::new(library, &base(), top_k, &Device::Cpu);
    assert!(new(&library(Vec::new()), 1).is_err());
    for top_k in [0, 4] {
        let error = new(&three(), top_k).unwrap_err().to_string();
        assert_eq!(error, format!("top {top_k} of 3 adapters, expected 1 to all"));
    }
    let mut wrong = three();
    wrong.adapters[1].1.matrices.remove(&("q_proj".to_owned(), 0));
    assert_eq!(new(&wrong, 1).unwrap_err().to_string(), "task `task-1`");
}
