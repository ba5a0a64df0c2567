//! Times of a run of `tilewright generate`.

use super::Text;
use serde_json::{Value, json};
use std::time::Duration;
use tilewright::generate::Statistics;

/// `n` per second of `time`; `None` if either is 0.
fn rate(n: usize, time: Duration) -> Option<f64> {
    (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64())
}

/// One line with the timings of a run.
pub fn summary(load: Duration, texts: &[Text], of: &Statistics) -> String {
    let mut parts = vec![format!("loaded in {:.2} s", load.as_secs_f64())];
    if let Some(rate) = rate(of.prefill_tokens, of.prefill) {
        parts.push(format!("prefill {} tokens, {rate:.1}/s", of.prefill_tokens));
    }
    if let Some(rate) = rate(of.decode_tokens, of.decode) {
        parts.push(format!("decode {} tokens, {rate:.1}/s", of.decode_tokens));
    }
    if let Some(first) = texts.iter().filter_map(|text| text.first_token).min() {
        parts.push(format!("first token after {:.3} s", first.as_secs_f64()));
    }
    if of.guessed > 0 {
        parts.push(format!("{} of {} guesses right", of.accepted, of.guessed));
    }
    if let [text] = texts {
        parts.push(format!("end: {}", text.finish.name()));
    }
    parts.join(" | ")
}

/// Times as JSON.
pub fn json(load: Duration, of: &Statistics) -> Value {
    json!({
        "load_s": load.as_secs_f64(),
        "prefill_tokens": of.prefill_tokens,
        "prefill_s": of.prefill.as_secs_f64(),
        "prefill_tokens_per_s": rate(of.prefill_tokens, of.prefill),
        "decode_tokens": of.decode_tokens,
        "decode_s": of.decode.as_secs_f64(),
        "decode_tokens_per_s": rate(of.decode_tokens, of.decode),
        "guessed": of.guessed,
        "accepted": of.accepted,
    })
}
