//! Chat templates: from messages to the text that a model continues, as the checkpoint's template in Jinja
//! says.

use crate::config;
use crate::error::Error;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_owned(), content: content.to_owned() }
    }
}

/// The chat template of a checkpoint.
///
/// It is rendered as transformers does: blocks take their line with them, strings have Python's methods.
///
/// ```
/// use tilewright::generate::chat::{ChatTemplate, Message};
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}{% endfor %}\
///     {% if add_generation_prompt %}<assistant>{% endif %}";
/// let template = ChatTemplate::new("a test".into(), source.to_owned(), String::new(), String::new())?;
/// assert_eq!(template.render(&[Message::new("user", " Hi ")])?, "<user>Hi<assistant>");
/// # Ok::<(), tilewright::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// Fields of tokenizer_config.json.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Settings {
    chat_template: Option<Templates>,
    bos_token: Option<config::SpecialToken>,
    eos_token: Option<config::SpecialToken>,
}

/// A template, or several of which the one named `default` is for chats.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<Named>),
}

#[derive(Debug, serde::Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja` in `dir`, or else the template of tokenizer_config.json; returns nothing
    /// if the checkpoint has none.
    ///
    /// # Errors
    /// If a file is damaged, or a template is no Jinja.
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let (file, config) = (dir.join("chat_template.jinja"), dir.join("tokenizer_config.json"));
        let settings: Settings = config::read_optional(&config)?.unwrap_or_default();
        let (path, source) = if file.exists() {
            let source = std::fs::read_to_string(&file);
            let source = source.map_err(|source| Error::Io { path: file.clone(), source })?;
            (file, Some(source))
        } else {
            let source = settings.chat_template.and_then(|templates| match templates {
                Templates::One(template) => Some(template),
                Templates::Several(all) => {
                    all.into_iter().find(|named| named.name == "default").map(|named| named.template)
                }
            });
            (config, source)
        };
        let text = |token: Option<config::SpecialToken>| token.map(String::from).unwrap_or_default();
        let [bos, eos] = [settings.bos_token, settings.eos_token].map(text);
        source.map(|source| Self::new(path, source, bos, eos)).transpose()
    }

    /// The template `source`, which errors call `path`, and the tokens that it may ask for.
    ///
    /// # Errors
    /// If it is no Jinja.
    pub fn new(path: PathBuf, source: String, bos_token: String, eos_token: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_filter("tojson", to_json);
        match environment.add_template_owned(NAME, source) {
            Ok(()) => Ok(Self { path, environment, bos_token, eos_token }),
            Err(e) => Err(refused(&path, &e)),
        }
    }

    /// The text of `messages`, up to where the assistant speaks.
    ///
    /// # Errors
    /// If the template refuses the messages, or asks for what is not supported.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let Self { bos_token, eos_token, .. } = self;
        let values = context! { messages, bos_token, eos_token, add_generation_prompt => true };
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(values));
        rendered.map_err(|e| refused(&self.path, &e))
    }
}

/// The one template of an environment.
const NAME: &str = "chat";

fn refused(path: &Path, e: &minijinja::Error) -> Error {
    Error::File { path: path.to_owned(), why: format!("chat template: {e}") }
}

/// JSON as Python writes it, a space after each comma and colon, and without escapes for HTML.
fn to_json(value: &Value, options: minijinja::value::Kwargs) -> Result<Value, minijinja::Error> {
    struct Spaced;
    impl serde_json::ser::Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { w.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { w.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
            w.write_all(b": ")
        }
    }
    let refuse = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut json = Vec::new();
    match options.get::<Option<usize>>("indent")? {
        Some(indent) => {
            let indent = " ".repeat(indent);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, Spaced)),
    }
    .map_err(refuse)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&json).into_owned()))
}
