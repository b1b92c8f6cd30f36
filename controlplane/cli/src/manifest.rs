//! Manifests: YAML or JSON, several documents a file, files, folders, standard input. Every error names file and document.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use turnpike_wire::admin::ObjectName;

/// The objects of all files in order; a `List` counts as its items.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file.is_dir() {
            let mut inside: Vec<PathBuf> = folder(file)?;
            inside.sort();
            for file in inside {
                read(&file, &mut objects)?;
            }
        } else {
            read(file, &mut objects)?;
        }
    }
    if objects.is_empty() {
        bail!("there is no object in what was given");
    }
    Ok(objects)
}

/// The manifests of a folder, not of the folders in it.
fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("cannot read the folder {}", path.display()))?.path();
        let is_manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if is_manifest && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("the folder {} holds no .yaml, .yml or .json file", path.display());
    }
    Ok(files)
}

fn read(file: &Path, objects: &mut Vec<Value>) -> Result<()> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the manifest {}", file.display()))?;
    }
    parse(&text, objects).with_context(|| format!("{}", file.display()))
}

fn parse(text: &str, objects: &mut Vec<Value>) -> Result<()> {
    // Truth values are true and false alone: a pod may be called n, and a label may say yes.
    // Limits grow with what was written out, so that only aliases can exceed them: a list of a whole cluster is no attack.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_documents: usize::MAX,
            max_nodes: text.len().max(250_000),
            max_events: text.len().saturating_mul(4).max(1_000_000),
        },
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    for (number, document) in documents.into_iter().enumerate() {
        match document {
            Value::Null => {}
            Value::Object(ref fields) if fields.get("kind").is_some_and(|k| k == "List") => {
                let Some(Value::Array(items)) = fields.get("items") else {
                    bail!("document {}: a List without items", number + 1)
                };
                objects.extend(items.iter().cloned());
            }
            Value::Object(ref fields) if !fields.get("kind").is_some_and(Value::is_string) => {
                bail!(
                    "document {}: it has no kind; write kind: Service, Pod, Node or EndpointSlice",
                    number + 1
                )
            }
            Value::Object(_) => objects.push(document),
            // What `turnpike get -o yaml` prints.
            Value::Array(items) if !items.is_empty() && items.iter().all(|item| item["kind"].is_string()) => {
                objects.extend(items);
            }
            other => bail!("document {}: it is no object but {}", number + 1, describe(&other)),
        }
    }
    Ok(())
}

const fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What the objects are called, for deleting them.
pub fn names(objects: &[Value]) -> Result<Vec<ObjectName>> {
    let name = |object: &Value| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/kind").context("an object has no kind")?;
        let name = text("/metadata/name").with_context(|| format!("a {kind} has no metadata.name"))?;
        let namespace = if kind == "Node" {
            String::new()
        } else {
            text("/metadata/namespace").unwrap_or_else(|| "default".into())
        };
        Ok(ObjectName { kind, namespace, name })
    };
    objects.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        parse(text, &mut objects).map(|()| objects)
    }

    #[test]
    fn several_documents_lists_and_json() {
        let yaml = "kind: Pod\nmetadata: {name: a}\n---\n---\nkind: List\nitems:\n- {kind: Node, metadata: {name: n}}\n- {kind: Pod, metadata: {name: b, namespace: x}}\n";
        let objects = parsed(yaml).unwrap();
        let names: Vec<_> =
            names(&objects).unwrap().into_iter().map(|n| (n.kind, n.namespace, n.name)).collect();
        let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(names, [text("Pod", "default", "a"), text("Node", "", "n"), text("Pod", "x", "b")]);
        assert_eq!(parsed(r#"{"kind": "Pod", "metadata": {"name": "j"}}"#).unwrap().len(), 1);
        assert_eq!(parsed("- {kind: Pod, metadata: {name: a}}\n- {kind: Pod}\n").unwrap().len(), 2);
    }

    #[test]
    fn errors_name_the_document() {
        for (text, needle) in [
            ("kind: Pod\n---\n[1, 2]", "document 2"),
            ("[{kind: Pod}, {name: x}]", "document 1"),
            ("[]", "document 1"),
            ("metadata: {name: x}", "no kind"),
            ("kind: 7", "no kind"),
            ("kind: [", "line"),
            ("a: b: c", "line"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(needle), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_written_out_has_no_limit_and_what_aliases_unfold_has() {
        let pod = |i| format!("---\nkind: Pod\nmetadata: {{name: p{i}}}\n");
        assert_eq!(parsed(&(0..5000).map(pod).collect::<String>()).unwrap().len(), 5000);
        let item = |i| format!("- {{kind: Pod, metadata: {{name: p{i}}}, a: [{}1]}}\n", "1,".repeat(40));
        let list = format!("kind: List\nitems:\n{}", (0..6000).map(item).collect::<String>());
        assert_eq!(parsed(&list).unwrap().len(), 6000, "more than 250,000 nodes");
        let mut bomb = "kind: Pod\na0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}x]\n", format!("*a{},", i - 1).repeat(9));
        }
        let error = format!("{:#}", parsed(&bomb).unwrap_err());
        assert!(error.contains("budget") || error.contains("limit"), "{error}");
    }

    #[test]
    fn folders_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "ignored.txt"] {
            std::fs::write(
                folder.path().join(name),
                format!("{{\"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}}}"),
            )
            .unwrap();
        }
        let objects = read_all(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = names(&objects).unwrap().into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["a.json", "b.yaml"]);
    }
}
