//! The structure rules of ARCHITECTURE.md as tests: which crate may know which, where unsafe code may be, that the two walks can be followed.
#![allow(clippy::unwrap_used)]

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use turnpike_tests::bed::workspace;

/// What each package may depend on inside the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("turnpike-wire", &[]),
    ("turnpike-shm", &[]),
    ("turnpike-packet", &[]),
    ("turnpike-forward", &["turnpike-packet", "turnpike-wire"]),
    ("dpdk-sys", &[]),
    ("capsule", &["dpdk-sys", "turnpike-packet"]),
    (
        "turnpike-dataplane",
        &["capsule", "turnpike-forward", "turnpike-packet", "turnpike-shm", "turnpike-wire"],
    ),
    ("turnpike-desired", &["turnpike-wire"]),
    ("turnpike-controlplane", &["turnpike-desired", "turnpike-shm", "turnpike-wire"]),
    ("turnpike", &["turnpike-wire"]),
    ("turnpike-tests", &[]),
    (
        "turnpike-benches",
        &[
            "capsule",
            "turnpike-desired",
            "turnpike-forward",
            "turnpike-packet",
            "turnpike-shm",
            "turnpike-wire",
        ],
    ),
];

/// What the packet path and the pure crates must not pull in, directly or through others.
const PURE: &[&str] = &["turnpike-wire", "turnpike-packet", "turnpike-forward", "turnpike-desired"];
const IMPURE: &[&str] = &["tokio", "tracing", "dpdk-sys", "etcd-client", "rustix"];

/// Where the word may stand that says the compiler cannot check.
const UNSAFE: &[&str] =
    &["proto/shm/", "dataplane/dpdk-sys/", "dataplane/capsule/", "dataplane/forward/src/cpu.rs"];

const PACKET_WALK: &[&str] = &[
    "dataplane/capsule/src/rx.rs",
    "dataplane/forward/src/worker.rs",
    "dataplane/forward/src/parse.rs",
    "dataplane/forward/src/select.rs",
    "dataplane/forward/src/rewrite.rs",
    "dataplane/capsule/src/tx.rs",
];
const SERVICE_WALK: &[&str] = &[
    "controlplane/daemon/src/etcd/source.rs",
    "controlplane/desired/src/envelope.rs",
    "controlplane/desired/src/tracker.rs",
    "controlplane/desired/src/resolve.rs",
    "controlplane/desired/src/diff.rs",
    "controlplane/daemon/src/publish.rs",
    "dataplane/daemon/src/control.rs",
    "dataplane/forward/src/stage.rs",
    "dataplane/forward/src/mailbox.rs",
];

#[test]
fn crates_know_only_whom_they_may() {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .other_options(vec!["--locked".into()])
        .exec()
        .unwrap();
    let members: BTreeMap<String, BTreeSet<String>> = metadata
        .workspace_packages()
        .iter()
        .map(|package| {
            let normal =
                package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal && d.path.is_some());
            (package.name.to_string(), normal.map(|d| d.name.clone()).collect())
        })
        .collect();
    assert_eq!(
        members.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        ARROWS.iter().map(|a| a.0).collect()
    );
    for (package, allowed) in ARROWS {
        let allowed: BTreeSet<String> = allowed.iter().map(|&a| a.to_owned()).collect();
        let more: Vec<_> = members[*package].difference(&allowed).collect();
        assert!(more.is_empty(), "{package} must not depend on {more:?}");
    }

    let resolve = metadata.resolve.unwrap();
    let names: BTreeMap<_, _> =
        metadata.packages.iter().map(|p| (p.id.clone(), p.name.to_string())).collect();
    for pure in PURE {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = names.iter().filter(|(_, n)| n == pure).map(|(id, _)| id.clone()).collect();
        while let Some(id) = next.pop() {
            let node = resolve.nodes.iter().find(|n| n.id == id).unwrap();
            for dependency in &node.deps {
                let normal = dependency.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
                if normal && seen.insert(dependency.pkg.clone()) {
                    next.push(dependency.pkg.clone());
                }
            }
        }
        let impure: Vec<_> =
            seen.iter().map(|id| &names[id]).filter(|n| IMPURE.contains(&n.as_str())).collect();
        assert!(impure.is_empty(), "{pure} must not pull in {impure:?}");
    }
}

/// Every Rust source of the workspace, by its path from the root.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() && !entry.ends_with("target") {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                found.push(entry);
            }
        }
    }
    let root = workspace();
    let mut found = Vec::new();
    for folder in ["proto", "dataplane", "controlplane", "tests", "benches"] {
        walk(&root.join(folder), &mut found);
    }
    found.sort();
    found
        .iter()
        .map(|p| {
            (p.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), fs::read_to_string(p).unwrap())
        })
        .collect()
}

#[test]
fn unsafe_code_is_where_it_may_be_and_forbidden_elsewhere() {
    let unchecked = ["un", "safe "].concat();
    for (path, text) in sources() {
        if UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let bad: Vec<_> = code
            .filter(|l| {
                l.contains(&format!("{unchecked}{{"))
                    || l.contains(&format!("{unchecked}fn"))
                    || l.contains(&format!("{unchecked}impl"))
            })
            .collect();
        assert!(bad.is_empty(), "{path}: {bad:?}");
        let is_root = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
        if is_root && path != "dataplane/forward/src/lib.rs" {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path} must forbid it");
        }
    }
}

#[test]
fn both_walks_can_be_followed() {
    for path in PACKET_WALK.iter().chain(SERVICE_WALK) {
        let text = fs::read_to_string(workspace().join(path))
            .unwrap_or_else(|e| panic!("{path} is part of a walk: {e}"));
        assert!(text.starts_with("//! "), "{path} must open by saying what it does in the walk");
    }
    let map = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    for walk in [PACKET_WALK, SERVICE_WALK] {
        let mut rest = map.as_str();
        for path in walk {
            let at = rest
                .find(path)
                .unwrap_or_else(|| panic!("ARCHITECTURE.md must name {path}, in the order of the walk"));
            rest = &rest[at + path.len()..];
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(p, t)| (p, t.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn nothing_says_that_it_is_unfinished() {
    let words: Vec<String> =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["to", "do!("], ["unimple", "mented!("], ["#[ig", "nore"]]
            .iter()
            .map(|w| w.concat())
            .collect();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let found: Vec<_> = words.iter().filter(|w| line.contains(w.as_str())).collect();
            assert!(found.is_empty(), "{path}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn the_top_level_is_as_decided() {
    let allowed =
        ["dataplane", "controlplane", "proto", "scripts", "benches", "tests", "target", ".git", ".ci"];
    for entry in fs::read_dir(workspace()).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(
            !entry.file_type().unwrap().is_dir() || allowed.contains(&name.as_str()),
            "no folder {name} at the top"
        );
    }
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "GUIDE.md",
        "CHANGELOG.md",
        "LICENSE",
        "deny.toml",
        "clippy.toml",
        "rust-toolchain.toml",
        ".ci/run",
        "scripts/quickstart",
        "scripts/test",
        "scripts/bench",
    ] {
        assert!(workspace().join(file).exists(), "{file} is missing");
    }
    let ci = fs::read_to_string(workspace().join(".ci/run")).unwrap();
    assert!(ci.contains("scripts/test"));
}

#[test]
fn every_verdict_is_explained_to_operators() {
    let guide = fs::read_to_string(workspace().join("GUIDE.md")).unwrap();
    let source = fs::read_to_string(workspace().join("dataplane/forward/src/verdict.rs")).unwrap();
    let names: Vec<&str> = source
        .lines()
        .filter_map(|l| l.trim().strip_suffix("\",")?.split_once(" = \"").map(|p| p.1))
        .collect();
    assert!(names.len() > 30, "the table of verdicts was not found");
    for name in names {
        assert!(guide.contains(&format!("`{name}`")), "GUIDE.md must explain the verdict {name}");
    }
}

#[test]
fn every_test_of_the_whole_is_run() {
    let manifest = fs::read_to_string(workspace().join("tests/Cargo.toml")).unwrap();
    let run = fs::read_to_string(workspace().join("scripts/test")).unwrap();
    let names = manifest.split("[[test]]").skip(1).filter_map(|section| section.split('"').nth(1));
    let words: Vec<&str> = run.split_whitespace().collect();
    let left_out: Vec<&str> =
        names.filter(|name| !words.windows(2).any(|pair| pair == ["--test", name])).collect();
    assert!(left_out.is_empty(), "scripts/test leaves out {left_out:?}");
}
