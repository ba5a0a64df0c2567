//! Zstandard files of any number of frames.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{BufRead, Error, ErrorKind, Read, Result};

/// Reader of all frames of a file. Skips skippable frames and checks the checksums of the others.
pub struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    /// True between the header and the end of a frame.
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    pub fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Reads the header of the next frame that holds data. False at the end of the file.
    fn next_frame(&mut self) -> Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if std::io::copy(&mut (&mut self.source).take(length), &mut std::io::sink())? < length {
                        return Err(Error::new(ErrorKind::UnexpectedEof, "the skippable frame is cut off"));
                    }
                }
                Err(e) => return Err(Error::other(e)),
            }
        }
        Ok(false)
    }

    fn check_sum(&self) -> Result<()> {
        match (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum()) {
            (Some(stored), Some(computed)) if stored != computed => Err(Error::new(
                ErrorKind::InvalidData,
                format!("the checksum of the content is {computed:08x}, the frame states {stored:08x}"),
            )),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        while !into.is_empty() {
            if !self.in_frame {
                self.in_frame = self.next_frame()?;
                if !self.in_frame {
                    break;
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(Error::other)?;
            }
            match self.decoder.read(into)? {
                0 if self.decoder.is_finished() => {
                    self.check_sum()?;
                    self.in_frame = false;
                }
                n => return Ok(n),
            }
        }
        Ok(0)
    }
}
