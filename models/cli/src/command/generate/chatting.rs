//! Options of `tilewright generate` for chats.

use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::generate::chat::{self, Chat, Json};

/// `--chat` and what goes with it; flatten it into a subcommand's arguments.
#[derive(Debug, Args)]
pub struct Chatting {
    /// Take each text for what a user says, in the checkpoint's chat template
    #[arg(long)]
    chat: bool,

    /// Text of the system, before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,

    /// The functions that the model may call: a JSON list of their schemas, as transformers takes it
    #[arg(long, value_name = "FILE", requires = "chat")]
    tools: Option<PathBuf>,

    /// Texts to answer from: a JSON list of objects with "title" and "text"
    #[arg(long, value_name = "FILE", requires = "chat")]
    documents: Option<PathBuf>,

    /// Another variable of the chat template, as JSON or else as a string (enable_thinking=false); can be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE", requires = "chat", value_parser = variable)]
    chat_variable: Vec<(String, Json)>,
}

/// A chat that each text ends.
pub struct Beginning(Chat);

impl Chatting {
    /// Messages before each text, if texts are chats.
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
    /// The ids of the chat in which a user says `text`.
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
