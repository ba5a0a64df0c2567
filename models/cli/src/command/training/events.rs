//! TensorBoard's event files: scalars of steps.
//!
//! ```text
//! file       record ..
//! record     length: u64, masked CRC of it: u32, event: length bytes, masked CRC of it: u32         (little-endian)
//! event      1 wall_time: double, 2 step: int64, then one of
//!            3 file_version: string, 5 summary, 7 session_log { 1 status: START = 1 }
//! summary    1 value { 1 tag: string, 2 simple_value: float } ..
//! mask(crc)  rotate_right(crc, 15) + 0xa282ead8, crc = CRC-32C
//! ```
//!
//! Sources: tensorflow/core/lib/io/record_writer.cc, tensorflow/core/util/event.proto. A run that goes on begins a new
//! file; the start of a session at a step tells TensorBoard to drop older events from this step on.

use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file, open at its end.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates the event file of a run that goes on after step `step`.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        // TensorBoard reads the files of a folder in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:010}.tilewright.{step:09}", now().as_secs()));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut events = Self { path, file };
        events.write(0, &bytes(3, b"brain.Event:2"))?;
        events.write(step + 1, &bytes(7, &number(1, 1)))?;
        Ok(events)
    }

    /// Appends the numbers of the objects `of` as scalars of a step, tagged with their fields' names.
    pub fn push(&mut self, step: u64, of: &[&Value]) -> Result<()> {
        let mut summary = Vec::new();
        of.iter().for_each(|of| scalars("", of, &mut summary));
        self.write(step, &bytes(5, &summary))
    }

    /// Waits until the disk has all events.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| self.path.display().to_string())
    }

    fn write(&mut self, step: u64, content: &[u8]) -> Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend(now().as_secs_f64().to_le_bytes());
        event.extend(number(2, step));
        event.extend(content);
        let length = (event.len() as u64).to_le_bytes();
        let [of_length, of_event] = [&length[..], &event].map(|bytes| masked_crc(bytes).to_le_bytes());
        let record = [&length[..], &of_length, &event, &of_event].concat();
        self.file.write_all(&record).with_context(|| self.path.display().to_string())
    }
}

/// Appends the finite numbers of an object, and of the objects in it, to a summary.
fn scalars(prefix: &str, of: &Value, summary: &mut Vec<u8>) {
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| *name != "step") {
        let tag = format!("{prefix}{name}");
        if let Some(value) = value.as_f64() {
            let mut scalar = bytes(1, tag.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend((value as f32).to_le_bytes());
            summary.extend(bytes(1, &scalar));
        }
        scalars(&format!("{tag}/"), value, summary);
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A field of bytes, a string or a message.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let mut found = vec![field << 3 | 2];
    varint(content.len() as u64, &mut found);
    found.extend(content);
    found
}

/// A field of an integer.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut found = vec![field << 3];
    varint(value, &mut found);
    found
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli). A bit at a time is fast enough for a few hundred bytes a step.
fn crc32c(bytes: &[u8]) -> u32 {
    let of_byte = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(!0, of_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Events of a file: checks lengths and CRCs of its records.
    fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut found = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
            let (crc, rest) = rest.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*crc), masked_crc(length));
            let (event, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            let (crc, rest) = rest.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*crc), masked_crc(event));
            found.push(event);
            bytes = rest;
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn files_have_records_of_scalars() {
        // Check value of CRC-32C in RFC 3720's catalogue; length of an event as TensorFlow writes it.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 299).unwrap();
        let line = json!({ "step": 300, "loss": 1.5, "parts": { "masked words": 0.25 }, "skipped": true });
        events.push(300, &[&line, &json!({ "none": null })]).unwrap();
        events.sync().unwrap();
        let file = std::fs::read(&events.path).unwrap();
        let events = records(&file);
        assert_eq!(events.len(), 3);
        assert_eq!(&events[0][9..], b"\x10\0\x1a\x0dbrain.Event:2");
        assert_eq!(&events[1][9..], b"\x10\xac\x02\x3a\x02\x08\x01");
        let scalars =
            b"\x0a\x0b\x0a\x04loss\x15\0\0\xc0\x3f\x0a\x19\x0a\x12parts/masked words\x15\0\0\x80\x3e";
        assert_eq!(events[2][9..12], *b"\x10\xac\x02");
        assert_eq!(events[2][12..14], [5 << 3 | 2, scalars.len() as u8]);
        assert_eq!(&events[2][14..], scalars);
        assert_eq!(events[2][0], 1 << 3 | 1);
        let time = f64::from_le_bytes(events[2][1..9].try_into().unwrap());
        assert!((now().as_secs_f64() - time).abs() < 3600.0, "{time}");
    }
}
