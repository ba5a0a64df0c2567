//! Checkpoints by name: names of repositories on the Hugging Face Hub, and their download to the Hub's cache.
//! Downloads need the feature `hub`.

use std::fmt::{Display, Formatter};
use std::path::Path;

/// `ORG/NAME` or `ORG/NAME@REVISION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    repository: &'a str,
    revision: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// Parses `model`; `None` if it cannot be a name on the Hub.
    pub fn parse(model: &'a Path) -> Option<Self> {
        let text = model.to_str()?;
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        // A repository may have such a name, but the user means a file.
        let of_file = [".gguf", ".json", ".safetensors"].iter().any(|end| repository.ends_with(end));
        let plain = |text: &str, more: &str| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(of_name)
        };
        let (organisation, name) = repository.split_once('/')?;
        let valid = plain(organisation, "-_.")
            && plain(name, "-_.")
            && !of_file
            && revision.is_none_or(|revision| plain(revision, "-_./") && !revision.contains(".."));
        valid.then_some(Self { repository, revision })
    }
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.repository)?;
        self.revision.map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

#[cfg(not(feature = "hub"))]
pub fn download(name: &Name<'_>) -> anyhow::Result<std::path::PathBuf> {
    anyhow::bail!(
        "{name}: no such file or directory. This build cannot download from the Hugging Face Hub; to build one that \
         can: `cargo build --release --package tilewright-cli --features hub`"
    )
}

#[cfg(feature = "hub")]
pub use with_hub::download;

#[cfg(feature = "hub")]
mod with_hub {
    use super::Name;
    use anyhow::{Context as _, Result, bail};
    use hf_hub::api::Progress;
    use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
    use hf_hub::{Cache, CacheRepo, Repo, RepoType};
    use indicatif::{ProgressBar, ProgressStyle};
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use tilewright::checkpoint::{files, weights};

    /// Optional files of a checkpoint, beside its config and its weights.
    const OPTIONAL: [&str; 8] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ];
    const WEIGHTS: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";

    /// Number of times that an interrupted transfer resumes.
    const RETRIES: usize = 2;

    /// The directory of the checkpoint `name` in the cache. Downloads the files that the cache lacks, unless
    /// HF_HUB_OFFLINE is set.
    ///
    /// # Errors
    /// If the Hub cannot be reached, has no such repository, or the repository has no config or no weights.
    pub fn download(name: &Name<'_>) -> Result<PathBuf> {
        let revision = name.revision.unwrap_or("main").to_owned();
        let repo = Repo::with_revision(name.repository.to_owned(), RepoType::Model, revision);
        let cache = Cache::from_env().repo(repo.clone());
        let offline = std::env::var("HF_HUB_OFFLINE")
            .is_ok_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()));
        if let Some(dir) = complete(&cache, offline) {
            return Ok(dir);
        }
        if offline {
            bail!("{name}: the cache lacks files of it, and HF_HUB_OFFLINE is set");
        }
        let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(RETRIES);
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        let hub = Hub { name, cache, api: builder.build()?.repo(repo) };

        let config = hub.needed("config.json")?;
        for file in OPTIONAL {
            if hub.optional(file)?.is_none()
                && let Some(marker) = marker(&hub.cache, file)
            {
                std::fs::create_dir_all(marker.parent().context("a marker is in a directory")?)?;
                std::fs::write(marker, "")?;
            }
        }
        let mut files = vec![hub.optional(WEIGHTS)?];
        if files[0].is_none() {
            let Some(index) = hub.optional(INDEX)? else {
                bail!("{name}: neither {WEIGHTS} nor {INDEX} is in the repository");
            };
            let of_index = weights::read_index(&index, &files::bytes(&index)?)?;
            for file in of_index.into_values().collect::<BTreeSet<_>>() {
                files.push(Some(hub.needed(&file)?));
            }
        }
        let dir = config.parent().context("config.json is in no directory")?;
        if files.iter().flatten().any(|file| file.parent() != Some(dir)) {
            bail!("{name}: the repository changed during the download; run the command again");
        }
        Ok(dir.to_owned())
    }

    /// Path in the cache that records a file missing from the repository, as huggingface_hub writes it.
    fn marker(cache: &CacheRepo, file: &str) -> Option<PathBuf> {
        let config = cache.get("config.json")?;
        let snapshot = config.parent()?;
        Some(snapshot.parent()?.parent()?.join(".no_exist").join(snapshot.file_name()?).join(file))
    }

    /// The directory in the cache if it is complete; the Hub is not asked then. Other programs cache only the files
    /// that they read, so optional files may be missing; `offline` accepts this.
    fn complete(cache: &CacheRepo, offline: bool) -> Option<PathBuf> {
        let dir = cache.get("config.json")?.parent()?.to_owned();
        let known = |file: &str| {
            cache.get(file).is_some() || marker(cache, file).is_some_and(|marker| marker.exists())
        };
        (offline || OPTIONAL.into_iter().all(known)).then_some(())?;
        if cache.get(WEIGHTS).is_none() {
            let index = cache.get(INDEX)?;
            let of_index = weights::read_index(&index, &files::bytes(&index).ok()?).ok()?;
            of_index.values().all(|file| dir.join(file).exists()).then_some(())?;
        }
        Some(dir)
    }

    struct Hub<'a> {
        name: &'a Name<'a>,
        cache: CacheRepo,
        api: ApiRepo,
    }

    impl Hub<'_> {
        fn needed(&self, file: &str) -> Result<PathBuf> {
            let url = self.api.url(file);
            self.optional(file)?.with_context(|| {
                format!("{}: no {file} in the repository, or no such repository (404 for {url})", self.name)
            })
        }

        /// Path of the file in the cache, downloaded if need be; `None` if the repository lacks the file.
        fn optional(&self, file: &str) -> Result<Option<PathBuf>> {
            if let Some(path) = self.cache.get(file) {
                return Ok(Some(path));
            }
            let bar = Bar(ProgressBar::no_length().with_style(style()));
            match self.api.download_with_progress(file, bar) {
                Ok(path) => Ok(Some(path)),
                Err(ApiError::RequestError(e)) if matches!(*e, ureq::Error::StatusCode(404)) => Ok(None),
                Err(ApiError::RequestError(e)) if matches!(*e, ureq::Error::StatusCode(401 | 403)) => {
                    let url = self.api.url(file);
                    bail!("{}: no such repository, or HF_TOKEN does not open it ({e} for {url})", self.name)
                }
                Err(e) => {
                    Err(e).with_context(|| format!("{}: cannot download {}", self.name, self.api.url(file)))
                }
            }
        }
    }

    /// Progress bar of a transfer, on stderr if it is a terminal.
    struct Bar(ProgressBar);

    impl Progress for Bar {
        fn init(&mut self, size: usize, file: &str) {
            self.0.set_length(size as u64);
            self.0.set_position(0);
            self.0.set_message(file.to_owned());
        }

        fn update(&mut self, size: usize) {
            self.0.inc(size as u64);
        }

        fn finish(&mut self) {
            self.0.finish_and_clear();
        }
    }

    fn style() -> ProgressStyle {
        ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} {msg} (about {eta} left)")
            .expect("a valid template")
    }
}

#[cfg(test)]
mod tests {
    use super::Name;
    use std::path::Path;

    #[test]
    fn names_are_told_from_paths() {
        let parse = |text: &str| Name::parse(Path::new(text)).map(|name| name.to_string());
        for name in ["acme/tiny", "Acme-AI/tiny_1.5-b", "acme/tiny@v1.0", "acme/tiny@refs/pr/1"] {
            assert_eq!(parse(name).as_deref(), Some(name));
        }
        for path in [
            "tiny",
            "./tiny",
            "../tiny",
            "/acme/tiny",
            "acme/",
            "acme/tiny/",
            "acme/big/tiny",
            "acme/tiny.gguf",
            "acme/my model",
            "acme/tiny@",
            "acme/tiny@a/../b",
            "@v1",
            "~/tiny",
            "acme/..",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
