//! Selection of cases by the arguments of `tilewright bench`.

use super::Bench;
use anyhow::{Result, bail};
use tilewright_bench::case::{Case, DTYPES, dtype_name};
use tilewright_bench::{models::Task, registry};
use tilewright_peers::Dtype;

impl Bench {
    /// The cases of the types, filters, shapes and tasks in the arguments.
    pub(super) fn cases(&self) -> Result<Vec<Case>> {
        let all_filters: Vec<String> = self.filters.iter().map(|filter| registry::resolve(filter)).collect();
        let mut cases = Vec::new();
        for dtype in DTYPES {
            let name = dtype_name(dtype);
            // Without --dtype, a filter selects types other than f32: `layernorm/bf16`.
            let filters: Vec<&str> = match self.dtype {
                Some(asked) if asked != dtype => continue,
                None if dtype != Dtype::F32 => {
                    let names_it = |filter: &&str| filter.split('/').any(|part| part == name);
                    let filters: Vec<_> = all_filters.iter().map(String::as_str).filter(names_it).collect();
                    if filters.is_empty() {
                        continue;
                    }
                    filters
                }
                _ => all_filters.iter().map(String::as_str).collect(),
            };
            let mut of_type = match &self.shapes {
                Some(path) => registry::linear(&registry::read_shapes(path)?, dtype),
                None => registry::cases(dtype),
            };
            if let (Some(batch), Some(seq)) = (self.batch, self.seq) {
                let task = Task::Forward { batch: batch.into(), length: seq.into() };
                let models = registry::models(Some(task));
                of_type = models.map(|operation| Case { dtype, operation }).collect();
            }
            of_type.retain(|case| {
                let name = case.name();
                filters.is_empty() || filters.iter().any(|filter| name.contains(filter))
            });
            cases.extend(of_type);
        }
        if cases.is_empty() {
            let dtype = dtype_name(self.dtype.unwrap_or(Dtype::F32));
            let near = near(&self.filters);
            let near = if near.is_empty() { near } else { format!("; similar names: {near}") };
            bail!("no case of {dtype} has a name that contains {:?}{near}; --list shows them", self.filters);
        }
        Ok(cases)
    }
}

/// Minimum Jaro-Winkler similarity of a suggested name: `layrnorm` and `layernorm` have 0.97.
const SIMILAR: f64 = 0.8;

/// Names of kernels and models with a spelling similar to the first part of a filter, most similar first.
fn near(filters: &[String]) -> String {
    let mut found: Vec<(f64, &str)> = Vec::new();
    for filter in filters {
        let head = filter.trim_start_matches("model/").split('/').next().unwrap_or_default().to_lowercase();
        let similarity = |name: &str| strsim::jaro_winkler(&head, name.trim_start_matches("model/"));
        found.extend(registry::names().map(|name| (similarity(name), name)));
    }
    found.retain(|(similarity, _)| *similarity >= SIMILAR);
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut names: Vec<&str> = found.into_iter().map(|(_, name)| name).take(5).collect();
    names.dedup();
    names.join(", ")
}
