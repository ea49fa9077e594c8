//! One method per allowed operator: checks the operands, infers the shape, appends the node.

use t2lc_runtime::onnx::{AttributeProto, attribute_type};

use super::shape::{broadcast, reshaped, show};
use super::{Dim, ElementType, GraphBuilder, Value, invalid, signed};
use crate::error::ExportError;

impl GraphBuilder {
    /// Matrix product over the last two dimensions; leading dimensions broadcast.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn matmul(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        let (left, right) = (self.float_shape("MatMul", a)?, self.float_shape("MatMul", b)?);
        let ([batch_a @ .., rows, inner_a], [batch_b @ .., inner_b, columns]) =
            (left.as_slice(), right.as_slice())
        else {
            return Err(invalid("MatMul", "operands need two dimensions"));
        };
        if inner_a != inner_b {
            return Err(invalid("MatMul", format!("{} times {}", show(&left), show(&right))));
        }
        let mut shape = broadcast("MatMul", batch_a, batch_b)?;
        shape.extend([*rows, *columns]);
        self.node("MatMul", &[a, b], Vec::new(), ElementType::F32, shape)
    }

    /// Element-wise sum, broadcasting.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn add(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        self.binary("Add", a, b)
    }

    /// Element-wise difference, broadcasting.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn sub(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        self.binary("Sub", a, b)
    }

    /// Element-wise product, broadcasting.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn mul(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        self.binary("Mul", a, b)
    }

    /// Element-wise quotient, broadcasting.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn div(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        self.binary("Div", a, b)
    }

    /// Element-wise maximum, broadcasting.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit.
    pub fn max(&mut self, a: Value, b: Value) -> Result<Value, ExportError> {
        self.binary("Max", a, b)
    }

    /// Element-wise square root.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is not f32.
    pub fn sqrt(&mut self, x: Value) -> Result<Value, ExportError> {
        self.unary("Sqrt", x)
    }

    /// Element-wise error function.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is not f32.
    pub fn erf(&mut self, x: Value) -> Result<Value, ExportError> {
        self.unary("Erf", x)
    }

    /// Element-wise logistic function.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is not f32.
    pub fn sigmoid(&mut self, x: Value) -> Result<Value, ExportError> {
        self.unary("Sigmoid", x)
    }

    /// `x · sigmoid(x)`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is not f32.
    pub fn silu(&mut self, x: Value) -> Result<Value, ExportError> {
        let gate = self.sigmoid(x)?;
        self.mul(x, gate)
    }

    /// `x · (1 + erf(x / √2)) / 2`, in the order of operations that runtimes fuse.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is not f32.
    pub fn gelu(&mut self, x: Value) -> Result<Value, ExportError> {
        let root = self.scalar(std::f32::consts::SQRT_2)?;
        let (one, half) = (self.scalar(1.0)?, self.scalar(0.5)?);
        let ratio = self.div(x, root)?;
        let erf = self.erf(ratio)?;
        let gate = self.add(erf, one)?;
        let product = self.mul(x, gate)?;
        self.mul(product, half)
    }

    /// Softmax over the last dimension.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `x` is a scalar or not f32.
    pub fn softmax(&mut self, x: Value) -> Result<Value, ExportError> {
        let shape = self.float_shape("Softmax", x)?;
        if shape.is_empty() {
            return Err(invalid("Softmax", "operand is a scalar"));
        }
        self.node("Softmax", &[x], vec![integer("axis", -1)], ElementType::F32, shape)
    }

    /// Layer normalization over the last dimension, of size `n`; `scale` and `bias` are `[n]`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the shapes do not fit or `epsilon` is not positive.
    pub fn layer_norm(
        &mut self,
        x: Value,
        scale: Value,
        bias: Value,
        epsilon: f32,
    ) -> Result<Value, ExportError> {
        const OP: &str = "LayerNormalization";
        let shape = self.float_shape(OP, x)?;
        let width = shape.last().copied();
        for operand in [scale, bias] {
            let vector = self.float_shape(OP, operand)?;
            if vector.len() != 1 || vector.first().copied() != width {
                let reason = format!("{} normalized with {}", show(&shape), show(&vector));
                return Err(invalid(OP, reason));
            }
        }
        if !(epsilon.is_finite() && epsilon > 0.0) {
            return Err(invalid(OP, format!("epsilon is {epsilon}")));
        }
        let epsilon = AttributeProto {
            name: "epsilon".to_owned(),
            f: Some(epsilon),
            kind: attribute_type::FLOAT,
            ..AttributeProto::default()
        };
        let attributes = vec![integer("axis", -1), epsilon];
        self.node(OP, &[x, scale, bias], attributes, ElementType::F32, shape)
    }

    /// Rows of `table`, of any element type, at int64 `indices`: `[indices…, table[1..]…]`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `table` is a scalar or `indices` is not int64.
    pub fn gather(&mut self, table: Value, indices: Value) -> Result<Value, ExportError> {
        let (rows, ids) = (self.fact(table)?, self.fact(indices)?);
        if rows.shape.is_empty() || ids.element != ElementType::I64 {
            return Err(invalid("Gather", "needs a table and int64 indices"));
        }
        let element = rows.element;
        let shape = ids.shape.iter().chain(&rows.shape[1..]).copied().collect();
        self.node("Gather", &[table, indices], vec![integer("axis", 0)], element, shape)
    }

    /// The sizes of `x` as an int64 vector.
    ///
    /// # Errors
    /// [`ExportError::Graph`] for a value of another builder.
    pub fn shape_of(&mut self, x: Value) -> Result<Value, ExportError> {
        let rank = self.shape(x)?.len();
        self.node("Shape", &[x], Vec::new(), ElementType::I64, vec![Dim::Fixed(rank)])
    }

    /// Converts the elements; the same value where they have that type already.
    ///
    /// # Errors
    /// [`ExportError::Graph`] for a value of another builder.
    pub fn cast(&mut self, x: Value, to: ElementType) -> Result<Value, ExportError> {
        let fact = self.fact(x)?;
        if fact.element == to {
            return Ok(x);
        }
        let shape = fact.shape.clone();
        self.node("Cast", &[x], vec![integer("to", i64::from(to.code()))], to, shape)
    }

    /// Changes the shape, keeping the row-major order. In `target`, 0 copies the dimension at the
    /// same position and a single -1 takes what is left; symbolic dimensions can only be copied.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the number of elements changes.
    pub fn reshape(&mut self, x: Value, target: &[i64]) -> Result<Value, ExportError> {
        let fact = self.fact(x)?;
        let (element, shape) = (fact.element, reshaped(&fact.shape, target)?);
        let target = self.indices(target)?;
        self.node("Reshape", &[x, target], Vec::new(), element, shape)
    }

    /// Reorders dimensions: dimension `i` of the result is dimension `order[i]` of `x`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `order` is not a permutation of the dimensions.
    pub fn transpose(&mut self, x: Value, order: &[usize]) -> Result<Value, ExportError> {
        let fact = self.fact(x)?;
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..fact.shape.len()) {
            let reason = format!("order {order:?} of {}", show(&fact.shape));
            return Err(invalid("Transpose", reason));
        }
        let (element, shape) = (fact.element, order.iter().map(|&i| fact.shape[i]).collect());
        let perm = AttributeProto {
            name: "perm".to_owned(),
            ints: order.iter().map(|&i| signed("Transpose", i)).collect::<Result<_, _>>()?,
            kind: attribute_type::INTS,
            ..AttributeProto::default()
        };
        self.node("Transpose", &[x], vec![perm], element, shape)
    }

    /// The part `start..end` of a fixed dimension; `x` itself where that is all of it.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if the range is empty or out of bounds.
    pub fn slice(
        &mut self,
        x: Value,
        axis: usize,
        start: usize,
        end: usize,
    ) -> Result<Value, ExportError> {
        let shape = self.shape(x)?;
        match shape.get(axis) {
            Some(Dim::Fixed(size)) if start < end && end <= *size => {
                if start == 0 && end == *size {
                    return Ok(x);
                }
            }
            _ => {
                let reason = format!("{start}..{end} of dimension {axis} of {}", show(shape));
                return Err(invalid("Slice", reason));
            }
        }
        let end_value = self.indices(&[signed("Slice", end)?])?;
        self.slice_node(x, axis, start, end_value, Dim::Fixed(end - start))
    }

    /// The first `end` entries of a dimension, where `end` is an int64 vector of one element whose
    /// value at run time is `length`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `end` is not such a vector or there is no such dimension.
    pub fn slice_to(
        &mut self,
        x: Value,
        axis: usize,
        end: Value,
        length: Dim,
    ) -> Result<Value, ExportError> {
        let bound = self.fact(end)?;
        if bound.element != ElementType::I64 || bound.shape != [Dim::Fixed(1)] {
            return Err(invalid("Slice", "end is not an int64 vector of one element"));
        }
        self.slice_node(x, axis, 0, end, length)
    }

    /// Inserts a dimension of size 1 so that it is at position `axis` of the result.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if `axis` is beyond the end.
    pub fn unsqueeze(&mut self, x: Value, axis: usize) -> Result<Value, ExportError> {
        let fact = self.fact(x)?;
        if axis > fact.shape.len() {
            let reason = format!("dimension {axis} of {}", show(&fact.shape));
            return Err(invalid("Unsqueeze", reason));
        }
        let (element, mut shape) = (fact.element, fact.shape.clone());
        shape.insert(axis, Dim::Fixed(1));
        let list = self.indices(&[signed("Unsqueeze", axis)?])?;
        self.node("Unsqueeze", &[x, list], Vec::new(), element, shape)
    }

    /// Sum over one dimension, which stays with size 1 if `keep`.
    ///
    /// # Errors
    /// [`ExportError::Graph`] if there is no such dimension or `x` is not f32.
    pub fn reduce_sum(&mut self, x: Value, axis: usize, keep: bool) -> Result<Value, ExportError> {
        let mut shape = self.float_shape("ReduceSum", x)?;
        if axis >= shape.len() {
            return Err(invalid("ReduceSum", format!("dimension {axis} of {}", show(&shape))));
        }
        if keep {
            shape[axis] = Dim::Fixed(1);
        } else {
            shape.remove(axis);
        }
        let list = self.indices(&[signed("ReduceSum", axis)?])?;
        let attributes = vec![integer("keepdims", i64::from(keep))];
        self.node("ReduceSum", &[x, list], attributes, ElementType::F32, shape)
    }

    fn float_shape(&self, op: &'static str, value: Value) -> Result<Vec<Dim>, ExportError> {
        let fact = self.fact(value)?;
        if fact.element != ElementType::F32 {
            return Err(invalid(op, format!("operand `{}` is {}", fact.name, fact.element)));
        }
        Ok(fact.shape.clone())
    }

    fn unary(&mut self, op: &'static str, x: Value) -> Result<Value, ExportError> {
        let shape = self.float_shape(op, x)?;
        self.node(op, &[x], Vec::new(), ElementType::F32, shape)
    }

    fn binary(&mut self, op: &'static str, a: Value, b: Value) -> Result<Value, ExportError> {
        let shape = broadcast(op, &self.float_shape(op, a)?, &self.float_shape(op, b)?)?;
        self.node(op, &[a, b], Vec::new(), ElementType::F32, shape)
    }

    fn slice_node(
        &mut self,
        x: Value,
        axis: usize,
        start: usize,
        end: Value,
        length: Dim,
    ) -> Result<Value, ExportError> {
        let fact = self.fact(x)?;
        let (element, mut shape) = (fact.element, fact.shape.clone());
        let Some(dim) = shape.get_mut(axis) else {
            return Err(invalid("Slice", format!("dimension {axis} of {}", show(&shape))));
        };
        *dim = length;
        let start = self.indices(&[signed("Slice", start)?])?;
        let list = self.indices(&[signed("Slice", axis)?])?;
        self.node("Slice", &[x, start, end, list], Vec::new(), element, shape)
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        kind: attribute_type::INT,
        ..AttributeProto::default()
    }
}
