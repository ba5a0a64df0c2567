//! Sequences of token ids, packed without padding.

use crate::error::Error;

/// Sequences of token ids, one after the other. Each has at least one token.
///
/// Padding is dropped instead of computed and masked. [`from_padded`](Self::from_padded) drops the
/// tokens that a mask hides; each remaining token keeps its position.
///
/// ```
/// use tilewright::Batch;
/// let mut batch = Batch::default();
/// batch.push(&[101, 7592, 102], &[0, 0, 0])?;
/// let padded = Batch::from_padded([1, 5], &[101, 7592, 102, 0, 0], Some(&[1, 1, 1, 0, 0]), None)?;
/// assert_eq!(batch, padded);
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// \[tokens\].
    pub(crate) ids: Vec<u32>,
    /// \[tokens\]: 0 for the first of two texts, 1 for the second.
    pub(crate) types: Vec<u32>,
    /// \[tokens\]: place in the sequence, counted from 0.
    pub(crate) positions: Vec<u32>,
    /// \[sequences + 1\]: index of each sequence's first token, then the number of tokens.
    pub(crate) starts: Vec<usize>,
    /// Dropped tokens that precede a token of their sequence: the index of that token, and the dropped id. Positions may
    /// depend on dropped ids.
    pub(crate) dropped: Vec<(usize, i64)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            types: Vec::new(),
            positions: Vec::new(),
            starts: vec![0],
            dropped: Vec::new(),
        }
    }
}

impl Batch {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// True if the batch has no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0)
    }

    /// All ids, one sequence after the other.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Index of each sequence's first token, then the number of tokens: \[sequences + 1\].
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Adds a sequence.
    ///
    /// # Errors
    /// [`Error::Input`] if the sequence is empty, or `types` and `ids` differ in length.
    pub fn push(&mut self, ids: &[u32], types: &[u32]) -> Result<(), Error> {
        if types.len() != ids.len() {
            return Err(input(
                "token_type_ids",
                format!("expected {} values, found {}", ids.len(), types.len()),
            ));
        }
        self.push_ids(ids)?;
        let start = self.types.len() - types.len();
        self.types[start..].copy_from_slice(types);
        Ok(())
    }

    /// Adds a sequence of one text: all token types are 0.
    ///
    /// # Errors
    /// [`Error::Input`] if the sequence is empty.
    pub fn push_ids(&mut self, ids: &[u32]) -> Result<(), Error> {
        if ids.is_empty() {
            return Err(input("input_ids", format!("sequence {} has no tokens", self.len())));
        }
        self.ids.extend_from_slice(ids);
        self.types.resize(self.ids.len(), 0);
        self.positions.extend((0..ids.len()).map(|i| i as u32));
        self.starts.push(self.ids.len());
        Ok(())
    }

    /// Removes all sequences and keeps their memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.types.clear();
        self.positions.clear();
        self.starts.truncate(1);
        self.dropped.clear();
    }

    /// Packs `rows` sequences padded to `columns` tokens: keeps each token whose `attention_mask` is 1. Without a mask all
    /// tokens are kept; without token types all types are 0.
    ///
    /// # Errors
    /// [`Error::Input`], naming the input, if a length does not fit, a value cannot be an id, a mask is not 0 or 1, or
    /// the mask hides a whole sequence.
    pub fn from_padded(
        [rows, columns]: [usize; 2],
        input_ids: &[i64],
        attention_mask: Option<&[i64]>,
        token_type_ids: Option<&[i64]>,
    ) -> Result<Self, Error> {
        let all = [
            ("input_ids", Some(input_ids)),
            ("attention_mask", attention_mask),
            ("token_type_ids", token_type_ids),
        ];
        for (name, values) in all {
            if let Some(values) = values
                && rows.checked_mul(columns) != Some(values.len())
            {
                return Err(input(
                    name,
                    format!("expected shape [{rows}, {columns}], found {} values", values.len()),
                ));
            }
        }
        let id = |name, at: usize, value: i64| {
            u32::try_from(value).map_err(|_| {
                input(name, {
                    let (row, column) = (at / columns, at % columns);
                    format!("[{row}, {column}]: expected a number from 0 to {}, found {value}", u32::MAX)
                })
            })
        };
        let mut batch = Self::default();
        for row in 0..rows {
            for column in 0..columns {
                let at = row * columns + column;
                match attention_mask.map_or(1, |mask| mask[at]) {
                    0 => {
                        batch.dropped.push((batch.ids.len(), input_ids[at]));
                        continue;
                    }
                    1 => {}
                    other => {
                        return Err(input(
                            "attention_mask",
                            format!("[{row}, {column}] is {other}, not 0 or 1"),
                        ));
                    }
                }
                batch.ids.push(id("input_ids", at, input_ids[at])?);
                batch.types.push(token_type_ids.map_or(Ok(0), |types| id("token_type_ids", at, types[at]))?);
                batch.positions.push(column as u32);
            }
            if batch.starts.last() == Some(&batch.ids.len()) {
                return Err(input("attention_mask", format!("hides all of sequence {row}")));
            }
            batch.starts.push(batch.ids.len());
            batch.dropped.truncate(batch.dropped.partition_point(|&(next, _)| next < batch.ids.len()));
        }
        Ok(batch)
    }
}

/// Refuses values that are not below `n`.
pub(crate) fn below(name: &'static str, values: &[u32], n: usize) -> Result<(), Error> {
    match values.iter().max() {
        Some(&most) if most as usize >= n => Err(input(name, format!("{most} is not below {n}"))),
        _ => Ok(()),
    }
}

fn input(name: &'static str, why: String) -> Error {
    Error::Input { name, why }
}
