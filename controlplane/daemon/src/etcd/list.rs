//! A list of everything at one revision, in pages.

use crate::etcd::Change;
use crate::etcd::client::{Refusal, lists, request};
use anyhow::Context;
use etcd_client::{Client, GetOptions, KvClient};
use tokio::task::JoinSet;
use turnpike_desired::object::Kind;
use turnpike_desired::registry::{Part, Registry};

/// Objects of one page.
const PAGE: i64 = 1_000;

/// Everything at one revision.
#[derive(Debug, Default)]
pub struct Listed {
    /// The etcd cluster.
    pub cluster: u64,
    /// The revision.
    pub revision: i64,
    /// Each part that may be read.
    pub parts: Vec<(Part, Vec<Change>)>,
    /// Those that may not, and can be done without.
    pub denied: Vec<Part>,
}

/// Lists every part at the revision of the first page. An error names the part and, if it may not be read, the role to grant.
pub async fn list(client: &Client, registry: &Registry) -> Result<Listed, Refusal> {
    let first = registry.part_prefix(Part::ALL[0]);
    let options = GetOptions::new().with_prefix().with_limit(1).with_count_only();
    let answer = request(lists(client).get(first.clone(), Some(options))).await;
    let answer = answer.map_err(|refusal| named(refusal, Part::ALL[0], &first))?;
    let header = answer.header().context("etcd answered without a header").map_err(Refusal::Other)?;
    let mut listed =
        Listed { cluster: header.cluster_id(), revision: header.revision(), ..Listed::default() };
    let mut pending = JoinSet::new();
    for part in Part::ALL {
        let (kv, prefix, revision) = (lists(client), registry.part_prefix(part), listed.revision);
        pending.spawn(async move {
            let objects = list_part(kv, prefix.clone().into_bytes(), revision).await;
            (part, objects.map_err(|refusal| named(refusal, part, &prefix)))
        });
    }
    while let Some(done) = pending.join_next().await {
        let (part, objects) = done.context("a list was not finished").map_err(Refusal::Other)?;
        match objects {
            Ok(objects) => listed.parts.push((part, objects)),
            Err(Refusal::Denied(_)) if !part.is_required() => listed.denied.push(part),
            Err(refusal) => return Err(refusal),
        }
    }
    listed.parts.sort_by_key(|(part, _)| *part);
    listed.denied.sort_unstable();
    Ok(listed)
}

/// Whether a part may be read now.
pub async fn is_readable(client: &Client, registry: &Registry, part: Part) -> bool {
    let options = GetOptions::new().with_prefix().with_limit(1).with_count_only();
    request(lists(client).get(registry.part_prefix(part), Some(options))).await.is_ok()
}

/// What is lost without a part, and the mend.
#[must_use]
pub fn without(registry: &Registry, part: Part) -> String {
    let prefix = registry.part_prefix(part);
    let lost = match part {
        Part::Objects(Kind::Pod) => "weights set by annotations of pods do not count",
        Part::Objects(Kind::Node) => "networks of pods and the zone come from the configuration alone",
        Part::Objects(Kind::ServiceCidr) | Part::ServiceRanges => {
            "service networks listed there are not known, so that addresses of theirs that belong to no Service are left to the host"
        }
        Part::Objects(_) => "nothing can be forwarded",
    };
    format!("{prefix} may not be read: {lost}; {}", grant(&prefix))
}

fn grant(prefix: &str) -> String {
    format!(
        "grant it to the role of etcd.user: etcdctl role grant-permission ROLE --prefix=true read {prefix}"
    )
}

fn named(refusal: Refusal, part: Part, prefix: &str) -> Refusal {
    match refusal {
        Refusal::Denied(text) if part.is_required() => Refusal::Other(anyhow::anyhow!(
            "etcd does not let us read {prefix} ({text}), without which nothing can be forwarded; {}",
            grant(prefix)
        )),
        Refusal::Other(error) => Refusal::Other(error.context(format!("cannot list {prefix}"))),
        other => other,
    }
}

async fn list_part(mut kv: KvClient, prefix: Vec<u8>, revision: i64) -> Result<Vec<Change>, Refusal> {
    let end = prefix_end(&prefix);
    let mut objects = Vec::new();
    let mut from = prefix;
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
        let page = request(kv.get(from, Some(options))).await?;
        objects.extend(page.kvs().iter().map(|kv| Change {
            key: kv.key().to_vec(),
            value: Some(kv.value().to_vec()),
            revision: kv.mod_revision(),
        }));
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), &[0]].concat(),
            _ => return Ok(objects),
        }
    }
}

/// The first key behind all keys with this prefix, which ends with a slash.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::{named, without};
    use crate::etcd::client::Refusal;
    use turnpike_desired::object::Kind;
    use turnpike_desired::registry::{Part, Registry};

    #[test]
    fn what_may_not_be_read_is_named_with_the_role_to_grant() {
        let registry = Registry::new("/registry");
        for part in Part::ALL {
            let prefix = registry.part_prefix(part);
            let words = format!("--prefix=true read {prefix}");
            match named(Refusal::Denied("etcdserver: permission denied".into()), part, &prefix) {
                Refusal::Other(error) if part.is_required() => {
                    let text = format!("{error:#}");
                    assert!(text.contains(&words) && text.contains("permission denied"), "{text}");
                }
                Refusal::Denied(_) if !part.is_required() => {
                    let text = without(&registry, part);
                    assert!(text.contains(&words) && text.starts_with(&prefix), "{text}");
                }
                other => panic!("{part:?}: {other:?}"),
            }
        }
        let pods = without(&registry, Part::Objects(Kind::Pod));
        assert!(pods.contains("weights"), "{pods}");
    }
}
