//! Values of GGUF metadata, and a reader that bounds every length by the file's.

use std::io::Read;

/// A value of the metadata. It takes at most eight times the memory of its bytes in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(Box<str>),
    /// An array of numbers or bools, exact up to 2^53.
    Numbers(Vec<f64>),
    /// An array of strings.
    Strings(Vec<Box<str>>),
    /// An array of arrays.
    Arrays(Vec<Value>),
}

impl Value {
    /// The value, or the length and type of an array, for errors.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Unsigned(v) => v.to_string(),
            Self::Signed(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::String(v) => format!("{v:?}"),
            Self::Numbers(v) => format!("{} numbers", v.len()),
            Self::Strings(v) => format!("{} strings", v.len()),
            Self::Arrays(v) => format!("{} arrays", v.len()),
        }
    }
}

/// Upper bound of nested arrays; known keys nest at most one.
const DEPTH: usize = 4;

/// Reads a file of known length.
pub(super) struct Reader<R> {
    inner: R,
    /// Bytes read.
    pub at: u64,
    /// Bytes of the file.
    pub len: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R, len: u64) -> Self {
        Self { inner, at: 0, len }
    }

    /// Refuses `count` items that the rest of the file cannot hold.
    fn expect(&self, count: u64, bytes_each: u64) -> Result<(), String> {
        let rest = self.len - self.at;
        match count.checked_mul(bytes_each) {
            Some(bytes) if bytes <= rest => Ok(()),
            _ => {
                Err(format!("expected {count} times {bytes_each} bytes, found {rest} to the end of the file"))
            }
        }
    }

    /// Reads a count of items of at least `bytes_each` bytes.
    pub fn count(&mut self, bytes_each: u64) -> Result<u64, String> {
        let count = self.u64()?;
        self.expect(count, bytes_each)?;
        Ok(count)
    }

    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.expect(N as u64, 1)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub fn string(&mut self) -> Result<Box<str>, String> {
        let len = self.count(1)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|e| e.to_string())?];
        self.inner.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        self.at += len;
        String::from_utf8(bytes).map(String::into_boxed_str).map_err(|e| e.to_string())
    }

    /// Reads a type and its value.
    pub fn value(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        self.of_type(kind, DEPTH)
    }

    fn of_type(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.bytes().map(u8::from_le_bytes)?.into()),
            1 => Value::Signed(self.bytes().map(i8::from_le_bytes)?.into()),
            2 => Value::Unsigned(self.bytes().map(u16::from_le_bytes)?.into()),
            3 => Value::Signed(self.bytes().map(i16::from_le_bytes)?.into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(self.bytes().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.bytes().map(f32::from_le_bytes)?.into()),
            7 => match self.bytes()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("expected a bool, 0 or 1, found {other}")),
            },
            8 => Value::String(self.string()?),
            9 => self.array(depth)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(self.bytes().map(i64::from_le_bytes)?),
            12 => Value::Float(self.bytes().map(f64::from_le_bytes)?),
            other => return Err(format!("expected a type of value from 0 to 12, found {other}")),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("expected at most {DEPTH} arrays in each other, found more"));
        };
        let kind = self.u32()?;
        let bytes_each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            // A string has at least its length, 8 bytes; an array has its type, 4 bytes, and its length.
            9 => 12,
            _ => 8,
        };
        let count = self.count(bytes_each)?;
        match kind {
            8 => (0..count).map(|_| self.string()).collect::<Result<_, _>>().map(Value::Strings),
            9 => (0..count).map(|_| self.array(depth)).collect::<Result<_, _>>().map(Value::Arrays),
            _ => (0..count)
                .map(|_| match self.of_type(kind, depth)? {
                    Value::Unsigned(v) => Ok(v as f64),
                    Value::Signed(v) => Ok(v as f64),
                    Value::Float(v) => Ok(v),
                    Value::Bool(v) => Ok(f64::from(u8::from(v))),
                    _ => unreachable!("strings and arrays are above"),
                })
                .collect::<Result<_, String>>()
                .map(Value::Numbers),
        }
    }
}
