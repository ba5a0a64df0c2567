//! Scores of entities: spans of words of one type, from tags in IOB2.
//!
//! ```text
//! B-PER I-PER O B-LOC     entities: (PER, words 0..2), (LOC, words 3..4)
//! O I-PER I-LOC           a change of the type begins an entity without a B, too, as in conlleval
//! ```

/// Precision, recall and F1 of entities. Each is 0 if its denominator is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EntityScores {
    /// Share of the found entities that are right.
    pub precision: f64,
    /// Share of the gold entities that are found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
}

/// Scores of the entities of all sentences, as seqeval's default mode computes them. An entity is right if its type,
/// its first and its last word are.
pub fn entity_scores<T: AsRef<str>>(gold: &[Vec<T>], found: &[Vec<T>]) -> EntityScores {
    let [mut of_gold, mut of_found, mut hits] = [0.0; 3];
    for (gold, found) in gold.iter().zip(found) {
        let [gold, found] = [gold, found].map(|tags| entities(tags));
        of_gold += gold.len() as f64;
        of_found += found.len() as f64;
        hits += found.iter().filter(|&entity| gold.contains(entity)).count() as f64;
    }
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    EntityScores {
        precision: share(hits, of_found),
        recall: share(hits, of_gold),
        f1: share(2.0 * hits, of_gold + of_found),
    }
}

/// True if all labels are tags in IOB2, and one of them begins an entity.
pub fn is_iob2<T: AsRef<str>>(labels: &[T]) -> bool {
    let is_tag = |tag: &str| tag == "O" || tag.starts_with("B-") || tag.starts_with("I-");
    labels.iter().all(|label| is_tag(label.as_ref())) && labels.iter().any(|l| l.as_ref().starts_with("B-"))
}

/// Type, first word and end of each entity.
fn entities<T: AsRef<str>>(tags: &[T]) -> Vec<(&str, usize, usize)> {
    let mut entities: Vec<(&str, usize, usize)> = Vec::new();
    let mut inside = None;
    for (word, tag) in tags.iter().map(AsRef::as_ref).enumerate() {
        let kind = tag.strip_prefix("B-").or(tag.strip_prefix("I-"));
        match (kind, entities.last_mut()) {
            (Some(kind), Some(last)) if inside == Some(kind) && tag.starts_with("I-") => {
                last.2 = word + 1;
            }
            (Some(kind), _) => entities.push((kind, word, word + 1)),
            (None, _) => {}
        }
        inside = kind;
    }
    entities
}
