//! What a kube-apiserver does of its three calls that are made of it, over a real etcd: PATCH of a Service, PATCH of its status, and what
//! `kubectl` would do for the tests. Objects are stored as it stores them; versions are compared as it compares them.

use super::etcd::Etcd;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use turnpike_desired::envelope;
use turnpike_desired::manifest;
use turnpike_desired::object::{Kind, ObjectKey};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Well,
    /// 403 to everything.
    Forbidding,
    /// 500 to everything.
    Failing,
    /// After a second.
    Slow,
    /// Somebody else writes the Service before every patch, as often as this says.
    Overtaken(u32),
}

/// See the module. Its thread ends with the test process.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    etcd: String,
    mood: Mutex<Mood>,
    /// The one that is taken.
    token: Mutex<String>,
    /// `CODE METHOD PATH`, in order.
    calls: Mutex<Vec<String>>,
}

impl ApiServer {
    pub fn start(etcd: &Etcd) -> Self {
        let shared = Arc::new(Shared {
            etcd: format!("http://{}", etcd.address()),
            mood: Mutex::new(Mood::Well),
            token: Mutex::new("lab-token".into()),
            calls: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let served = shared.clone();
        std::thread::spawn(move || {
            super::etcd::blocking(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = served.clone();
                    let answers = service_fn(move |request| answer(shared.clone(), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(http.serve_connection(TokioIo::new(stream), answers));
                }
            });
        });
        Self { address, shared }
    }

    pub fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub fn set_token(&self, token: &str) {
        *self.shared.token.lock().unwrap() = token.to_owned();
    }

    pub fn calls(&self) -> Vec<String> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Writes a kubeconfig that leads here, and gives the `[kubernetes]` section with it.
    pub fn settings(&self, folder: &Path) -> String {
        let file: PathBuf = folder.join("kubeconfig");
        let token = self.shared.token.lock().unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster: {{server: \"http://{}\"}}\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: turnpike}}\nusers:\n- name: turnpike\n  user: {{token: {token}}}\n",
            self.address
        );
        std::fs::write(&file, text).unwrap();
        format!("[kubernetes]\nkubeconfig = \"{}\"\n", file.display())
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let call = format!("{} {}", request.method(), request.uri().path());
    let (code, body) = match patch(&shared, request).await {
        Ok(object) => (200, object),
        Err((code, message)) => {
            let reason = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap().replace(' ', "");
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
            (code, status)
        }
    };
    shared.calls.lock().unwrap().push(format!("{code} {call}"));
    let response = Response::builder().status(code).header("content-type", "application/json");
    Ok(response.body(Full::new(body.to_string().into())).unwrap())
}

async fn patch(shared: &Shared, request: Request<Incoming>) -> Result<Value, (u16, String)> {
    let refuse = |code, text: &str| Err((code, text.to_owned()));
    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let token = format!("Bearer {}", shared.token.lock().unwrap());
    if header("authorization") != Some(token) {
        return refuse(401, "Unauthorized");
    }
    let mood = *shared.mood.lock().unwrap();
    match mood {
        Mood::Forbidding => {
            return refuse(403, "services is forbidden: User \"turnpike\" cannot patch resource");
        }
        Mood::Failing => return refuse(500, "etcdserver: request timed out"),
        Mood::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
        Mood::Well | Mood::Overtaken(_) => {}
    }
    if request.method() != Method::PATCH {
        return refuse(405, "only patches are expected");
    }
    if header("content-type").as_deref() != Some("application/merge-patch+json") {
        return refuse(415, "only merge patches are expected");
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (namespace, name, is_status) = match parts[..] {
        ["api", "v1", "namespaces", namespace, "services", name] => (namespace, name, false),
        ["api", "v1", "namespaces", namespace, "services", name, "status"] => (namespace, name, true),
        _ => return refuse(404, "the server could not find the requested resource"),
    };
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let patch: Value = serde_json::from_slice(&body).map_err(|error| (400, error.to_string()))?;
    let mut etcd = Client::connect([&shared.etcd], None).await.unwrap();
    let service = ObjectKey::new(namespace, name);
    if let Mood::Overtaken(times) = mood {
        let (mut known, revision) = read(&mut etcd, &service).await.unwrap();
        known["metadata"]["annotations"]["example.com/touched"] = times.to_string().into();
        assert!(write(&mut etcd, &service, revision, Some(known)).await);
        *shared.mood.lock().unwrap() = if times > 1 { Mood::Overtaken(times - 1) } else { Mood::Well };
    }
    let Some((known, revision)) = read(&mut etcd, &service).await else {
        return refuse(404, &format!("services \"{name}\" not found"));
    };
    let conflict =
        format!("Operation cannot be fulfilled on services \"{name}\": the object has been modified");
    if patch["metadata"]["resourceVersion"].as_str().is_some_and(|version| version != revision.to_string()) {
        return refuse(409, &conflict);
    }
    let mut patched = known.clone();
    merge(&mut patched, &patch);
    // Each of the two resources writes its own half.
    let mut new = known;
    let halves = if is_status { &["status"][..] } else { &["metadata", "spec"][..] };
    halves.iter().for_each(|half| new[*half] = patched[*half].clone());
    let has_finalizers = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    let is_gone = new["metadata"].get("deletionTimestamp").is_some() && !has_finalizers;
    if !write(&mut etcd, &service, revision, (!is_gone).then(|| new.clone())).await {
        return refuse(409, &conflict);
    }
    Ok(read(&mut etcd, &service).await.map_or(new, |(written, _)| written))
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

fn key(service: &ObjectKey) -> String {
    format!("/registry/services/specs/{}/{}", service.namespace, service.name)
}

async fn read(etcd: &mut Client, service: &ObjectKey) -> Option<(Value, i64)> {
    let found = etcd.get(key(service), None).await.unwrap();
    let kv = found.kvs().first()?;
    let object = envelope::decode(Kind::Service, service, kv.value()).unwrap();
    Some((manifest::to_json(&object, kv.mod_revision()), kv.mod_revision()))
}

async fn write(etcd: &mut Client, service: &ObjectKey, revision: i64, object: Option<Value>) -> bool {
    let operation = match object {
        Some(mut object) => {
            object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            TxnOp::put(key(service), envelope::encode(&manifest::from_json(object).unwrap().object), None)
        }
        None => TxnOp::delete(key(service), None),
    };
    let unchanged = Compare::mod_revision(key(service), CompareOp::Equal, revision);
    etcd.txn(Txn::new().when([unchanged]).and_then([operation])).await.unwrap().succeeded()
}

/// What `kubectl` does to a Service of the namespace `shop`; the change gets the object, null if there is none, and null deletes.
pub fn edit(etcd: &Etcd, name: &str, change: impl FnOnce(&mut Value)) {
    let service = ObjectKey::new("shop", name);
    etcd.with(async |client| {
        let (mut object, revision) = read(client, &service).await.unwrap_or((Value::Null, 0));
        change(&mut object);
        let finalizers = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let is_gone =
            object.is_null() || (object["metadata"].get("deletionTimestamp").is_some() && !finalizers);
        assert!(write(client, &service, revision, (!is_gone).then_some(object)).await);
    });
}

/// The Service as the API shows it; null: there is none.
pub fn stored(etcd: &Etcd, name: &str) -> Value {
    let service = ObjectKey::new("shop", name);
    etcd.with(async |client| read(client, &service).await.map_or(Value::Null, |(object, _)| object))
}

/// Deletes as `kubectl delete` does: what has finalizers stays until they are gone.
pub fn delete(etcd: &Etcd, name: &str) {
    edit(etcd, name, |object| object["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z".into());
}

/// A Service of type LoadBalancer in the namespace `shop`, made at that second.
pub fn load_balancer(name: &str, cluster_ip: &str, second: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
        "spec": {
            "type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    })
}
