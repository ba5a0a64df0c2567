//! Decoders against transformers: golden outputs on every backend. A token's results do not depend on how it entered
//! the cache.
//!
//! `tests/golden/decoders.py` made the checkpoints, and their outputs by transformers in f64.
#![forbid(unsafe_code)]

use tilewright::architectures::Architecture;
use tilewright::causal_lm::{CausalLm, Want};
use tilewright::checkpoint::config::Fields;
use tilewright::checkpoint::weights::Weights;
use tilewright::layers::Cache;
use tilewright::llama::{self, RopeScaling};
use tilewright::{Arithmetic, Batch, gpt2};
use tilewright_kernels::Backend;
use tilewright_suite::arithmetics;
use tilewright_suite::golden::{Stored, assert_outputs, golden, inputs, load, open, rewrite};

/// Largest error as a share of an output's largest magnitude, as for encoders. transformers too computes the norms of
/// LLaMA and T5 and the rotary angles in f32.
const TOLERANCE: f32 = 1e-5;

/// Checkpoints with a head for generation.
const GENERATORS: [&str; 8] =
    ["gpt2", "llama", "llama-tied-llama3", "t5", "t5-v1_1", "t5-flan", "bart", "marian"];

/// Checkpoints without a head for generation, or with unusual settings.
const OTHERS: [&str; 4] =
    ["gpt2-model", "llama-linear-biased", "bart-sequence-classification", "marian-separate"];

fn checkpoints() -> impl Iterator<Item = &'static str> {
    GENERATORS.into_iter().chain(OTHERS)
}

#[test]
fn every_backend_computes_what_transformers_does() {
    for name in checkpoints() {
        let dir = golden(name);
        let inputs = inputs(&dir);
        for &backend in Backend::available() {
            let on = Arithmetic::f32(backend);
            let what = format!("{name} on {}", backend.name());
            let outputs = inputs.run(&mut *load(&dir, on)).unwrap();
            assert_outputs(&what, &inputs, &outputs, &dir.join("outputs.safetensors"), TOLERANCE);
            let bare = dir.join("bare.safetensors");
            if bare.exists() {
                let mut model = Architecture::bare(&dir).unwrap().load(&dir, on).unwrap();
                let outputs = inputs.run(&mut *model).unwrap();
                assert_outputs(&format!("bare {what}"), &inputs, &outputs, &bare, TOLERANCE);
            }
        }
    }
}

fn batch(sequences: &[&[u32]]) -> Batch {
    let mut batch = Batch::default();
    for ids in sequences {
        batch.push(ids, &vec![0; ids.len()]).unwrap();
    }
    batch
}

/// Ids of a text, determined by its number.
fn text(number: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7 + number * 11 + i * i) % 39).collect()
}

/// Sources of an encoder-decoder, one for each sequence.
fn sources(sequences: usize) -> Batch {
    let sources: Vec<Vec<u32>> = (0..sequences as u32).map(|s| text(s + 50, 1 + s * 5)).collect();
    batch(&sources.iter().map(|s| &s[..]).collect::<Vec<_>>())
}

/// Empty caches, each with an encoded source if the model has an encoder.
fn caches(model: &mut dyn CausalLm, sequences: usize, capacity: usize) -> Vec<Cache> {
    if !model.encodes() {
        return (0..sequences).map(|_| model.cache(capacity)).collect();
    }
    model.encode(&sources(sequences), capacity).unwrap()
}

fn extend(model: &mut dyn CausalLm, sequences: &[&[u32]], caches: &mut [&mut Cache], want: Want) -> Vec<f32> {
    let mut logits = Vec::new();
    model.extend(&batch(sequences), caches, want, &mut logits).unwrap();
    assert!(logits.iter().all(|x| x.is_finite()));
    logits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_token_has_the_same_bits_in_pieces_alone_and_among_others() {
    for name in GENERATORS {
        for on in arithmetics() {
            let mut model = load(&golden(name), on);
            let model = model.causal_lm().unwrap();
            let words = model.vocab_size();
            let texts: Vec<Vec<u32>> = [19, 1, 33, 6].into_iter().zip(0..).map(|(n, s)| text(s, n)).collect();
            let mut all = caches(model, texts.len(), 40);
            let whole: Vec<Vec<u32>> = texts
                .iter()
                .zip(&mut all)
                .map(|(text, cache)| bits(&extend(model, &[text], &mut [cache], Want::All)))
                .collect();
            let row = |s: usize, token: usize| &whole[s][token * words..(token + 1) * words];

            // All tokens at once; then again after a truncation.
            for _ in 0..2 {
                all.iter_mut().for_each(|cache| cache.truncate(0));
                let sequences: Vec<&[u32]> = texts.iter().map(|text| &text[..]).collect();
                let mut refs: Vec<&mut Cache> = all.iter_mut().collect();
                let together = bits(&extend(model, &sequences, &mut refs, Want::All));
                assert_eq!(together, whole.concat(), "{name} {on:?}: together");
            }

            // Token by token, beside other sequences in pieces of other sizes.
            all.iter_mut().for_each(|cache| cache.truncate(0));
            let mut done = [0; 4];
            for step in 0.. {
                let mut pieces: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
                for (s, text) in texts.iter().enumerate() {
                    let piece = [1, 1, 5, 2][s];
                    let joins = step >= 2 * s;
                    if joins && done[s] < text.len() {
                        pieces.push((s, done[s]..text.len().min(done[s] + piece)));
                    }
                }
                if pieces.is_empty() && step > 8 {
                    break;
                }
                let sequences: Vec<&[u32]> =
                    pieces.iter().map(|(s, piece)| &texts[*s][piece.clone()]).collect();
                let mut refs: Vec<&mut Cache> = Vec::new();
                for (s, cache) in all.iter_mut().enumerate() {
                    if pieces.iter().any(|(of, _)| *of == s) {
                        refs.push(cache);
                    }
                }
                if sequences.is_empty() {
                    continue;
                }
                let last = bits(&extend(model, &sequences, &mut refs, Want::Last));
                for ((s, piece), logits) in pieces.iter().zip(last.chunks_exact(words)) {
                    assert_eq!(
                        logits,
                        row(*s, piece.end - 1),
                        "{name} {on:?}: sequence {s} up to {}",
                        piece.end
                    );
                    done[*s] = piece.end;
                }
            }

            // From a copy, truncated by a few tokens.
            let mut copy = all[2].clone();
            copy.copy_from(&all[0]).unwrap();
            copy.truncate(11);
            let again = bits(&extend(model, &[&texts[0][11..]], &mut [&mut copy], Want::All));
            assert_eq!(again, whole[0][11 * words..], "{name} {on:?}: copied");
        }
    }
}

/// The forward pass of whole texts without caches has the bits of the cached pass.
#[test]
fn a_forward_without_caches_has_the_bits_of_one_with_caches() {
    for name in GENERATORS {
        for on in arithmetics() {
            let mut model = load(&golden(name), on);
            let texts: Vec<Vec<u32>> = [19, 1, 33, 6].into_iter().zip(0..).map(|(n, s)| text(s, n)).collect();
            let sequences: Vec<&[u32]> = texts.iter().map(|text| &text[..]).collect();
            let cached = {
                let model = model.causal_lm().unwrap();
                let mut caches = caches(model, sequences.len(), 40);
                extend(model, &sequences, &mut caches.iter_mut().collect::<Vec<_>>(), Want::All)
            };
            let outputs = match model.causal_lm().unwrap().encodes() {
                true => model.forward_pair(&sources(sequences.len()), &batch(&sequences)),
                false => model.forward(&batch(&sequences)),
            };
            let outputs = outputs.unwrap();
            let logits = outputs.iter().find(|output| output.name == "logits").unwrap();
            assert_eq!(bits(&logits.values), bits(&cached), "{name} {on:?}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in GENERATORS {
        let on = Arithmetic::f32(Backend::best());
        let inputs = inputs(&golden(name));
        let mut results = (1..=4).map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| inputs.run(&mut *load(&golden(name), on)).unwrap())
        });
        let first = results.next().unwrap();
        assert!(results.all(|other| other == first), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    for name in GENERATORS {
        let mut model = load(&golden(name), Arithmetic::f32(Backend::best()));
        let model = model.causal_lm().unwrap();
        let mut of_two = caches(model, 2, 8);
        let [a, b] = &mut of_two[..] else { unreachable!() };
        let mut logits = Vec::new();
        let before = extend(model, &[&[5, 6, 7]], &mut [a], Want::Last);
        let mut refuse = |sequences: &[&[u32]], caches: &mut [&mut Cache], part: &str| {
            let error =
                model.extend(&batch(sequences), caches, Want::Last, &mut logits).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        };
        refuse(&[&[5; 6]], &mut [a], "no room for 6 tokens after 3, it holds 8");
        refuse(&[&[5], &[6; 9]], &mut [a, b], "sequence 1");
        refuse(&[&[5]], &mut [a, b], "one for each of 1 sequences, found 2");
        refuse(&[&[5, 43_000]], &mut [a], "input_ids");
        assert_eq!((a.len(), b.len()), (3, 0));
        a.truncate(0);
        assert_eq!(bits(&extend(model, &[&[5, 6, 7]], &mut [a], Want::Last)), bits(&before));
        if model.encodes() {
            let mut without_source = model.cache(8);
            let tokens = batch(&[&[5]]);
            let error = model.extend(&tokens, &mut [&mut without_source], Want::Last, &mut logits);
            assert!(error.unwrap_err().to_string().contains("source"), "{name}");
        }
    }
}

/// Bare models have caches, and refuse to compute logits before they change a cache.
#[test]
fn a_model_without_head_is_refused_before_anything_is_appended() {
    use tilewright::{bart, gpt2, llama, t5};
    fn refused(mut model: impl CausalLm) {
        let mut cache = caches(&mut model, 1, 8).remove(0);
        let mut logits = vec![7.0];
        let error = model.extend(&batch(&[&[5, 6]]), &mut [&mut cache], Want::Last, &mut logits).unwrap_err();
        assert_eq!(error.to_string(), "logits: the model has no head for words");
        assert!(cache.is_empty() && logits == [7.0], "{model:?}");
    }
    let on = Arithmetic::f32(Backend::best());
    let open = |name: &str| {
        let dir = golden(name);
        (Fields::open(&dir).unwrap(), Weights::open(&dir).unwrap())
    };
    let (fields, weights) = open("gpt2");
    refused(gpt2::Gpt2::open(gpt2::Config::read(&fields).unwrap(), weights, on, false).unwrap());
    let (fields, weights) = open("llama");
    refused(llama::Llama::open(llama::Config::read(&fields).unwrap(), weights, on, false).unwrap());
    let (fields, weights) = open("t5");
    refused(t5::T5::open(t5::Config::read(&fields).unwrap(), &weights, on, t5::T5Class::Bare).unwrap());
    for (name, family, class) in [
        ("bart", bart::Family::BART, bart::BartClass::Bare),
        ("marian", bart::Family::MARIAN, bart::BartClass::Bare),
        ("bart-sequence-classification", bart::Family::BART, bart::BartClass::SequenceClassification),
    ] {
        let (fields, weights) = open(name);
        let config = bart::Config::read(&fields, family).unwrap();
        refused(bart::Bart::open(config, weights, on, class).unwrap());
    }
}

/// A head in the file that differs from the word table is used, for any config. If the file has only one of the two
/// tensors, it serves as both, as in transformers.
#[test]
fn heads_are_tied_as_the_file_has_them() {
    for (name, table) in [("gpt2", "transformer.wte.weight"), ("llama", "model.embed_tokens.weight")] {
        let folder = tempfile::tempdir().unwrap();
        let config = std::fs::read(golden(name).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["tie_word_embeddings"] = true.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let logits = |change: &dyn Fn(&mut Vec<Stored>)| {
            let bytes = rewrite(&golden(name), |tensors| {
                tensors.retain(|tensor| tensor.name != "lm_head.weight");
                change(tensors);
            });
            let mut model = open(folder.path(), bytes, Arithmetic::f32(Backend::REFERENCE)).unwrap();
            let outputs = model.forward(&batch(&[&[1, 2, 3]])).unwrap();
            outputs.into_iter().find(|output| output.name == "logits").unwrap().values
        };
        let head = |tensors: &[Stored], sign: u8| {
            let table = tensors.iter().find(|tensor| tensor.name == table).unwrap();
            let mut data = table.data.clone();
            data.iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= sign);
            Stored { name: "lm_head.weight".to_owned(), dtype: table.dtype, shape: table.shape.clone(), data }
        };
        let expected = logits(&|_| {});
        assert_eq!(logits(&|tensors| tensors.push(head(tensors, 0))), expected, "{name}: twice the same");
        let negated: Vec<f32> = expected.iter().map(|logit| -logit).collect();
        assert_eq!(
            logits(&|tensors| tensors.push(head(tensors, 0x80))),
            negated,
            "{name}: a head of its own"
        );
        let renamed = |tensors: &mut Vec<Stored>| {
            tensors.iter_mut().find(|tensor| tensor.name == table).unwrap().name =
                "lm_head.weight".to_owned();
        };
        assert_eq!(logits(&renamed), expected, "{name}: the head alone");
    }
}

#[test]
fn rotary_settings_are_read_as_by_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let read = |json: &str| {
        std::fs::write(&path, json).unwrap();
        let config = llama::Config::read(&Fields::open(folder.path()).unwrap()).unwrap();
        (config.rope_theta, config.rope_scaling)
    };
    let linear = RopeScaling::Linear { factor: 4.0 };
    let both =
        r#"{"rope_theta": 3e4, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}}"#;
    assert_eq!(read(both), (3e4, linear));
    assert_eq!(read(r#"{"rope_scaling": {"type": "linear", "factor": 4.0}}"#), (1e4, linear));
    let parameters = r#"{"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}"#;
    assert_eq!(read(parameters), (5e5, RopeScaling::Default));
    let llama3 = |more: &str, inner: &str| {
        let of = r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0"#;
        match read(&format!(r#"{{"max_position_embeddings": 99{more}, "rope_scaling": {{{of}{inner}}}}}"#)).1
        {
            RopeScaling::Llama3 { original_max_position_embeddings, .. } => original_max_position_embeddings,
            other => panic!("{other:?}"),
        }
    };
    let original = r#", "original_max_position_embeddings": 33"#;
    assert_eq!(
        [llama3("", ""), llama3("", original), llama3(&original.replace("33", "44"), original)],
        [99.0, 33.0, 44.0]
    );
    for (high, found) in [(1, "above low_freq_factor 1, found 1"), (0, "a positive number, found 0")] {
        let of = r#""rope_type": "llama3", "factor": 8, "low_freq_factor": 1"#;
        std::fs::write(&path, format!(r#"{{"rope_scaling": {{{of}, "high_freq_factor": {high}}}}}"#))
            .unwrap();
        let error = llama::Config::read(&Fields::open(folder.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("high_freq_factor: expected"), "{error}");
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn fields_that_are_not_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |json: &str| {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        Fields::open(folder.path()).unwrap()
    };
    let refused = gpt2::Config::read(&open(r#"{"num_attention_heads": 16}"#)).unwrap_err().to_string();
    assert!(refused.contains("num_attention_heads: only 12 is supported, found 16"), "{refused}");
    for name in ["gpt2", "llama"] {
        let mut model = load(&golden(name), Arithmetic::f32(Backend::REFERENCE));
        let mut typed = Batch::default();
        typed.push(&[1, 2], &[0, 1]).unwrap();
        let refused = model.forward(&typed).unwrap_err().to_string();
        assert_eq!(refused, "token_type_ids: 1 is not below 1", "{name}");
    }
}
