//! A view that has shrunk suddenly is held back: an etcd that came back empty, half restored, or is another one must not empty the tables.
//!
//! It looks at full lists: at one after a break, against the objects that are known; at the first after the start, against the sizes that
//! were remembered in `gateway.state_dir`. A deletion that comes as an event of a watch was made by somebody and is believed, however many
//! there are.

use crate::state::State;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::warn;
use turnpike_desired::tracker::{Tracker, ViewSize};
use turnpike_wire::admin::HeldBack;

/// Fewer Services, or endpoints, than this may always be gone.
pub const GONE_MIN: u64 = 10;
/// Shortest time between two writes of what is remembered.
const REMEMBER: Duration = Duration::from_millis(200);
/// File in `gateway.state_dir`.
const FILE: &str = "view.json";

/// What a list is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// The objects that are in force.
    Known(&'a Tracker),
    /// Sizes of the last run.
    Remembered(ViewSize),
}

/// Judges a list: none, and it may be taken; else what is wrong with it. `limit_percent` is `etcd.shrink_limit_percent`.
#[must_use]
pub fn judge(before: Before<'_>, now: &Tracker, limit_percent: u8) -> Option<HeldBack> {
    let size = now.size();
    let (was, services_gone) = match before {
        // By name, since another cluster's Services are as many and none of ours.
        Before::Known(tracker) => (tracker.size(), now.services_gone_since(tracker)),
        Before::Remembered(was) => (was, was.services.saturating_sub(size.services)),
    };
    // By number, since pods are replaced by others all the time.
    let endpoints_gone = was.endpoints.saturating_sub(size.endpoints);
    let too_many = |gone: u64, was: u64| gone >= GONE_MIN && gone * 100 > was * u64::from(limit_percent);
    if !too_many(services_gone, was.services) && !too_many(endpoints_gone, was.endpoints) {
        return None;
    }
    let reason = format!(
        "etcd lacks {services_gone} of {} Services and {endpoints_gone} of {} endpoints, over etcd.shrink_limit_percent = {limit_percent}: \
         restore etcd, or, if this is how it should be, run turnpike accept",
        was.services, was.endpoints
    );
    Some(HeldBack {
        services_before: was.services,
        services_now: size.services,
        endpoints_before: was.endpoints,
        endpoints_now: size.endpoints,
        since_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        reason,
    })
}

/// What is remembered over a restart.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct View {
    registry_prefix: String,
    services: u64,
    endpoints: u64,
}

/// The sizes of the last run, if they were of the same registry.
#[must_use]
pub fn remembered(state_dir: &Path, registry_prefix: &str) -> Option<ViewSize> {
    let file = state_dir.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!("cannot read {}: {error}; the first list of etcd is taken as it is", file.display());
            return None;
        }
    };
    match serde_json::from_str::<View>(&text) {
        Ok(view) if view.registry_prefix == registry_prefix => {
            Some(ViewSize { services: view.services, endpoints: view.endpoints })
        }
        Ok(_) => None,
        Err(error) => {
            warn!("{} is damaged: {error}; the first list of etcd is taken as it is", file.display());
            None
        }
    }
}

/// Writes the sizes, so that either the old or the new ones are there whatever happens.
fn write(state_dir: &Path, registry_prefix: &str, size: ViewSize) -> Result<()> {
    let mend = || {
        format!(
            "cannot write {}; set gateway.state_dir to a folder that can be written",
            state_dir.join(FILE).display()
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).with_context(mend)?;
    let ViewSize { services, endpoints } = size;
    let view = View { registry_prefix: registry_prefix.to_owned(), services, endpoints };
    let fresh: PathBuf = state_dir.join(format!("{FILE}.new"));
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.create(true).write(true).truncate(true).mode(0o600).open(&fresh).with_context(mend)?;
    file.write_all(&serde_json::to_vec(&view)?).and_then(|()| file.sync_data()).with_context(mend)?;
    fs::rename(&fresh, state_dir.join(FILE)).with_context(mend)
}

/// Remembers the size of the view that is in force, for ever.
pub async fn remember(state: Arc<State>) {
    let mut revisions = state.revision();
    let mut written: Option<ViewSize> = None;
    let mut complained = false;
    // Not with every change, for it looks at every slice.
    while revisions.changed().await.is_ok() {
        let size = {
            let core = state.core();
            core.tracker.is_complete().then(|| core.tracker.size())
        };
        if let Some(size) = size.filter(|size| written != Some(*size)) {
            let config = state.config.clone();
            let done = tokio::task::spawn_blocking(move || {
                write(&config.gateway.state_dir, &config.cluster.registry_prefix, size)
            });
            match done.await {
                Ok(Ok(())) => {
                    written = Some(size);
                    complained = false;
                }
                Ok(Err(error)) if !complained => {
                    warn!(
                        "{error:#}; a view that shrinks while the control plane is away will not be noticed"
                    );
                    complained = true;
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        tokio::time::sleep(REMEMBER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Before, judge, remembered, write};
    use std::fs;
    use turnpike_desired::envelope::encode;
    use turnpike_desired::k8s::{Endpoint, EndpointSlice, ObjectMeta, Service};
    use turnpike_desired::object::{Kind, Object};
    use turnpike_desired::registry::Registry;
    use turnpike_desired::tracker::{RegistryEvent, Tracker, ViewSize};

    /// A view with these Services, and a slice of so many endpoints.
    fn view(services: impl Iterator<Item = u32>, endpoints: usize) -> Tracker {
        let registry = Registry::new("/registry");
        let mut tracker = Tracker::new(registry.clone(), &[]);
        let named = |name: String| ObjectMeta { name, namespace: "shop".into(), ..ObjectMeta::default() };
        let services: Vec<Object> = services
            .map(|n| Object::from(Service { metadata: named(format!("s{n}")), ..Service::default() }))
            .collect();
        let endpoint = Endpoint { addresses: vec!["10.0.0.1".into()], ..Endpoint::default() };
        let slice = EndpointSlice {
            metadata: named("slice".into()),
            endpoints: vec![endpoint; endpoints],
            ..EndpointSlice::default()
        };
        for (kind, objects) in [(Kind::Service, services), (Kind::EndpointSlice, vec![slice.into()])] {
            let lines: Vec<(String, Vec<u8>)> =
                objects.iter().map(|o| (registry.key(kind, &o.key()), encode(o))).collect();
            let event = |(key, value): &'_ (String, Vec<u8>)| (key.clone(), value.clone());
            let lines: Vec<_> = lines.iter().map(event).collect();
            tracker.replace_all(
                kind,
                lines.iter().map(|(key, value)| RegistryEvent {
                    key: key.as_bytes(),
                    value: Some(value),
                    mod_revision: 1,
                }),
            );
        }
        tracker
    }

    #[test]
    fn a_view_is_held_back_when_more_than_the_limit_is_gone() {
        // (Services and endpoints before, the same now, limit in percent, held back)
        let rows = [
            ((40, 100), (40, 100), 50, false),
            ((40, 100), (20, 100), 50, false),
            ((40, 100), (19, 100), 50, true),
            ((40, 100), (0, 0), 50, true),
            ((40, 100), (40, 50), 50, false),
            ((40, 100), (40, 49), 50, true),
            ((40, 100), (0, 0), 100, false),
            ((40, 100), (29, 100), 0, true),
            ((40, 100), (31, 91), 0, false),
            ((9, 9), (0, 0), 50, false),
            ((10, 0), (0, 0), 50, true),
            ((3, 10), (0, 0), 50, true),
            ((40, 100), (400, 1000), 50, false),
            ((0, 0), (0, 0), 0, false),
        ];
        for (was, now, limit, expected) in rows {
            let (before, after) = (view(0..was.0, was.1), view(0..now.0, now.1));
            let known = judge(Before::Known(&before), &after, limit);
            let remembered = judge(Before::Remembered(before.size()), &after, limit);
            assert_eq!(known.is_some(), expected, "{was:?} {now:?} {limit}: {known:?}");
            assert_eq!(remembered.map(|held| held.reason), known.map(|held| held.reason), "{was:?} {now:?}");
        }
    }

    #[test]
    fn as_many_services_of_other_names_are_others() {
        let (before, after) = (view(0..20, 50), view(100..120, 50));
        let held = judge(Before::Known(&before), &after, 50).unwrap();
        assert!(held.reason.contains("20 of 20 Services") && held.reason.contains("turnpike accept"));
        assert_eq!((held.services_before, held.services_now), (20, 20));
        assert!(held.since_unix_s > 1_700_000_000);
    }

    #[test]
    fn what_is_remembered_survives_and_what_is_damaged_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state");
        assert_eq!(remembered(&state_dir, "/registry"), None);
        let size = ViewSize { services: 7, endpoints: 70 };
        write(&state_dir, "/registry", size).unwrap();
        assert_eq!(remembered(&state_dir, "/registry"), Some(size));
        assert_eq!(remembered(&state_dir, "/other"), None, "another tree");
        assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 1, "nothing is left over");
        fs::write(state_dir.join("view.json"), "{\"services\":").unwrap();
        assert_eq!(remembered(&state_dir, "/registry"), None);
        let taken = folder.path().join("file");
        fs::write(&taken, "").unwrap();
        let error = write(&taken, "/registry", size).unwrap_err();
        assert!(error.to_string().contains("gateway.state_dir"), "{error}");
    }
}
