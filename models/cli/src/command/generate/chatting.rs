//! Options of `tilewright generate` for chats.

use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::generate::chat::{self, Chat, Json};

/// `--chat` and the options that need it; a subcommand flattens them into its arguments.
#[derive(Debug, Args)]
pub struct Chatting {
    /// Treat each text as a user's message in the checkpoint's chat template
    #[arg(long)]
    chat: bool,

    /// System message before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// Functions that the model may call: a JSON list of schemas in transformers' format
    #[arg(long, value_name = "FILE", requires = "chat")]
    tools: Option<PathBuf>,

    /// Documents to answer from: a JSON list of objects with "title" and "text"
    #[arg(long, value_name = "FILE", requires = "chat")]
    documents: Option<PathBuf>,

    /// Another variable of the chat template, as JSON or else as a string, for instance enable_thinking=false; repeat
    /// the option for several variables
    #[arg(long, value_name = "NAME=VALUE", requires = "chat", value_parser = variable)]
    chat_variable: Vec<(String, Json)>,
}

/// Messages that precede each text.
pub struct Beginning(Chat);

impl Chatting {
    /// The messages before each text; `None` without `--chat`.
    pub fn chat(&self) -> Result<Option<Beginning>> {
        if !self.chat {
            return Ok(None);
        }
        let system = self.system.iter().map(|system| Json::message("system", system));
        let mut chat = Chat::new(system.collect());
        chat.tools = self.tools.as_deref().map(Json::read_objects).transpose()?;
        chat.documents = self.documents.as_deref().map(Json::read_objects).transpose()?;
        chat.variables = self.chat_variable.iter().cloned().collect();
        Ok(Some(Beginning(chat)))
    }
}

impl Beginning {
    /// Token ids of the chat that ends with the user's message `text`.
    pub fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let mut chat = self.0.clone();
        chat.messages.push(Json::message("user", text));
        Ok(tokenizer.encode_as_written(&chat::render(tokenizer, &chat)?)?)
    }
}

/// Parses `NAME=VALUE`.
fn variable(given: &str) -> Result<(String, Json), String> {
    let (name, value) = given.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}
