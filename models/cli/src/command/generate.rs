//! `tilewright generate`: continuations of texts.

mod chatting;
mod timing;

use super::checkpoint::{self, Checkpoint, LayerPrecision};
use super::style;
use super::{Common, Session};
use anyhow::{Context as _, Result, bail};
use chatting::Chatting;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tilewright::architectures::Architecture;
use tilewright::causal_lm::CausalLm;
use tilewright::checkpoint::tokenizer::Tokenizer;
use tilewright::generate::{
    EarlyStopping, Engine, FinishReason, GenerationConfig, Request, Speculation, Statistics, TextStream,
    beam_search,
};
use tilewright::model::Model;

/// Continues texts, or answers chat messages
///
/// The checkpoint's generation_config.json (or config.json) sets the options that the command line leaves out. If it
/// sets none either, each token is the most probable one. An encoder-decoder reads the text as its source.
///
/// A single text appears while it is generated. Several texts, the result of a beam search and JSON appear when all are
/// complete, with a progress bar on stderr if that is a terminal. The header goes to stdout (with --json, to stderr);
/// timings go to stderr. A seed draws the same tokens for a text alone and among other texts.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tilewright generate --model smollm2-135m-instruct --chat 'What is the capital of France?'
  tilewright generate --model llama-3.2-1b-instruct --chat --tools tools.json 'Is it warm in Rome?'
  tilewright generate --model smollm2.gguf --max-tokens 40 --temperature 0.8 --seed 7 'Once upon a time'
  tilewright generate --model t5-small 'translate English to German: The cat sat on the mat.'
  tilewright generate --model opus-mt-en-de --beams 4 'The cat sat on the mat.'
  tilewright generate --model smollm2-360m --speculate smollm2-135m --dtype bf16 'def fibonacci(n):'
  tilewright generate --model smollm2-360m --speculate lookup --chat 'Repeat this text: ..'
  tilewright generate --model gpt2 --json --stop '###' --batch 16 < prompts.txt | jq -r '.texts[].text'")]
pub struct Generate {
    #[command(flatten)]
    checkpoint: Checkpoint,

    /// Texts to continue [default: the lines of stdin]
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,

    /// Largest number of new tokens [default: the checkpoint's, or else 256]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Draw each token from the distribution of its logits divided by T; 0 takes the most probable token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,

    /// Draw from the K most probable tokens; 0 draws from all [default: the checkpoint's, or else 50]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw from the fewest tokens whose probabilities sum to at least P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Draw from tokens with at least P times the probability of the most probable token
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Make tokens that the text already contains less probable; 1 changes nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,

    /// Seed of the first text's draws; each further text adds 1. A seed always draws the same tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Number of beams: follow N continuations and take the most probable; 1 turns beam search off
    #[arg(long, value_name = "N")]
    beams: Option<usize>,

    /// Divide the score of a beam by its length to the power X
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,

    /// End of a beam search: true, as soon as N beams have ended; false, when no beam of the present length can be
    /// better; never, when no beam of any length can be better
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    early_stopping: Option<EarlyStopping>,

    /// End a text before this string; repeat the option for several strings
    #[arg(long, value_name = "STRING")]
    stop: Vec<String>,

    #[command(flatten)]
    chatting: Chatting,

    /// Guess tokens and check them in one step: saves time if guesses are right, and changes no token. `lookup`
    /// guesses 8 tokens from an earlier repetition in the text; a checkpoint with the same vocabulary guesses 4
    #[arg(long, value_name = "lookup|DIR|FILE|ORG/NAME")]
    speculate: Option<PathBuf>,

    /// Number of texts to continue at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,

    #[command(flatten)]
    precision: LayerPrecision,

    #[command(flatten)]
    common: Common,
}

/// Tokens that a lookup guesses at once: more than a draft model, for guessing costs nothing.
const LOOKUP: usize = 8;
/// Tokens that a draft model guesses at once.
const DRAFT: usize = 4;

/// Largest number of new tokens if neither an option nor the checkpoint sets one.
const TOKENS: usize = 256;

/// Continuation of a prompt.
struct Text {
    tokens: Vec<u32>,
    text: String,
    finish: FinishReason,
    /// `None` for a beam search, whose tokens may all change up to its end.
    first_token: Option<Duration>,
    total: Duration,
}

impl Generate {
    pub fn run(mut self) -> Result<()> {
        let session = self.precision.start(&self.common)?;
        let start = Instant::now();
        let path = self.checkpoint.locate()?;
        let settings = Arc::new(self.settings(&path)?);
        let tokenizer = Tokenizer::open(&path)?;
        let architecture = Architecture::of(&path)?;
        let mut model = self.load(&path, &session)?;
        let mut draft = match &self.speculate {
            Some(guess) if guess.as_os_str() != "lookup" => {
                Some(self.load(&checkpoint::locate(guess)?, &session)?)
            }
            _ => None,
        };
        let load = start.elapsed();
        self.read_prompts()?;
        let prompts = self.encode_all(&tokenizer)?;

        let generator = continuing(&mut *model, &path)?;
        let (texts, statistics) = if settings.num_beams > 1 {
            self.search(generator, &tokenizer, &settings, &prompts)?
        } else {
            let speculation = match (&mut draft, &self.speculate) {
                (Some(draft), Some(path)) => {
                    Speculation::Draft { model: continuing(&mut **draft, path)?, tokens: DRAFT }
                }
                (None, Some(_)) => Speculation::Lookup { tokens: LOOKUP },
                (_, None) => Speculation::None,
            };
            let mut engine = Engine::with_speculation(generator, self.batch, speculation)?;
            let texts = self.continue_all(&mut engine, &tokenizer, &settings, &prompts, &session)?;
            (texts, engine.statistics())
        };

        eprintln!("{}", timing::summary(load, &texts, &statistics));
        if session.json {
            let texts: Vec<Value> = self.prompts.iter().zip(&prompts).zip(&texts).map(as_json).collect();
            return session.print_json(json!({
                "architecture": architecture.class,
                "texts": texts,
                "timings": timing::json(load, &statistics),
            }));
        }
        // A streamed text is on stdout already.
        if self.is_streamed(&settings) {
            return Ok(());
        }
        for (prompt, text) in self.prompts.iter().zip(&texts) {
            if self.prompts.len() > 1 {
                session.say(&format!("\n{prompt:?}"))?;
            }
            session.say(&text.text)?;
        }
        Ok(())
    }

    /// Generation options of the checkpoint, overridden by the options of the command.
    fn settings(&self, path: &Path) -> Result<GenerationConfig> {
        let mut settings = GenerationConfig::open(path)?;
        if let Some(tokens) = self.max_tokens.or((!settings.has_longest()).then_some(TOKENS)) {
            settings.max_new_tokens = Some(tokens);
        }
        let drawn =
            [self.temperature, self.top_p, self.min_p].iter().any(Option::is_some) || self.top_k.is_some();
        if self.temperature == Some(0.0) {
            settings.do_sample = false;
        } else if drawn {
            settings.do_sample = true;
            settings.temperature = self.temperature.unwrap_or(settings.temperature);
        }
        settings.top_k = self.top_k.unwrap_or(settings.top_k);
        settings.top_p = self.top_p.unwrap_or(settings.top_p);
        settings.min_p = self.min_p.unwrap_or(settings.min_p);
        settings.repetition_penalty = self.repetition_penalty.unwrap_or(settings.repetition_penalty);
        settings.length_penalty = self.length_penalty.unwrap_or(settings.length_penalty);
        settings.early_stopping = self.early_stopping.unwrap_or(settings.early_stopping);
        match self.beams {
            Some(beams) => settings.num_beams = beams,
            // Options for drawing override a beam search that the checkpoint asks for.
            None if settings.do_sample && drawn => settings.num_beams = 1,
            None => {}
        }
        if settings.num_beams > 1 {
            // A beam search overrides drawing that the checkpoint asks for.
            settings.do_sample &= drawn;
            if !self.stop.is_empty() || self.speculate.is_some() {
                bail!(
                    "--stop and --speculate do not work with a beam search, here of {} beams; --beams 1 turns it off",
                    settings.num_beams
                );
            }
        }
        settings.check().map_err(anyhow::Error::msg)?;
        Ok(settings)
    }

    fn load(&self, path: &Path, session: &Session) -> Result<Box<dyn Model>> {
        Ok(self.precision.load(Architecture::of(path)?, path, session)?)
    }

    fn read_prompts(&mut self) -> Result<()> {
        if self.prompts.is_empty() {
            if std::io::stdin().is_terminal() {
                bail!("no texts: pass them as arguments, or as lines on stdin");
            }
            self.prompts = std::io::stdin().lines().collect::<Result<_, _>>().context("stdin")?;
        }
        Ok(())
    }

    fn encode_all(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
        if let Some(chat) = self.chatting.chat()? {
            return self.prompts.iter().map(|prompt| chat.encode(tokenizer, prompt)).collect();
        }
        let encode = |prompt: &String| {
            let encoded = tokenizer.encode(&[prompt]).with_context(|| format!("the text {prompt:?}"))?;
            Ok(encoded.ids().to_vec())
        };
        self.prompts.iter().map(encode).collect()
    }

    fn is_streamed(&self, settings: &GenerationConfig) -> bool {
        self.prompts.len() == 1 && settings.num_beams == 1
    }

    fn continue_all(
        &self,
        engine: &mut Engine<'_>,
        tokenizer: &Tokenizer,
        settings: &Arc<GenerationConfig>,
        prompts: &[Vec<u32>],
        session: &Session,
    ) -> Result<Vec<Text>> {
        let mut seed = self.seed;
        for prompt in prompts {
            engine.submit(Request { prompt: prompt.clone(), settings: settings.clone(), seed })?;
            seed = seed.wrapping_add(1);
        }
        let mut streams = vec![(TextStream::new(tokenizer, &self.stop), String::new()); prompts.len()];
        let streamed = self.is_streamed(settings) && !session.json;
        let bar = match streamed {
            true => ProgressBar::hidden(),
            false => ProgressBar::no_length().with_style(tokens_style()),
        };
        let write = |(_, text): &mut (TextStream<'_>, String), piece: &str| -> Result<()> {
            text.push_str(piece);
            if streamed {
                let mut stdout = std::io::stdout();
                stdout.write_all(piece.as_bytes())?;
                stdout.flush()?;
            }
            Ok(())
        };
        let mut failed = None;
        let finished = engine.run(&mut |id, token| {
            bar.inc(1);
            let stream = &mut streams[id];
            let pushed = stream.0.push(token).map_err(anyhow::Error::from);
            if let Err(e) = pushed.and_then(|piece| write(stream, &piece)) {
                failed = Some(e);
            }
            match failed.is_some() || stream.0.stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        bar.finish_and_clear();
        if let Some(e) = failed {
            return Err(e);
        }
        for stream in &mut streams {
            let rest = stream.0.finish()?;
            write(stream, &rest)?;
        }
        if streamed {
            writeln!(std::io::stdout())?;
        }
        let text = |(f, (_, text)): (tilewright::generate::Finished, (_, String))| Text {
            tokens: f.tokens,
            text,
            finish: f.finish,
            first_token: Some(f.first_token),
            total: f.total,
        };
        Ok(finished.into_iter().zip(streams).map(text).collect())
    }

    fn search(
        &self,
        generator: &mut dyn CausalLm,
        tokenizer: &Tokenizer,
        settings: &Arc<GenerationConfig>,
        prompts: &[Vec<u32>],
    ) -> Result<(Vec<Text>, Statistics)> {
        let (mut texts, mut statistics) = (Vec::new(), Statistics::default());
        let bar = ProgressBar::new(prompts.len() as u64).with_style(style::progress()).with_message("texts");
        for prompt in prompts {
            // Draws the bar before the first text is complete.
            bar.tick();
            let start = Instant::now();
            let best = beam_search(generator, prompt, settings)?.into_iter().next();
            let tokens = best.context("the beam search found no text")?.tokens;
            let total = start.elapsed();
            statistics.decode_tokens += tokens.len();
            statistics.decode += total;
            let ended = tokens.last().is_some_and(|last| settings.eos_token_id.contains(last));
            let finish = if ended { FinishReason::Eos } else { FinishReason::Length };
            texts.push(Text { text: tokenizer.decode(&tokens)?, tokens, finish, first_token: None, total });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((texts, statistics))
    }
}

/// Style for a number of tokens that is not known beforehand.
fn tokens_style() -> ProgressStyle {
    ProgressStyle::with_template("{pos} tokens, {per_sec}").expect("a valid template")
}

/// The model of the checkpoint at `path` as a causal LM.
fn continuing<'m>(model: &'m mut dyn Model, path: &Path) -> Result<&'m mut dyn CausalLm> {
    model.causal_lm().with_context(|| format!("the model in {} does not continue texts", path.display()))
}

fn as_json(((prompt, prompt_tokens), text): ((&String, &Vec<u32>), &Text)) -> Value {
    json!({
        "prompt": prompt,
        "prompt_tokens": prompt_tokens.len(),
        "tokens": text.tokens,
        "text": text.text,
        "finish": text.finish.name(),
        "first_token_s": text.first_token.map(|time| time.as_secs_f64()),
        "total_s": text.total.as_secs_f64(),
    })
}
