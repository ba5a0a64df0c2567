//! Chat templates: renders messages as the text that a model continues, by the checkpoint's Jinja template.
//!
//! The environment follows transformers' `apply_chat_template`. Jinja's options `trim_blocks` and `lstrip_blocks` are
//! on: a block tag on a line of its own leaves no blank line. Strings, lists and maps have Python's methods. A template
//! can use these names:
//!
//! | name | meaning |
//! |---|---|
//! | `messages` | [`Chat::messages`] without null fields; reasoning also as `thinking` and `reasoning_content` |
//! | `tools`, `documents` | fields of the [`Chat`]; `none` if absent |
//! | `add_generation_prompt` | field of the [`Chat`] |
//! | `bos_token`, `eos_token` | tokens of the tokenizer's files; undefined if absent |
//! | names in [`Chat::variables`] | values given there; they override the variables above |
//! | `tojson` | filter: Python's `json.dumps` with `ensure_ascii` (off), `indent`, `separators` and `sort_keys` |
//! | `strftime_now(format)` | time of the chat, in the system's time zone |
//! | `raise_exception(message)` | refuses the chat |
//! | `{% generation %}` .. `{% endgeneration %}` | scope around the assistant's text; renders its content |

mod json;

use crate::checkpoint::config;
use crate::checkpoint::tokenizer::Tokenizer;
use crate::error::Error;
use jiff::{Timestamp, tz::TimeZone};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Value, context};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Variables of a template.
#[derive(Clone, Debug)]
pub struct Chat {
    /// The conversation: objects with `role` (`system`, `user`, `assistant`, `tool`), `content`, and further
    /// fields that the template reads (`tool_calls`, `reasoning_content`).
    pub messages: Vec<Json>,
    /// Functions that the model may call: a list of JSON schemas.
    pub tools: Option<Json>,
    /// Texts to answer from: a list of objects with `title` and `text`.
    pub documents: Option<Json>,
    /// Further variables of the template, by name; for example `enable_thinking`.
    pub variables: BTreeMap<String, Json>,
    /// True if the rendered text ends with the start of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Time of the chat.
    pub now: SystemTime,
}

impl Chat {
    /// A chat of `messages` at the present time, with `add_generation_prompt` and without tools.
    pub fn new(messages: Vec<Json>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            variables: BTreeMap::new(),
            add_generation_prompt: true,
            now: SystemTime::now(),
        }
    }
}

/// JSON value for a template. Objects keep the order of their fields.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub struct Json(Value);

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Json {
    /// A message: an object with `role` and `content`.
    pub fn message(role: &str, content: &str) -> Self {
        Self(context! { role, content })
    }

    /// Reads a file with a list of objects: tools, documents or messages.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no list of objects.
    pub fn read_objects(path: &Path) -> Result<Self, Error> {
        let list: Self = config::read(path)?;
        let refuse = |why| Err(Error::File { path: path.to_owned(), why });
        if list.0.kind() != ValueKind::Seq {
            return refuse(format!("expected a list of objects, found {}", list.0.kind()));
        }
        for (i, item) in list.0.try_iter().into_iter().flatten().enumerate() {
            if item.kind() != ValueKind::Map {
                return refuse(format!("expected a list of objects, found {} at {i}", item.kind()));
            }
        }
        Ok(list)
    }
}

/// Upper bound of a template's steps. A step is an instruction or 64 bytes of output: under a second of loops, and at
/// most 640 MB. A message takes some hundreds of steps, so ten thousand messages fit.
const FUEL: u64 = 10_000_000;

/// Renders `chat` by the tokenizer's template, or by its template for tools if `chat` has tools. The text contains
/// special tokens: encode it with [`Tokenizer::encode_as_written`].
///
/// # Errors
/// If the tokenizer has no template, or the template is not valid Jinja, uses an unsupported feature, refuses the
/// chat or takes too long.
pub fn render(tokenizer: &Tokenizer, chat: &Chat) -> Result<String, Error> {
    let Some(template) = tokenizer.template(chat.tools.is_some()) else {
        return Err(tokenizer.error("there is no chat template beside it".to_owned()));
    };
    let rendered = render_template(&template.text, tokenizer, chat);
    rendered.map_err(|e| {
        let why = match e.kind() {
            ErrorKind::OutOfFuel => format!("takes too long: expected at most {FUEL} steps, found more"),
            _ => e.to_string(),
        };
        Error::File { path: template.path.clone(), why: format!("chat template: {why}") }
    })
}

fn render_template(template: &str, tokenizer: &Tokenizer, chat: &Chat) -> Result<String, minijinja::Error> {
    let refuse = |why: String| minijinja::Error::new(ErrorKind::InvalidOperation, why);
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", move |why: String| -> Result<Value, _> { Err(refuse(why)) });
    let now = chat.now;
    environment.add_function("strftime_now", move |format: String| {
        let now = Timestamp::try_from(now).map(|now| now.to_zoned(TimeZone::system()));
        let text = now.and_then(|now| jiff::fmt::strtime::format(&format, &now));
        text.map_err(|e| refuse(format!("strftime_now({format:?}): {e}")))
    });

    let or_none = |json: &Option<Json>| json.as_ref().map_or(Value::from(()), |json| json.0.clone());
    let mut variables = vec![
        ("messages", Value::from_iter(chat.messages.iter().map(|message| as_transformers(&message.0)))),
        ("tools", or_none(&chat.tools)),
        ("documents", or_none(&chat.documents)),
        ("add_generation_prompt", chat.add_generation_prompt.into()),
    ];
    let tokens = [("bos_token", tokenizer.bos_token()), ("eos_token", tokenizer.eos_token())];
    variables.extend(tokens.into_iter().filter_map(|(name, token)| Some((name, token?.into()))));
    variables.extend(chat.variables.iter().map(|(name, json)| (name.as_str(), json.0.clone())));
    environment.render_str(&with_scopes(template), Value::from_pairs(variables))
}

/// `message` without null fields. Its reasoning is also in the fields `thinking` and `reasoning_content`, the names that
/// templates read.
fn as_transformers(message: &Value) -> Value {
    let Ok(keys) = message.try_iter() else { return message.clone() };
    if message.kind() != ValueKind::Map {
        return message.clone();
    }
    let field = |key: Value| message.get_item(&key).ok().filter(|v| !v.is_none() && !v.is_undefined());
    let mut fields: Vec<(Value, Value)> = keys.filter_map(|key| Some((key.clone(), field(key)?))).collect();
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.into_iter().find_map(|name| field(name.into())) {
        if field("thinking".into()).is_none() {
            fields.insert(0, ("thinking".into(), reasoning.clone()));
        }
        if field("reasoning_content".into()).is_none() {
            fields.push(("reasoning_content".into(), reasoning));
        }
    }
    Value::from_pairs(fields)
}

/// Replaces `{% generation %}` and its end by Jinja's `{% with %}`: both open a scope. transformers marks the assistant's
/// text for training with the former.
fn with_scopes(template: &str) -> String {
    let mut written = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let tag = &rest[at + 2..];
        let name = tag.strip_prefix(['-', '+']).unwrap_or(tag).trim_start();
        let (end, after) = match name.strip_prefix("end") {
            Some(name) => ("end", name),
            None => ("", name),
        };
        let after = after.strip_prefix("generation").filter(|after| {
            let after = after.trim_start();
            after.strip_prefix(['-', '+']).unwrap_or(after).starts_with("%}")
        });
        match after {
            Some(after) => {
                written += &rest[..rest.len() - name.len()];
                written += end;
                written += "with";
                rest = after;
            }
            None => {
                written += &rest[..at + 2];
                rest = tag;
            }
        }
    }
    written + rest
}
