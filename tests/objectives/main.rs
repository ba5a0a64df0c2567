//! Pre-training objectives: statistics beside the official code's, properties, refused settings.

mod official;
mod properties;
mod refused;

use tilewright::train::data::{Document, MemoryCorpus};
use tilewright::train::objectives::{Epoch, Example};

/// A document of sentences.
fn document(sentences: &[Vec<u32>]) -> Document {
    let mut document = Document::default();
    for sentence in sentences {
        document.tokens.extend_from_slice(sentence);
        document.sentence_ends.push(document.tokens.len());
    }
    document
}

fn corpus(documents: &[Vec<Vec<u32>>]) -> MemoryCorpus {
    MemoryCorpus(documents.iter().map(|sentences| document(sentences)).collect())
}

/// All examples of an epoch, by index.
fn examples(epoch: &Epoch<'_>) -> Vec<Example> {
    let make = |index| {
        let mut example = Example::default();
        epoch.example(index, &mut example).unwrap();
        example
    };
    (0..epoch.len()).map(make).collect()
}

/// Tokens of a T5 segment, from inputs and targets: each sentinel of the inputs stands for the tokens after it in the
/// targets. Both end with the same token.
fn reassemble(inputs: &[u32], targets: &[u32], sentinels: std::ops::Range<u32>) -> Vec<u32> {
    let spans: Vec<&[u32]> = targets[..targets.len() - 1].split(|id| sentinels.contains(id)).collect();
    assert!(spans[0].is_empty(), "targets start with a sentinel: {targets:?}");
    let order: Vec<u32> = targets.iter().copied().filter(|id| sentinels.contains(id)).collect();
    let expected: Vec<u32> = (sentinels.start..sentinels.end).rev().take(order.len()).collect();
    assert_eq!(order, expected, "sentinels count down");
    let (mut tokens, mut used) = (Vec::new(), 0);
    for &id in &inputs[..inputs.len() - 1] {
        if sentinels.contains(&id) {
            assert_eq!(id, order[used]);
            used += 1;
            tokens.extend_from_slice(spans[used]);
        } else {
            tokens.push(id);
        }
    }
    assert!(used == order.len() || inputs.len() == 2, "{inputs:?} {targets:?}");
    tokens
}
