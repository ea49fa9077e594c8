//! Small graphs with what goes into them.
//!
//! A [`Sketch`] is a graph under construction whose inputs are declared together with their
//! values; it ends as a [`Case`]. Values come from a generator that is seeded with the names of the
//! operator and the form, so that every run of a case is the same and no two cases are.

use t2lc_export::graph::{Dim, ElementType, GraphBuilder, Value};
use t2lc_runtime::backend::{Backend, Tensor};

use super::distance::Measure;
use crate::floats;

/// A dimension and its size in this run.
pub(super) type Axis = (Dim, usize);

/// The caller's number of texts.
pub(super) const BATCH: Axis = (Dim::Symbol("batch"), 2);
/// The caller's number of tokens.
pub(super) const TOKENS: Axis = (Dim::Symbol("tokens"), 7);
/// More tokens.
pub(super) const MANY_TOKENS: Axis = (Dim::Symbol("tokens"), 60);

/// Far below every result that matters, and above all that engines treat as zero.
pub(super) const TINY: f64 = f64::from_bits((1023 - 100) << 52); // 2⁻¹⁰⁰

/// Name of a graph's only output.
const OUTPUT: &str = "y";

/// A dimension that the graph fixes.
pub(super) const fn fixed(size: usize) -> Axis {
    (Dim::Fixed(size), size)
}

/// Number of elements.
pub(super) fn count(axes: &[Axis]) -> usize {
    axes.iter().map(|(_, size)| size).product()
}

/// A graph for one operator, its inputs, and how results are compared.
#[derive(Debug)]
pub(super) struct Case {
    /// The operator that is tested.
    pub(super) operator: &'static str,
    /// Which of its forms.
    pub(super) form: &'static str,
    /// The graph; its output is f32.
    pub(super) onnx: Vec<u8>,
    /// The distance that its bounds are about.
    pub(super) measure: Measure,
    inputs: Vec<(&'static str, Tensor)>,
}

impl Case {
    /// What a runtime computes: shape and elements.
    pub(super) fn run(&self, backend: &dyn Backend) -> (Vec<usize>, Vec<f32>) {
        let what = format!("{} ({})", self.operator, self.form);
        let graph = backend.load(&what, &self.onnx).unwrap_or_else(|error| panic!("{error}"));
        let outputs = graph.run(&self.inputs, &[OUTPUT]);
        let outputs = outputs.unwrap_or_else(|error| panic!("{error}"));
        let (shape, values) = floats(&outputs[0]);
        (shape.to_vec(), values.to_vec())
    }
}

/// A case under construction.
pub(super) struct Sketch {
    pub(super) graph: GraphBuilder,
    pub(super) numbers: Numbers,
    operator: &'static str,
    form: &'static str,
    inputs: Vec<(&'static str, Tensor)>,
    constants: usize,
}

impl Sketch {
    pub(super) fn new(operator: &'static str, form: &'static str) -> Self {
        Self {
            graph: GraphBuilder::new(),
            numbers: Numbers::of(operator, form),
            operator,
            form,
            inputs: Vec::new(),
            constants: 0,
        }
    }

    /// Declares an input of floats.
    pub(super) fn floats(&mut self, name: &'static str, axes: &[Axis], values: Vec<f32>) -> Value {
        let (dims, shape): (Vec<Dim>, Vec<usize>) = axes.iter().copied().unzip();
        self.inputs.push((name, Tensor::F32 { shape, values }));
        self.graph.input(name, ElementType::F32, &dims).unwrap()
    }

    /// Declares an input of integers.
    pub(super) fn integers(
        &mut self,
        name: &'static str,
        axes: &[Axis],
        values: Vec<i64>,
    ) -> Value {
        let (dims, shape): (Vec<Dim>, Vec<usize>) = axes.iter().copied().unzip();
        self.inputs.push((name, Tensor::I64 { shape, values }));
        self.graph.input(name, ElementType::I64, &dims).unwrap()
    }

    /// Stores a constant; one without dimensions is a scalar as the exporter stores it.
    pub(super) fn constant(&mut self, shape: &[usize], values: &[f32]) -> Value {
        if shape.is_empty() {
            return self.graph.scalar(values[0]).unwrap();
        }
        self.constants += 1;
        let name = format!("c{}", self.constants);
        self.graph.initializer_f32(&name, shape, values).unwrap()
    }

    /// The case whose result is `y`.
    pub(super) fn case(self, measure: Measure, y: Value) -> Case {
        let Self { graph, operator, form, inputs, .. } = self;
        let onnx = graph.finish("case", &[(OUTPUT.to_owned(), y)]).unwrap();
        Case { operator, form, onnx, measure, inputs }
    }
}

/// Sebastiano Vigna's splitmix64 (<https://prng.di.unimi.it/splitmix64.c>).
pub(super) struct Numbers(u64);

impl Numbers {
    /// A generator of its own for these names: their FNV-1a digest is the seed.
    fn of(operator: &str, form: &str) -> Self {
        let digest =
            |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(operator.bytes().chain(form.bytes()).fold(0xcbf2_9ce4_8422_2325, digest))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..below`.
    pub(super) fn below(&mut self, below: u32) -> u32 {
        u32::try_from(self.bits() % u64::from(below)).unwrap()
    }

    /// At least 0 and less than 1, evenly.
    fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * f64::EPSILON / 2.0
    }

    /// Positive and negative floats of magnitudes `2^lowest` to `2^(highest + 1)`: one in four of
    /// any exponent, the others of −6 to 6. Never 0.
    pub(super) fn wide(&mut self, count: usize, (lowest, highest): (i32, i32)) -> Vec<f32> {
        (0..count).map(|_| self.wide_one(lowest, highest)).collect()
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
    fn wide_one(&mut self, lowest: i32, highest: i32) -> f32 {
        let (lowest, highest) = match self.below(4) {
            0 => (lowest, highest),
            _ => (lowest.max(-6), highest.min(6)),
        };
        let exponents = u32::try_from(highest - lowest + 1).unwrap();
        let exponent = lowest + i32::try_from(self.below(exponents)).unwrap();
        let magnitude = (1.0 + self.share()) * 2_f64.powi(exponent);
        (if self.below(2) == 0 { magnitude } else { -magnitude }) as f32
    }

    /// Floats of `-most` to `most`, evenly.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is what this is for")]
    pub(super) fn even(&mut self, count: usize, most: f64) -> Vec<f32> {
        (0..count).map(|_| ((2.0 * self.share() - 1.0) * most) as f32).collect()
    }
}
