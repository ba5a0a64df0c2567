//! Chat templates: from messages to the text that a model continues, as the checkpoint's template in Jinja
//! says.

use crate::error::Error;
use crate::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The text of `messages`, up to where the assistant speaks, as the tokenizer's template writes it. It has the
/// special tokens in it: encode it with [`Tokenizer::encode_as_written`].
///
/// The template is rendered as transformers does: blocks take their line with them, strings have Python's
/// methods. There are no tools.
///
/// # Errors
/// If the tokenizer has no template, or it is no Jinja, refuses the messages, or asks for what is not supported.
pub fn render(tokenizer: &Tokenizer, messages: &[Message]) -> Result<String, Error> {
    let Some(template) = tokenizer.chat_template() else {
        return Err(tokenizer.error("there is no chat template beside it".to_owned()));
    };
    let rendered = render_template(template, tokenizer, messages);
    rendered.map_err(|e| tokenizer.error(format!("chat template: {e}")))
}

fn render_template(
    template: &str,
    tokenizer: &Tokenizer,
    messages: &[Message],
) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |why: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
    });
    let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
    environment.render_str(
        template,
        context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            bos_token => tokenizer.bos_token().unwrap_or_default(),
            eos_token => tokenizer.eos_token().unwrap_or_default(),
            add_generation_prompt => true,
        },
    )
}
