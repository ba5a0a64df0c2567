//! `tilewright generate`: what follows a text.

mod chatting;
mod timing;

use super::checkpoint::{self, Checkpoint, Dtype};
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

/// Continues texts, or answers them
///
/// Options that are not given come from the checkpoint's generation_config.json (or config.json); where that says
/// nothing, each token is the most probable one. An encoder-decoder is given the text as its source.
///
/// A single text is written while it is generated, to a terminal and to a pipe alike; several, those of a beam search
/// and JSON when all are there, with a progress bar on stderr if that is a terminal. The header goes to stdout,
/// with --json to stderr; how long it took goes to stderr in any case. Draws of the same seed are the same, alone and among others.
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

    /// Texts; without any, each line of stdin is one
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,

    /// The most tokens to generate [default: 256, if the checkpoint says nothing]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,

    /// Draw tokens, with their scores divided by T; 0: take the most probable one
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,

    /// Draw from the K most probable tokens; 0: from all. 50 if neither this nor the checkpoint says so
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw from the most probable tokens that together have the probability P
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Draw from tokens that have at least the share P of the most probable one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Make tokens that are there already less probable: 1 changes nothing
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,

    /// Seed of the draws; that of each further text is one more. The same seed draws the same tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Follow N texts at once and take the most probable; 1: no beam search
    #[arg(long, value_name = "N")]
    beams: Option<usize>,

    /// Divide scores of beams by their length to the power X
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,

    /// When a beam search ends: as soon as N texts have (true), when none of the present length can be better
    /// (false), when none can be (never)
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    early_stopping: Option<EarlyStopping>,

    /// End a text before this string; can be given several times
    #[arg(long, value_name = "STRING")]
    stop: Vec<String>,

    #[command(flatten)]
    chatting: Chatting,

    /// Guess tokens ahead and check them in one step, which changes no token and saves time where guesses are right:
    /// 8 from where the text has said the same before (lookup), or 4 by a smaller model of the same vocabulary
    #[arg(long, value_name = "lookup|DIR|FILE|ORG/NAME")]
    speculate: Option<PathBuf>,

    /// How many texts to continue at once
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,

    #[command(flatten)]
    precision: Dtype,

    #[command(flatten)]
    common: Common,
}

/// Tokens that are guessed at once: those of a lookup cost nothing but their check.
const LOOKUP: usize = 8;
const DRAFT: usize = 4;

/// The most tokens, where neither an option nor the checkpoint says how many.
const TOKENS: usize = 256;

/// Result of a prompt.
struct Text {
    tokens: Vec<u32>,
    text: String,
    finish: FinishReason,
    /// Of a beam search there is no first token: all may change up to the end.
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
        // A single text of no beam search was printed while it was generated.
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

    /// Generation options of the checkpoint, changed by the command's options.
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
            // Who asks for draws wants no beam search, whatever the checkpoint prefers.
            None if settings.do_sample && drawn => settings.num_beams = 1,
            None => {}
        }
        if settings.num_beams > 1 {
            // And the other way round.
            settings.do_sample &= drawn;
            if !self.stop.is_empty() || self.speculate.is_some() {
                bail!(
                    "--stop and --speculate are not for a beam search, and there are {} beams",
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
                bail!("no texts: give some as arguments, or lines on stdin");
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
            // Shown before the first has come to its end.
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

/// The progress of texts of which none knows when they end.
fn tokens_style() -> ProgressStyle {
    ProgressStyle::with_template("{pos} tokens, {per_sec}").expect("a valid template")
}

/// The model of the checkpoint at `path` as one that continues texts.
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
