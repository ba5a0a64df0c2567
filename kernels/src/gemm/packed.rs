//! Weights packed once for many products.

use super::blocks::{Block, GROUP};
use super::format::Format;
use super::layout::{Describe, PanelLayout};
use super::pack::Pack;
use crate::backend::Backend;
use crate::element::Element;
use crate::error::{Error, expect_shape};
use crate::isa::LINE;
use crate::large_pages;
use crate::parallel;
use crate::view::{View, ViewMut, check_elements};

/// Weight matrix B (k x n), packed once for one backend and for products with any number of rows.
///
/// Memory: k n numbers of its [`Format`]. n is rounded up to the width of a panel; k to 64 in int8 and to 32 in the
/// other formats, except f32.
///
/// ```
/// use tilewright_kernels::{Backend, View, gemm::{Format, PackedB}};
/// // A linear layer stores its weight [out, in]; y = x W^T multiplies with the transpose.
/// let weight = [1., 2., 3., 4., 5., 6.];
/// let w = View::new(&weight, [2, 3])?.transpose();
/// let b = PackedB::new(Backend::best(), w);
/// assert_eq!((b.k(), b.n(), b.format()), (3, 2, Format::F32));
/// let b = PackedB::in_format(Backend::best(), Format::Bf16, w)?;
/// assert_eq!((b.k(), b.n(), b.format()), (3, 2, Format::Bf16));
/// # Ok::<(), tilewright_kernels::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PackedB {
    panels: Vec<CacheLine>,
    /// Cache lines from one panel to the next; of f32, unused.
    panel_lines: usize,
    k: usize,
    n: usize,
    gated: bool,
    layout: PanelLayout,
    /// Scales and sums of the columns of int8.
    columns: Option<Box<Scaled>>,
}

/// Scale of each column of each panel of int8, and sum of its numbers.
#[derive(Clone, Debug)]
struct Scaled {
    scales: Vec<f32>,
    sums: Vec<i32>,
}

/// A cache line. Panels start on one, and so does each of their k-steps where NR fills lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct CacheLine([f32; LINE / size_of::<f32>()]);

/// Most k-steps of int8. A number of A is at most 255 away from its zero point: sums of more products of 255 and
/// 127 could exceed an i32.
const MOST_INT8_STEPS: usize = i32::MAX as usize / (255 * 127);

/// Source of the weights of a column.
enum Columns<'a, T> {
    /// One matrix \[k, n\], or a gated pair.
    Of(View<'a, 2, T>, Option<View<'a, 2, T>>),
    /// One matrix, or a gated pair, as a file stores it: n rows of groups.
    Groups(&'a [u8], Option<&'a [u8]>),
}

impl PackedB {
    /// Packs `b`, \[k, n\], as f32 for `backend`.
    pub fn new(backend: Backend, b: View<'_, 2>) -> Self {
        Self::pack_f32(backend, b, None)
    }

    /// Packs a gated pair, both \[k, n\], as f32, for act(x gate) * (x up).
    ///
    /// # Errors
    /// [`Error::Shape`] if their shapes differ.
    pub fn gated(backend: Backend, gate: View<'_, 2>, up: View<'_, 2>) -> Result<Self, Error> {
        expect_shape("PackedB.up", &up.shape(), &gate.shape())?;
        Ok(Self::pack_f32(backend, gate, Some(up)))
    }

    /// Packs `b`, \[k, n\], in any format, with each number rounded to nearest.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the format is int8 and k exceeds 66311, above which i32 sums could overflow.
    pub fn in_format<T: Element>(backend: Backend, format: Format, b: View<'_, 2, T>) -> Result<Self, Error> {
        Self::pack(backend, format, b.shape(), &Columns::Of(b, None))
    }

    /// Packs a gated pair, both \[k, n\], in any format, for act(x gate) * (x up).
    ///
    /// # Errors
    /// The errors of [`in_format`](Self::in_format), and [`Error::Shape`] if the shapes differ.
    pub fn gated_in_format<T: Element>(
        backend: Backend,
        format: Format,
        gate: View<'_, 2, T>,
        up: View<'_, 2, T>,
    ) -> Result<Self, Error> {
        expect_shape("PackedB.up", &up.shape(), &gate.shape())?;
        Self::pack(backend, format, gate.shape(), &Columns::Of(gate, Some(up)))
    }

    /// Packs a weight \[n, k\] that a GGUF file stores in groups of 32 along k. B is its transpose; all stored bits
    /// are kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the format has no groups, if k is no multiple of 32, or if the length of `bytes` does
    /// not fit the shape.
    pub fn from_groups(
        backend: Backend,
        format: Format,
        bytes: &[u8],
        shape: [usize; 2],
    ) -> Result<Self, Error> {
        Self::pack_groups(backend, format, bytes, None, shape)
    }

    /// Packs a gated pair of weights, both \[n, k\] in groups, for act(x gate^T) * (x up^T).
    ///
    /// # Errors
    /// The errors of [`from_groups`](Self::from_groups), for either weight.
    pub fn gated_from_groups(
        backend: Backend,
        format: Format,
        gate: &[u8],
        up: &[u8],
        shape: [usize; 2],
    ) -> Result<Self, Error> {
        Self::pack_groups(backend, format, gate, Some(up), shape)
    }

    fn pack_groups(
        backend: Backend,
        format: Format,
        gate: &[u8],
        up: Option<&[u8]>,
        [n, k]: [usize; 2],
    ) -> Result<Self, Error> {
        let refuse = |why: String| Err(Error::Invalid { what: "PackedB.groups", why });
        if !format.is_grouped() {
            return refuse(format!("expected a format of groups, found {}", format.name()));
        }
        if k % GROUP != 0 {
            return refuse(format!("expected k to be a multiple of {GROUP}, found {k}"));
        }
        check_elements("PackedB.groups", [n, k])?;
        let expected = (k / GROUP * Block::bytes(format)).checked_mul(n);
        for bytes in [Some(gate), up].into_iter().flatten() {
            if expected != Some(bytes.len()) {
                return refuse(format!("expected the bytes of {n} x {k} numbers, found {}", bytes.len()));
            }
        }
        Self::pack(backend, format, [k, n], &Columns::<f32>::Groups(gate, up))
    }

    fn pack_f32(backend: Backend, b: View<'_, 2>, up: Option<View<'_, 2>>) -> Self {
        let mut packed = Self::empty(backend, Format::F32, b.shape(), up.is_some());
        if !b.is_empty() {
            let nr = packed.layout.nr;
            backend.run(Pack { b, up, nr, panels: as_floats_mut(&mut packed.panels) });
        }
        packed
    }

    /// Packed zeros.
    fn empty(backend: Backend, format: Format, [k, n]: [usize; 2], gated: bool) -> Self {
        let layout = backend.run(Describe(format));
        let panels = n.div_ceil(if gated { layout.nr / 2 } else { layout.nr });
        let panel_lines = layout.panel_bytes(k).div_ceil(LINE);
        let lines = match format {
            // Panels of f32 follow each other without gaps.
            Format::F32 => (panels * layout.panel_bytes(k)).div_ceil(LINE),
            _ => panels * panel_lines,
        };
        let columns = panels * layout.nr;
        let scaled = || Box::new(Scaled { scales: vec![0.0; columns], sums: vec![0; columns] });
        Self {
            panels: large_pages::vec(CacheLine([0.0; _]), lines),
            panel_lines,
            k,
            n,
            gated,
            layout,
            columns: (format == Format::Int8).then(scaled),
        }
    }

    fn pack<T: Element>(
        backend: Backend,
        format: Format,
        [k, n]: [usize; 2],
        columns: &Columns<'_, T>,
    ) -> Result<Self, Error> {
        if format == Format::Int8 && k > MOST_INT8_STEPS {
            let why = format!("expected at most {MOST_INT8_STEPS} k-steps of int8, found {k}");
            return Err(Error::Invalid { what: "PackedB.b", why });
        }
        let gated = matches!(columns, Columns::Of(_, Some(_)) | Columns::Groups(_, Some(_)));
        let mut packed = Self::empty(backend, format, [k, n], gated);
        if k == 0 || n == 0 {
            return Ok(packed);
        }
        if format == Format::F32 {
            let Columns::Of(gate, up) = columns else { unreachable!("f32 has no groups") };
            let widen = |b: &View<'_, 2, T>| -> Vec<f32> {
                (0..n).flat_map(|j| (0..k).map(move |p| b.get([p, j]).to_f32())).collect()
            };
            let (gate, up) = (widen(gate), up.as_ref().map(widen));
            let view = |values| View::new(values, [n, k]).expect("n rows of k").transpose();
            let (gate, up) = (view(&gate[..]), up.as_deref().map(view));
            backend.run(Pack {
                b: gate,
                up,
                nr: packed.layout.nr,
                panels: as_floats_mut(&mut packed.panels),
            });
            return Ok(packed);
        }
        let (layout, width) = (packed.layout, packed.width());
        let panel_bytes = packed.panel_lines * LINE;
        let bytes = as_bytes_mut(&mut packed.panels);
        let panels = bytes.len() / panel_bytes;
        let all = ViewMut::new(bytes, [panels, panel_bytes])?;
        let written = std::sync::Mutex::new(packed.columns.as_mut());
        parallel::for_each_block(all, 1, &|panel, mut to| {
            let to = to.row_mut([0, 0]);
            let mut values = Vec::with_capacity(k);
            for column in 0..layout.nr {
                let j = panel * width + column % width;
                if j >= n {
                    continue;
                }
                let of = match columns {
                    Columns::Of(_, Some(up)) if column >= width => up,
                    Columns::Of(b, _) => b,
                    Columns::Groups(gate, up) => {
                        let bytes = up.filter(|_| column >= width).unwrap_or(gate);
                        let group_bytes = Block::bytes(layout.format);
                        let row = &bytes[j * (k / GROUP) * group_bytes..][..k / GROUP * group_bytes];
                        for (group, bytes) in row.chunks_exact(group_bytes).enumerate() {
                            layout.write_block(to, column, group, &Block::read(layout.format, bytes));
                        }
                        continue;
                    }
                };
                values.clear();
                let rows = of.transpose();
                match rows.has_unit_rows() {
                    // The weight of a linear layer as stored, [out, in].
                    true => values.extend(rows.row([j, 0]).iter().map(|x| x.to_f32())),
                    false => values.extend((0..k).map(|p| of.get([p, j]).to_f32())),
                }
                let (scale, sum) = layout.write(to, column, &values);
                if let Some(columns) = written.lock().expect("no writer panics").as_mut() {
                    columns.scales[panel * layout.nr + column] = scale;
                    columns.sums[panel * layout.nr + column] = sum;
                }
            }
        });
        Ok(packed)
    }

    /// Rows of B: the length of the sums.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the product; of a gated pair, columns of each matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// True for a gated pair.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Number format of the weights.
    pub fn format(&self) -> Format {
        self.layout.format
    }

    /// Bytes of memory, panels and scales.
    pub fn bytes(&self) -> usize {
        let of_columns =
            self.columns.as_ref().map_or(0, |c| size_of_val(&c.scales[..]) + size_of_val(&c.sums[..]));
        size_of_val(&self.panels[..]) + of_columns
    }

    /// Layout of the panels.
    #[inline(always)]
    pub(crate) fn layout(&self) -> PanelLayout {
        self.layout
    }

    /// Columns of C that one panel makes.
    #[inline(always)]
    fn width(&self) -> usize {
        if self.gated { self.layout.nr / 2 } else { self.layout.nr }
    }

    /// Memory of all panels, aligned to a cache line.
    #[inline(always)]
    pub(crate) fn panels(&self) -> &[f32] {
        let lines = &self.panels;
        // SAFETY: lines are arrays of floats without padding.
        unsafe { core::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE / size_of::<f32>()) }
    }

    /// 32-bit k-groups from one panel to the next, for formats other than f32.
    #[inline(always)]
    pub(super) fn panel_stride(&self) -> usize {
        self.panel_lines * LINE / size_of::<f32>()
    }

    /// Scales of a panel's columns and sums of their numbers, for int8 only.
    #[inline(always)]
    pub(super) fn columns(&self, panel: usize) -> Option<(&[f32], &[i32])> {
        let of_panel = panel * self.layout.nr..(panel + 1) * self.layout.nr;
        self.columns.as_ref().map(|c| (&c.scales[of_panel.clone()], &c.sums[of_panel]))
    }

    /// The stored weight at k-step `p` of column `j`, with its scale; of the up matrix if `up`.
    ///
    /// # Panics
    /// If `p >= k` or `j >= n`, or if `up` is true and this is no gated pair.
    pub fn get(&self, up: bool, p: usize, j: usize) -> f64 {
        assert!(p < self.k && j < self.n && (self.gated || !up), "no number [{p}, {j}]");
        let (panel, width) = (j / self.width(), self.width());
        let column = j % width + if up { width } else { 0 };
        let start = match self.layout.format {
            Format::F32 => panel * self.layout.panel_bytes(self.k),
            _ => panel * self.panel_lines * LINE,
        };
        let scale = self.columns(panel).map_or(1.0, |(scales, _)| f64::from(scales[column]));
        let lines = &self.panels;
        // SAFETY: lines are arrays of floats without padding, whose bytes may be read.
        let bytes =
            unsafe { core::slice::from_raw_parts(lines.as_ptr().cast::<u8>(), size_of_val(&lines[..])) };
        f64::from(self.layout.read(&bytes[start..], p, column)) * scale
    }
}

fn as_floats_mut(lines: &mut [CacheLine]) -> &mut [f32] {
    // SAFETY: lines are arrays of floats without padding.
    unsafe {
        core::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LINE / size_of::<f32>())
    }
}

fn as_bytes_mut(lines: &mut [CacheLine]) -> &mut [u8] {
    // SAFETY: lines are arrays of floats without padding, and any bytes are floats.
    unsafe { core::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}
