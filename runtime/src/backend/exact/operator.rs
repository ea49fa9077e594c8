//! The operators of a graph: reading them from nodes, running them on tensors.
//!
//! In goes a [`NodeProto`] of the standard domain, operator set 18, out comes an [`Operator`] with
//! its attributes checked. Only the forms that the exporter writes are taken: an attribute that is
//! not known here, or asks for something else, is an error and not ignored.

use super::elementwise::{Binary, Unary, binary, cast, unary};
use super::fault::{Fault, differs};
use super::layout::{gather, reshape, shape_of, slice, transpose, unsqueeze};
use super::matmul::matmul;
use super::reduce::{layer_norm, reduce_sum, softmax};
use super::tensor::{Dense, Element};
use crate::onnx::{AttributeProto, NodeProto, attribute_type};

/// An operator with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operator {
    /// Two operands, element by element.
    Binary(Binary),
    /// One operand, element by element.
    Unary(Unary),
    /// Conversion to an element type.
    Cast(Element),
    /// Matrix product.
    MatMul,
    /// Layer normalization of the axis, which must be the last one.
    LayerNormalization {
        /// The axis.
        axis: i64,
        /// Added to the variance.
        epsilon: f32,
    },
    /// Softmax over the axis, which must be the last one.
    Softmax {
        /// The axis.
        axis: i64,
    },
    /// Sum over one axis.
    ReduceSum {
        /// Whether the axis stays, with size 1.
        keep: bool,
    },
    /// Another shape.
    Reshape,
    /// Another order of the axes; reversed where none is given.
    Transpose(Option<Vec<i64>>),
    /// A part of some axes.
    Slice,
    /// More axes of size 1.
    Unsqueeze,
    /// Rows of a table.
    Gather,
    /// The sizes of the axes.
    Shape,
}

impl Operator {
    /// Reads the operator of a node.
    ///
    /// # Errors
    /// An operator of another domain or outside the list, another number of operands, an attribute
    /// of another name, kind or value than are supported.
    pub(super) fn parse(node: &NodeProto) -> Result<Self, Fault> {
        if !node.domain.is_empty() {
            return Err(differs("operator domain", "the standard one", &node.domain));
        }
        let attributes = Attributes(node);
        let operator = match node.op_type.as_str() {
            "Add" => Self::Binary(Binary::Add),
            "Sub" => Self::Binary(Binary::Sub),
            "Mul" => Self::Binary(Binary::Mul),
            "Div" => Self::Binary(Binary::Div),
            "Max" => Self::Binary(Binary::Max),
            "Sqrt" => Self::Unary(Unary::Sqrt),
            "Erf" => Self::Unary(Unary::Erf),
            "Sigmoid" => Self::Unary(Unary::Sigmoid),
            "MatMul" => Self::MatMul,
            "Reshape" => Self::Reshape,
            "Slice" => Self::Slice,
            "Unsqueeze" => Self::Unsqueeze,
            "Shape" => Self::Shape,
            "Cast" => Self::Cast(Element::from_code(attributes.integer("to", 0)?)?),
            "Gather" => match attributes.integer("axis", 0)? {
                0 => Self::Gather,
                axis => return Err(differs("axis", 0, axis)),
            },
            "LayerNormalization" => Self::LayerNormalization {
                axis: attributes.integer("axis", -1)?,
                epsilon: attributes.float("epsilon", 1e-5)?,
            },
            "Softmax" => Self::Softmax { axis: attributes.integer("axis", -1)? },
            "ReduceSum" => Self::ReduceSum { keep: attributes.integer("keepdims", 1)? != 0 },
            "Transpose" => Self::Transpose(attributes.integers("perm")?),
            other => return Err(differs("operator", "one that the exporter writes", other)),
        };
        attributes.check_names(operator.attributes())?;
        if node.input.len() != operator.operands() {
            return Err(differs("number of operands", operator.operands(), node.input.len()));
        }
        Ok(operator)
    }

    /// Names of the attributes.
    fn attributes(&self) -> &'static [&'static str] {
        match self {
            Self::Cast(_) => &["to"],
            Self::Gather | Self::Softmax { .. } => &["axis"],
            Self::LayerNormalization { .. } => &["axis", "epsilon"],
            Self::ReduceSum { .. } => &["keepdims"],
            Self::Transpose(_) => &["perm"],
            Self::Binary(_)
            | Self::Unary(_)
            | Self::MatMul
            | Self::Reshape
            | Self::Slice
            | Self::Unsqueeze
            | Self::Shape => &[],
        }
    }

    /// Number of operands.
    fn operands(&self) -> usize {
        match self {
            Self::Unary(_)
            | Self::Cast(_)
            | Self::Softmax { .. }
            | Self::Transpose(_)
            | Self::Shape => 1,
            Self::Binary(_)
            | Self::MatMul
            | Self::ReduceSum { .. }
            | Self::Reshape
            | Self::Unsqueeze
            | Self::Gather => 2,
            Self::LayerNormalization { .. } => 3,
            Self::Slice => 4,
        }
    }

    /// Runs the operator; up to `threads` threads share a matrix product.
    ///
    /// # Errors
    /// Operands that it does not take, a result over the limits.
    pub(super) fn run(&self, operands: &[&Dense], threads: usize) -> Result<Dense, Fault> {
        match (self, operands) {
            (Self::Binary(operator), [left, right]) => binary(*operator, left, right),
            (Self::Unary(operator), [x]) => unary(*operator, x),
            (Self::Cast(element), [x]) => cast(x, *element),
            (Self::MatMul, [left, right]) => matmul(left, right, threads),
            (Self::LayerNormalization { axis, epsilon }, [x, scale, bias]) => {
                layer_norm(x, scale, bias, *axis, *epsilon)
            }
            (Self::Softmax { axis }, [x]) => softmax(x, *axis),
            (Self::ReduceSum { keep }, [x, axes]) => reduce_sum(x, axes, *keep),
            (Self::Reshape, [x, target]) => reshape(x, target),
            (Self::Transpose(order), [x]) => transpose(x, order.as_deref()),
            (Self::Slice, [x, starts, ends, axes]) => slice(x, starts, ends, axes),
            (Self::Unsqueeze, [x, axes]) => unsqueeze(x, axes),
            (Self::Gather, [table, indices]) => gather(table, indices),
            (Self::Shape, [x]) => shape_of(x),
            _ => Err(differs("number of operands", self.operands(), operands.len())),
        }
    }
}

/// The attributes of a node.
struct Attributes<'a>(&'a NodeProto);

impl<'a> Attributes<'a> {
    fn find(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Fault> {
        let found = self.0.attribute.iter().find(|attribute| attribute.name == name);
        match found {
            Some(attribute) if attribute.kind != kind => {
                let what = format!("kind of attribute `{name}`");
                Err(differs(what, kind, attribute.kind))
            }
            found => Ok(found),
        }
    }

    fn integer(&self, name: &str, default: i64) -> Result<i64, Fault> {
        match self.find(name, attribute_type::INT)? {
            Some(attribute) => attribute.i.ok_or_else(|| no_value(name)),
            None => Ok(default),
        }
    }

    fn float(&self, name: &str, default: f32) -> Result<f32, Fault> {
        match self.find(name, attribute_type::FLOAT)? {
            Some(attribute) => attribute.f.ok_or_else(|| no_value(name)),
            None => Ok(default),
        }
    }

    fn integers(&self, name: &str) -> Result<Option<Vec<i64>>, Fault> {
        let found = self.find(name, attribute_type::INTS)?;
        Ok(found.map(|attribute| attribute.ints.clone()))
    }

    /// Refuses attributes of other names, and any that is there twice.
    fn check_names(&self, known: &[&str]) -> Result<(), Fault> {
        for (i, attribute) in self.0.attribute.iter().enumerate() {
            let name = attribute.name.as_str();
            let before = &self.0.attribute[..i];
            if !known.contains(&name) || before.iter().any(|other| other.name == name) {
                let expected = format!("at most one of each of {known:?}");
                return Err(differs("attribute", expected, format!("`{name}`")));
            }
        }
        Ok(())
    }
}

fn no_value(name: &str) -> Fault {
    differs(format!("value of attribute `{name}`"), "present", "absent")
}
