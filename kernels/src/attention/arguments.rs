//! Arguments that forward and backward calls share, with the types of q, k and v erased: checks, and the operands of
//! tasks.

use super::distance::DistanceBias;
use super::dropout::WeightDropout;
use super::keys::{Start, Window};
use super::kv_source::KvSource;
use super::query_rows::{AttentionOperands, DistanceTables};
use super::sequence_layout::SequenceLayout;
use crate::dropout::DropoutMask;
use crate::error::{Error, expect_shape};
use crate::isa::{Isa, Vector};
use crate::rows::expect_unit_rows;
use crate::scratch;
use crate::view::{AnyView, View};

/// Arguments of an attention, or of its gradients.
#[derive(Clone, Copy)]
pub(super) struct AttentionArguments<'a> {
    pub q: AnyView<'a, 4>,
    pub source: KvSource<'a>,
    /// True if q, k and v are rounded to bf16.
    pub bf16: bool,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub bias: Option<View<'a, 4>>,
    pub mask: Option<View<'a, 4, bool>>,
    pub distance: Option<DistanceBias<'a>>,
    pub start: Start<'a>,
    pub window: Window,
    pub dropout: Option<DropoutMask>,
}

/// Sequences, extents and dropout of arguments that fit each other.
pub(super) struct CheckedExtents<'a> {
    pub layout: SequenceLayout<'a>,
    pub kv_heads: usize,
    /// Elements of a value.
    pub dv: usize,
    pub dropout: Option<WeightDropout>,
}

/// Returns an error if an argument with an element for each score does not fit the sequences.
fn check_scores<T>(
    what: &'static str,
    argument: Option<View<'_, 4, T>>,
    layout: &SequenceLayout<'_>,
    heads: usize,
) -> Result<(), Error> {
    let Some(argument) = argument else { return Ok(()) };
    let [rows, columns] = layout.longest();
    expect_shape(what, &argument.shape(), &[layout.len(), heads, rows, columns])?;
    if !argument.has_unit_rows() && argument.strides()[3] != 0 {
        let why = format!("expected a last stride of 0 or 1, found strides {:?}", argument.strides());
        return Err(Error::Invalid { what, why });
    }
    Ok(())
}

impl<'a> AttentionArguments<'a> {
    /// Returns the extents, or an error if the arguments do not fit each other. Without keys, dv is `out_width`.
    pub fn check(&self, out_width: usize) -> Result<CheckedExtents<'a>, Error> {
        let [batch, heads, queries, _] = self.q.shape();
        let [kv_heads, dv] = self.source.check(self.q.shape(), out_width)?;
        expect_unit_rows("Attention.q", self.q.has_unit_rows(), self.q.strides())?;
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            let why = format!("expected a positive number, found {cap}");
            return Err(Error::Invalid { what: "Attention.softcap", why });
        }
        let layout = SequenceLayout::new(self.source, self.start, self.window, [batch, queries])?;
        check_scores("Attention.bias", self.bias, &layout, heads)?;
        check_scores("Attention.mask", self.mask, &layout, heads)?;
        if let Some(distance) = &self.distance {
            distance.check(heads)?;
        }
        let [rows, columns] = layout.longest();
        let weights = [layout.len(), heads, rows, columns];
        let dropout = self.dropout.map(|mask| WeightDropout::new(mask, weights)).transpose()?;
        Ok(CheckedExtents { layout, kv_heads, dv, dropout })
    }

    /// Fills one table of biases by distance for all tasks, and calls `f` with the operands of tasks. `extents` are
    /// those of [`check`](Self::check); the call must have heads.
    pub fn with_operands<I: Isa>(self, extents: CheckedExtents<'a>, f: impl FnOnce(&AttentionOperands<'_>)) {
        let CheckedExtents { layout, kv_heads, dv, dropout } = extents;
        let [_, heads, _, dk] = self.q.shape();
        let span = layout.distances();
        // Tasks read the table in whole vectors, which may reach past the last distance.
        let stride = span.len() + I::V::LANES;
        scratch::with(self.distance.map_or(0, |_| heads * stride), |tables| {
            if let Some(distance) = self.distance {
                distance.fill_tables(&layout, span, tables, stride);
            }
            let tables = DistanceTables { tables, stride, span };
            f(&AttentionOperands {
                q: self.q,
                source: self.source,
                kv_heads,
                dk,
                dv,
                scale: self.scale,
                softcap: self.softcap,
                bias: self.bias,
                mask: self.mask,
                distances: self.distance.map(|_| tables),
                layout,
                dropout,
                group: heads / kv_heads,
            });
        });
    }
}
