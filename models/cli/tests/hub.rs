//! `--model ORG/NAME`, against a server of the Hub's files on this machine.
#![forbid(unsafe_code)]
#![cfg(feature = "hub")]

use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join("tests/golden").join(name)
}

/// The files of a golden directory, by their names in the repository.
fn files(name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![golden(name)];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let file = path.strip_prefix(golden(name)).unwrap().to_str().unwrap().to_owned();
                found.insert(file, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Serves repositories: `/ORG/NAME/resolve/REVISION/FILE`.
struct Hub {
    address: String,
    /// Distinct paths of all requests.
    asked: Arc<Mutex<Vec<String>>>,
    /// True if connections break in the middle of model.safetensors.
    breaks: Arc<AtomicBool>,
    /// True if commands must not connect to the server.
    offline: AtomicBool,
}

impl Hub {
    fn serve(repositories: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let hub =
            Self { address, asked: Arc::default(), breaks: Arc::default(), offline: AtomicBool::default() };
        let (asked, breaks) = (hub.asked.clone(), hub.breaks.clone());
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let breaks = breaks.load(Ordering::Relaxed);
                // Clients may close the connection at any time.
                let _ = answer(connection, &repositories, &asked, breaks);
            }
        });
        hub
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn run(&self, home: &Path, arguments: &[&str]) -> Output {
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilewright"));
        for proxy in proxies {
            command.env_remove(proxy);
        }
        if self.offline.load(Ordering::Relaxed) {
            command.env("HF_HUB_OFFLINE", "1");
        }
        command
            .args(arguments)
            .env_remove("TILEWRIGHT_ISA")
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", home)
            .env("HF_TOKEN", "a secret")
            .output()
            .unwrap()
    }

    fn json(&self, home: &Path, arguments: &[&str]) -> Value {
        let output = self.run(home, &[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn error(&self, home: &Path, arguments: &[&str]) -> String {
        let output = self.run(home, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn answer(
    mut connection: TcpStream,
    repositories: &BTreeMap<&str, BTreeMap<String, Vec<u8>>>,
    asked: &Mutex<Vec<String>>,
    breaks: bool,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut start, mut last, mut token) = (0, None, String::new());
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => token = value.trim().to_owned(),
            "range" => {
                let range = value.trim().strip_prefix("bytes=").unwrap();
                let (from, to) = range.split_once('-').unwrap();
                (start, last) = (from.parse().unwrap(), to.parse::<usize>().ok());
            }
            _ => {}
        }
    }
    assert_eq!(token, "Bearer a secret");
    let mut asked = asked.lock().unwrap();
    if !asked.contains(&path) {
        asked.push(path.clone());
    }
    drop(asked);

    let parts: Vec<&str> = path.splitn(6, '/').collect();
    let bytes = match parts[..] {
        ["", "acme", "closed", ..] => {
            return connection
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        ["", organisation, name, "resolve", _, file] => {
            repositories.get(format!("{organisation}/{name}").as_str()).and_then(|files| files.get(file))
        }
        _ => None,
    };
    let Some(bytes) = bytes else {
        return connection
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let part = &bytes[start..last.map_or(bytes.len(), |last| last + 1)];
    // Any name that identifies the content is valid.
    let etag = bytes.iter().fold(1u64, |h, &b| h.wrapping_mul(31).wrapping_add(b.into()));
    write!(
        connection,
        "HTTP/1.1 206 Partial Content\r\nETag: \"{etag:x}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {}\r\n\
         Content-Range: bytes {start}-{}/{}\r\nConnection: close\r\n\r\n",
        part.len(),
        start + part.len() - 1,
        bytes.len()
    )?;
    let sent =
        if breaks && path.ends_with("model.safetensors") { part.len().div_ceil(2) } else { part.len() };
    connection.write_all(&part[..sent])?;
    // Closing a connection with unread data resets it.
    connection.shutdown(std::net::Shutdown::Write)?;
    connection.read_to_end(&mut Vec::new()).map(drop)
}

/// All files below `folder`.
fn tree(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<String> = paths
        .flat_map(|path| match path.is_dir() {
            true => tree(&path),
            false => vec![path.to_str().unwrap().to_owned()],
        })
        .collect();
    found.sort();
    found
}

/// Splits the tensors of a file into two files with an index.
fn in_shards(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let bytes = files.remove("model.safetensors").unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let (mut shards, mut map) = ([Vec::new(), Vec::new()], serde_json::Map::new());
    for (i, (name, tensor)) in whole.tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1).into());
        shards[i % 2].push((name, tensor));
    }
    for (i, tensors) in shards.into_iter().enumerate() {
        let shard = safetensors::serialize(tensors, None).unwrap();
        files.insert(format!("model-0000{}-of-00002.safetensors", i + 1), shard);
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    files.insert("model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
    files
}

#[test]
fn names_are_downloaded_once() {
    let hub = Hub::serve(BTreeMap::from([
        ("acme/tiny", files("bert-model")),
        ("acme/shards", in_shards(files("bert-model"))),
    ]));
    let home = tempfile::tempdir().unwrap();
    let dir = golden("bert-model");
    let embed = |model: &str| {
        hub.json(home.path(), &["embed", "--model", model, "--isa", "portable", "the cat sat"])["embeddings"]
            .clone()
    };
    let expected = embed(dir.to_str().unwrap());
    assert!(hub.asked().is_empty(), "a directory is no name");
    assert_eq!(embed("acme/tiny"), expected);
    let asked = hub.asked();
    let of = |file: &str| format!("/acme/tiny/resolve/main/{file}");
    assert_eq!(asked.first(), Some(&of("config.json")));
    assert_eq!(asked.last(), Some(&of("model.safetensors")));
    for file in ["1_Pooling/config.json", "modules.json", "tokenizer_config.json", "chat_template.jinja"] {
        assert!(asked.contains(&of(file)), "{file}: {asked:?}");
    }
    let snapshot = home.path().join("hub/models--acme--tiny/snapshots").join(COMMIT);
    assert_eq!(std::fs::read(snapshot.join("config.json")).unwrap(), files("bert-model")["config.json"]);
    assert_eq!(embed("acme/tiny"), expected);
    assert!(hub.asked().is_empty(), "all is in the cache");

    // A cache by another program, which did not download every file that this command reads.
    let absent = home.path().join("hub/models--acme--tiny/.no_exist").join(COMMIT);
    assert!(absent.join("chat_template.jinja").exists());
    std::fs::remove_dir_all(absent).unwrap();
    hub.offline.store(true, Ordering::Relaxed);
    assert_eq!(embed("acme/tiny"), expected);
    let refused = hub.error(home.path(), &["info", "--model", "acme/shards"]);
    assert!(
        refused.contains("acme/shards: the cache lacks files of it, and HF_HUB_OFFLINE is set"),
        "{refused}"
    );
    assert!(hub.asked().is_empty());
    hub.offline.store(false, Ordering::Relaxed);
    std::fs::remove_file(snapshot.join("1_Pooling/config.json")).unwrap();
    assert_eq!(embed("acme/tiny"), expected);
    let asked = hub.asked();
    assert!(
        asked.contains(&of("1_Pooling/config.json")) && !asked.contains(&of("model.safetensors")),
        "{asked:?}"
    );

    assert_eq!(embed("acme/shards@v1"), expected);
    let shard = "/acme/shards/resolve/v1/model-00002-of-00002.safetensors".to_owned();
    assert!(hub.asked().contains(&shard));
    assert_eq!(embed("acme/shards@v1"), expected);
    assert!(hub.asked().is_empty(), "all shards are in the cache");
}

#[test]
fn what_is_not_there_is_named_and_leaves_nothing() {
    let mut lacking = files("bert-model");
    lacking.remove("model.safetensors");
    let hub = Hub::serve(BTreeMap::from([("acme/lacking", lacking)]));
    let home = tempfile::tempdir().unwrap();
    let error = |model: &str| hub.error(home.path(), &["info", "--model", model]);
    let refused = error("acme/none");
    assert!(
        refused.contains("acme/none: no config.json in the repository, or no such repository"),
        "{refused}"
    );
    assert!(refused.contains("404"), "{refused}");
    let refused = error("acme/closed");
    assert!(refused.contains("acme/closed: no such repository, or HF_TOKEN does not open it"), "{refused}");
    assert_eq!(tree(home.path()), [""; 0]);
    let refused = error("acme/lacking");
    assert!(refused.contains("acme/lacking: neither model.safetensors nor"), "{refused}");
    let refused = error("acme/none/model.gguf");
    assert!(refused.contains("acme/none/model.gguf") && !refused.contains("404"), "{refused}");
    assert!(hub.asked().iter().all(|path| !path.contains("gguf")));
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let hub = Hub::serve(BTreeMap::from([("acme/tiny", files("bert-model"))]));
    let home = tempfile::tempdir().unwrap();
    let arguments = ["info", "--model", "acme/tiny"];
    hub.breaks.store(true, Ordering::Relaxed);
    let refused = hub.error(home.path(), &arguments);
    assert!(
        refused.contains("acme/tiny: cannot download") && refused.contains("model.safetensors"),
        "{refused}"
    );
    let left = tree(home.path());
    assert!(!left.iter().any(|path| path.ends_with("/model.safetensors")), "half a file: {left:?}");
    assert!(left.iter().any(|path| path.ends_with(".part")), "{left:?}");
    hub.breaks.store(false, Ordering::Relaxed);
    assert_eq!(hub.json(home.path(), &arguments)["architecture"], "BertModel");
    assert!(!tree(home.path()).iter().any(|path| path.ends_with(".part")));
}
