//! `tilewright bench`: filters, rows, baselines.

use super::{error, run};
use serde_json::Value;

/// Arguments that measure one tiny case briefly on one thread.
fn bench<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "linear/f32/8x8x8/packed", "--quick", "--threads", "1", "--isa", "portable"], more].concat()
}

#[test]
fn bench_lists_and_filters_cases() {
    let names = String::from_utf8(run(&["bench", "--list", "softmax", "64x64x64"], "").stdout).unwrap();
    assert!(names.lines().count() > 4, "{names}");
    assert!(names.lines().all(|name| name.contains("softmax") || name.contains("64x64x64")), "{names}");
    let refused = error(&["bench", "layrnorm"]);
    assert!(
        refused.contains("similar names: layernorm") && refused.contains("--list shows them"),
        "{refused}"
    );
    assert!(!error(&["bench", "no such case"]).contains("similar"));
    let list = |filter| String::from_utf8(run(&["bench", "--list", filter], "").stdout).unwrap();
    for (alias, name) in [("gemm", "linear"), ("matmul/f32/64", "linear/f32/64"), ("layer_norm", "layernorm")]
    {
        assert_eq!(list(alias), list(name), "{alias}");
    }
    let models = run(&["bench", "--list", "--batch", "3", "--seq", "40", "minilm"], "");
    assert_eq!(String::from_utf8(models.stdout).unwrap(), "model/minilm-l6/f32/B3 S40\n");
    let models = run(&["bench", "--list", "--dtype", "int8", "minilm-l6/int8/B1 S128"], "");
    assert_eq!(String::from_utf8(models.stdout).unwrap(), "model/minilm-l6/int8/B1 S128\n");

    let folder = tempfile::tempdir().unwrap();
    let shapes = folder.path().join("shapes");
    std::fs::write(&shapes, "# two products\n\n3x5:5x7\n1 x 8 : 8 x 9 # the second\n").unwrap();
    let shapes = shapes.to_str().unwrap();
    let names =
        String::from_utf8(run(&["bench", "--list", "--shapes", shapes, "/packed"], "").stdout).unwrap();
    assert_eq!(names, "linear/f32/3x5x7/packed\nlinear/f32/1x8x9/packed\n");
    std::fs::write(shapes, "3x5:5x7\n3x5:6x7\n").unwrap();
    let refused = error(&["bench", "--shapes", shapes]);
    assert!(refused.contains("line 2") && refused.contains("5 columns against 6 rows"), "{refused}");
}

#[test]
fn bench_writes_one_json_object_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (library, page, tables) = (file("none.so"), file("page.html"), file("tables.md"));
    let peer = format!("mkl={library}");
    let files = ["--html", &page, "--markdown", &tables];
    let output = run(&bench(&[&["--json", "-", "--memory", "--peer", &peer], &files[..]].concat()), "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("8x8x8") && stderr.contains("isa portable"), "tables on stderr: {stderr}");
    let row: Value = serde_json::from_slice(&output.stdout).expect("stdout is one line of JSON");
    let is = |key: &str, expected: Value| assert_eq!(row[key], expected, "{key}");
    is("kernel", "linear".into());
    is("dtype", "f32".into());
    is("shape", "8x8x8".into());
    is("isa", "portable".into());
    is("threads", 1.into());
    is("packed", true.into());
    let (seconds, gflops) = (row["median_s"].as_f64().unwrap(), row["gflops"].as_f64().unwrap());
    assert!((gflops * seconds * 1e9 - 1024.0).abs() < 1e-6, "{row}");
    assert!(row["bound_fraction"].as_f64().unwrap() > 0.0 && row["peers"].is_object(), "{row}");
    assert!(row["peak_bytes"].is_u64(), "{row}");
    // The notes name a library that cannot be loaded.
    assert!(row["notes"].to_string().contains(&library) && stderr.contains(&library), "{row}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("8x8x8") && html.contains(&library), "{html}");
    // The same tables again, from the rows.
    let (rows, again) = (file("rows.jsonl"), file("again.md"));
    std::fs::write(&rows, &output.stdout).unwrap();
    let by_hand = "<!-- `tilewright bench --markdown` keeps the text below this line. -->\n\nA chapter.\n";
    std::fs::write(&again, format!("old tables\n{by_hand}")).unwrap();
    assert!(run(&["bench", "--markdown", &again, "--from", &rows], "").status.success());
    let [tables, again] = [tables, again].map(|path| std::fs::read_to_string(path).unwrap());
    assert!(
        again == format!("{tables}\n{by_hand}") && tables.contains("| linear | f32 | 8x8x8 | packed |"),
        "{tables}\n{again}"
    );
    std::fs::write(&rows, "{}\n").unwrap();
    assert!(
        error(&["bench", "--markdown", "x.md", "--from", &rows]).contains("rows.jsonl, line 1: not a row")
    );
}

#[test]
fn bench_takes_the_inputs_of_layers() {
    let row = |more: &[&str]| -> Value {
        let model = ["bench", "model/minilm-l6", "--batch", "1", "--seq", "4", "--quick", "--threads", "1"];
        let output = run(&[&model[..], &["--dtype", "q8_0", "--json", "-"], more].concat(), "");
        serde_json::from_slice(&output.stdout).expect("stdout is one line of JSON")
    };
    assert_eq!(row(&["--layer-inputs", "rounded"])["layer_inputs"], "rounded");
    assert!(row(&["--layer-inputs", "exact"])["layer_inputs"].is_null(), "the default");
}

#[test]
fn bench_keeps_baselines_and_compares_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let baselines = ["--baselines", folder.path().to_str().unwrap(), "--apart", "0"];
    let with = |more: &[&'static str]| bench(&[&baselines[..], more].concat()).join("\n");
    let run = |arguments: String| run(&arguments.split('\n').collect::<Vec<_>>(), "");
    let refused = String::from_utf8(run(with(&["--compare", "a"])).stderr).unwrap();
    assert!(refused.contains("no baseline \"a\" in ") && refused.contains("--save"), "{refused}");
    assert!(run(with(&["--save", "a"])).status.success());
    // The threshold exceeds all noise: the test only checks that rows are found and compared.
    let output = run(with(&["--compare", "a", "--threshold", "900"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("0 slower, 0 faster, 1 the same"), "{text}");

    // A baseline that is a thousand times as fast, then one of another machine.
    let file = folder.path().join("a.json");
    let mut saved: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for samples in ["samples_s", "visits_s"] {
        for sample in saved["rows"][0][samples].as_array_mut().unwrap() {
            *sample = (sample.as_f64().unwrap() / 1000.0).into();
        }
    }
    std::fs::write(&file, saved.to_string()).unwrap();
    let output = run(with(&["--compare", "a"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let slower = text.lines().find(|line| line.contains("SLOWER")).unwrap_or_default();
    assert!(slower.contains("linear/f32/8x8x8/packed/portable/1t"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 row is slower by more than 5%"));
    saved["machine"]["cpu"] = "another CPU".into();
    std::fs::write(&file, saved.to_string()).unwrap();
    let refused = String::from_utf8(run(with(&["--compare", "a"])).stderr).unwrap();
    assert!(refused.contains("another machine (cpu was another CPU, is "), "{refused}");
    assert!(refused.contains("--any-machine"), "{refused}");
    assert_eq!(run(with(&["--compare", "a", "--any-machine"])).status.code(), Some(1));
    let refused = String::from_utf8(run(with(&["--save", "../a"])).stderr).unwrap();
    assert!(refused.contains("is not a baseline name"), "{refused}");
}
