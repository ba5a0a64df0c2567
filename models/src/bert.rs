//! BERT (Devlin et al. 2018, arXiv:1810.04805): a bidirectional encoder and its heads.
//!
//! ```text
//! x = LN(word[id] + position[i] + token_type[t])
//! each layer:  x = LN(x + dense(attention(x)))
//!              x = LN(x + dense(GELU(dense(x))))
//! pooler       tanh(dense(x of token 0))
//! heads        masked language model   decoder(LN(GELU(dense(x)))), decoder = word table^T + bias
//!              next sentence           dense(pooler): label 0 is the next, 1 a random one
//!              class of a sequence     dense(pooler)
//!              class of a token        dense(x)
//!              answer to a question    dense(x): a score for its start and one for its end
//!              choice of several       dense(pooler): a score for each sequence
//! ```
//!
//! [`roberta`](crate::roberta), [`albert`](crate::albert) and [`electra`](crate::electra) use this
//! [`Encoder`] with another [`EncoderPlan`] and other [heads](crate::heads).

use crate::arithmetic::Arithmetic;
use crate::checkpoint::weights::Weights;
use crate::encoder::{Encoder, EncoderPlan};
use crate::error::Error;
use crate::heads::{EncoderModel, Head, HeadKind, HeadReader, PredictionNames};
use tilewright_kernels::Activation;

/// BERT's config.json, which the configs of RoBERTa, ALBERT and ELECTRA contain.
pub use crate::encoder::Config;

/// Opens BERT with the head `task` from `weights`, whose names may lack the prefix `bert.`.
///
/// # Errors
/// See [`Weights::get`]; [`Error::Input`] if the config has a size of 0 or another impossible value.
pub fn open(config: Config, weights: Weights, on: Arithmetic, task: HeadKind) -> Result<EncoderModel, Error> {
    let weights = weights.with_base("bert.");
    let of = HeadReader { config: &config, embedding_size: config.hidden_size, weights: &weights, on };
    let labels = config.num_labels();
    let pooler = || of.pooler("bert.pooler.dense", Some(Activation::Tanh));
    let predictions = || {
        let names = PredictionNames {
            dense: "cls.predictions.transform.dense",
            layer_norm: "cls.predictions.transform.LayerNorm",
            word_embeddings: "bert.embeddings.word_embeddings.weight",
            decoder: "cls.predictions.decoder",
            bias: "cls.predictions.bias",
        };
        of.predictions(names, config.hidden_act)
    };
    let next = || of.classifier("cls.seq_relationship", 2);
    let head = match task {
        HeadKind::Bare => Head::Bare(of.has("bert.pooler.dense.weight").then(pooler).transpose()?),
        HeadKind::MaskedLm => Head::MaskedLm(predictions()?),
        HeadKind::NextSentence => Head::Sequence(pooler()?, next()?),
        HeadKind::PreTraining => {
            Head::PreTraining(predictions()?, pooler()?, ("seq_relationship_logits", next()?))
        }
        HeadKind::SequenceClassification => Head::Sequence(pooler()?, of.classifier("classifier", labels)?),
        HeadKind::TokenClassification => of.token_classes("classifier")?,
        HeadKind::QuestionAnswering => Head::QuestionAnswering(of.classifier("qa_outputs", 2)?),
        HeadKind::MultipleChoice => Head::MultipleChoice(pooler()?, of.classifier("classifier", 1)?),
    };
    let plan = EncoderPlan::bert("bert.", &config);
    Ok(EncoderModel::new(Encoder::open(config, plan, &weights, on)?, head))
}
