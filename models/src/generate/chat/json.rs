//! The filter `tojson` of transformers' chat templates: Python's `json.dumps`. It escapes no HTML; it escapes characters
//! beyond ASCII only with `ensure_ascii`.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write as _;

/// Upper bound of nesting, as for JSON files; templates themselves can nest values without limit.
const DEPTH: usize = 128;

/// JSON of `value`. Options are `ensure_ascii`, `indent` and `separators`, by place or name, and `sort_keys` by name.
pub fn tojson(state: &State, value: &Value, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    if given.len() > 3 {
        return Err(ErrorKind::TooManyArguments.into());
    }
    let option = |at: usize, name: &str| match given.get(at).filter(|v| !v.is_none() && !v.is_undefined()) {
        Some(given) => Ok(given.clone()),
        None => options.get::<Option<Value>>(name).map(|v| v.unwrap_or(Value::from(()))),
    };
    let (indent, separators) = (option(1, "indent")?, option(2, "separators")?);
    let indent = match indent.as_str() {
        Some(text) => Some(text.to_owned()),
        None if indent.is_none() => None,
        None if indent.kind() == ValueKind::Bool => Some(" ".repeat(indent.is_true().into())),
        None => Some(" ".repeat(i64::try_from(indent)?.clamp(0, 80) as usize)),
    };
    let part = |i| separators.get_item_by_index(i).map(|part| part.to_string());
    let [comma, colon] = match separators.is_none() {
        true => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        false => [part(0)?, part(1)?],
    };
    let ascii = option(0, "ensure_ascii")?.is_true();
    let sorted = option(3, "sort_keys")?.is_true();
    options.assert_all_used()?;
    let pay = |fuel| state.consume_fuel(fuel);
    let mut writer = Writer { pay: &pay, indent, comma, colon, ascii, sorted, out: String::new(), paid: 0 };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    /// Takes from the template's fuel, which bounds the output: a shared value is written at each of its uses.
    pay: &'a dyn Fn(u64) -> Result<(), Error>,
    indent: Option<String>,
    comma: String,
    colon: String,
    ascii: bool,
    sorted: bool,
    out: String,
    /// Bytes of `out` that fuel was taken for.
    paid: usize,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {why}")));
        if depth > DEPTH {
            return refuse(format!("a value is nested more than {DEPTH} times"));
        }
        let written = self.out.len() - self.paid;
        self.paid = self.out.len();
        // A step for four bytes, as minijinja takes when it writes JSON itself.
        (self.pay)(1 + written as u64 / 4)?;
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.out += &scalar(value),
            ValueKind::Seq | ValueKind::Iterable => {
                // Pay before collecting: a lazily repeated list takes no memory until here.
                let paid = value.try_iter()?.map(|item| (self.pay)(1).map(|()| item));
                let items = paid.collect::<Result<Vec<_>, _>>()?;
                self.list(['[', ']'], &items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let name = key.as_str().map_or_else(|| scalar(&key), str::to_owned);
                    items.push((name, value.get_item(&key)?));
                }
                if self.sorted {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list(['{', '}'], &items, depth, |writer, (name, item)| {
                    writer.string(name);
                    writer.out += &writer.colon.clone();
                    writer.value(item, depth + 1)
                })?;
            }
            other => return refuse(format!("{other} is no JSON")),
        }
        Ok(())
    }

    fn list<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out += &self.comma.clone();
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out += &indent.repeat(depth);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if c < ' ' || self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Text of a value without parts. Floats are spelled as in Python: `1.0`, `1e-05`, `1e+16`.
fn scalar(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        _ if value.is_integer() => value.to_string(),
        _ => match f64::try_from(value.clone()) {
            Ok(float) if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Ok(float) => {
                let text = format!("{float:?}");
                match text.split_once('e').and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?))) {
                    Some((digits, e)) => format!("{digits}e{e:+03}"),
                    None => text,
                }
            }
            Err(_) => value.to_string(),
        },
    }
}
