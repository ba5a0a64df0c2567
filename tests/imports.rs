//! Imports go one way: `isa` imports nothing from above, and the modules of a crate import each other in no circle.
//!
//! A module is a file. An edge between a module and an ancestor does not count as an import. Test modules may import
//! anything.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Path of a module below the crate's root.
type Module = Vec<String>;

/// Sources of every crate whose modules are checked.
const CRATES: [&str; 5] =
    ["kernels/src", "models/src", "models/cli/src", "benches/harness/src", "tests/verify/src"];

#[test]
fn isa_imports_nothing_from_above() {
    let modules = modules(Path::new("kernels/src"));
    assert!(modules.contains_key(&["isa".to_owned()][..]), "kernels/src/isa.rs is gone");
    for (module, source) in
        modules.iter().filter(|(module, _)| module[..].first().is_some_and(|m| m == "isa"))
    {
        for path in paths(source, module, &modules) {
            assert!(path[0] == "isa", "{} imports {}", module.join("::"), path.join("::"));
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    for root in CRATES {
        let modules = modules(Path::new(root));
        let mut imports: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, source) in &modules {
            for path in paths(source, module, &modules) {
                let imported = (1..=path.len()).rev().find_map(|len| modules.get_key_value(&path[..len]));
                let Some((imported, _)) = imported else { continue };
                if !imported.starts_with(module) && !module.starts_with(imported) {
                    imports.entry(module).or_default().insert(imported);
                }
            }
        }
        assert!(!imports.is_empty(), "no imports found in {root}");
        for start in imports.keys() {
            let mut trail = Vec::new();
            if leads_to(&imports, start, start, &mut trail, &mut BTreeSet::new()) {
                let trail: Vec<_> = trail.iter().map(|module| module.join("::")).collect();
                panic!("{root}: {} -> {}", start.join("::"), trail.join(" -> "));
            }
        }
    }
}

/// True if imports lead from `from` to `to`; `trail` then names the modules on the way.
fn leads_to<'m>(
    imports: &BTreeMap<&'m Module, BTreeSet<&'m Module>>,
    from: &Module,
    to: &Module,
    trail: &mut Vec<&'m Module>,
    seen: &mut BTreeSet<&'m Module>,
) -> bool {
    for &next in imports.get(from).into_iter().flatten() {
        trail.push(next);
        if next == to || seen.insert(next) && leads_to(imports, next, to, trail, seen) {
            return true;
        }
        trail.pop();
    }
    false
}

/// Sources of a crate's modules, without comments and test modules.
fn modules(root: &Path) -> BTreeMap<Module, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(root).unwrap().with_extension("");
                let mut module: Module =
                    relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
                if module.iter().any(|part| part == "tests" || part.ends_with("_tests")) || module.is_empty()
                {
                    continue;
                }
                let source = fs::read_to_string(&path).unwrap();
                let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
                found.insert(module, code.join("\n"));
            }
        }
    }
    found
}

/// Paths below the crate's root that the code of `module` names, in `use` declarations and elsewhere.
fn paths(code: &str, module: &Module, modules: &BTreeMap<Module, String>) -> Vec<Module> {
    let mut found = Vec::new();
    let mut expanded = String::new();
    // `use a::{b, c::{d, e}};` names `a::b`, `a::c::d` and `a::c::e`.
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at].chars().next_back().is_none_or(|c| c.is_whitespace());
        let (before, after) = rest.split_at(at);
        expanded.push_str(before);
        let end = after.find(';').unwrap_or(after.len());
        if starts {
            expand(&mut found, &[], &after[4..end]);
        }
        rest = &after[if starts { end } else { 4 }..];
    }
    expanded.push_str(rest);
    for prefix in ["crate::", "super::"] {
        let mut from = 0;
        while let Some(at) = expanded[from..].find(prefix).map(|at| from + at) {
            let path = expanded[at..].split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next();
            let path = path.unwrap_or_default();
            // A match inside a longer path is found from the beginning of that path.
            if !expanded[..at].ends_with("::") {
                found.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
            }
            from = at + prefix.len();
        }
    }
    found.into_iter().filter_map(|path: Module| absolute(path, module, modules)).collect()
}

/// Adds the paths of a `use` tree below `prefix`.
fn expand(found: &mut Vec<Module>, prefix: &[String], tree: &str) {
    let tree = tree.trim();
    let (head, list) = tree.split_once('{').map_or((tree, None), |(head, list)| (head, Some(list)));
    let head = head.split(" as ").next().unwrap();
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let path: Module = prefix.iter().cloned().chain(parts).collect();
    let Some(list) = list else { return found.push(path) };
    let list = list.trim_end().trim_end_matches('}');
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(found, &path, &list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !list[start..].trim().is_empty() {
        expand(found, &path, &list[start..]);
    }
}

/// The path from the crate's root; `None` for a path of another crate.
fn absolute(path: Module, module: &Module, modules: &BTreeMap<Module, String>) -> Option<Module> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let base = match path.first()?.as_str() {
        "crate" => Module::new(),
        "self" => module.clone(),
        "super" => module[..module.len().checked_sub(supers)?].to_vec(),
        child => {
            let mut of_child = module.clone();
            of_child.push(child.to_owned());
            modules.contains_key(&of_child).then(|| module.clone())?
        }
    };
    let rest = path.into_iter().skip_while(|part| ["crate", "self", "super"].contains(&part.as_str()));
    let absolute: Module = base.into_iter().chain(rest).collect();
    (!absolute.is_empty()).then_some(absolute)
}
