//! Streaming detokenization: text in pieces that are never revised.
//!
//! ```text
//! tokens  -> pieces      held back: bytes of an incomplete character
//! pieces  -> output      held back: a possible start of a stop string
//! ```

use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;

/// Replacement character, which stands for bytes that are no character or an incomplete one.
const UNFINISHED: char = '\u{fffd}';

/// Decodes tokens one by one, up to a stop string.
///
/// The concatenated pieces are the text of all tokens, up to the first stop string.
#[derive(Clone, Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    stops: Vec<String>,
    ids: Vec<u32>,
    /// First token that is decoded. Tokens from here to `read` serve as context only: a decoder's text
    /// for a token depends on the token before it.
    context: usize,
    /// Number of tokens whose text is in `held` or was returned.
    read: usize,
    /// Text that may be the start of a stop string.
    held: String,
    stopped: bool,
}

impl<'t> TextStream<'t> {
    /// A stream that ends before the first of `stops`; empty strings are ignored.
    pub fn new(tokenizer: &'t Tokenizer, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { tokenizer, stops, ids: Vec::new(), context: 0, read: 0, held: String::new(), stopped: false }
    }

    /// True if the text met a stop string: no text follows.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; returns the text that became final.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids[self.context..])?;
        if text.ends_with(UNFINISHED) {
            return Ok(String::new());
        }
        self.take_over(&text)?;
        Ok(self.certain())
    }

    /// The remaining text, at an end without a stop string.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(&mut self) -> Result<String, Error> {
        let text = self.tokenizer.decode(&self.ids[self.context..])?;
        self.take_over(&text)?;
        let certain = self.certain();
        let rest = std::mem::take(&mut self.held);
        Ok(if self.stopped { certain } else { certain + &rest })
    }

    /// Appends to `held` the part of `text` (the text from `context` on) that the tokens from `read` on add.
    fn take_over(&mut self, text: &str) -> Result<(), Error> {
        let before = self.tokenizer.decode(&self.ids[self.context..self.read])?;
        // A decoder may revise earlier text (a space before a comma); only the common prefix counts as written.
        let same = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let same = (0..=same).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        self.held.push_str(&text[same..]);
        // A token without text, such as a special token, is no context for the next.
        if same < text.len() {
            self.context = self.read;
        }
        self.read = self.ids.len();
        Ok(())
    }

    /// Removes from `held` and returns the text that cannot be part of a stop string.
    fn certain(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let may_start = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let from = self.held.char_indices().map(|(at, _)| at).find(may_start).unwrap_or(self.held.len());
        let rest = self.held.split_off(from);
        std::mem::replace(&mut self.held, rest)
    }
}
