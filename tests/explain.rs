//! `turnpike explain`, `trace`, `capture` and `flows` of a gateway that serves: what is said is what happens, tshark reads what was captured, and
//! nothing that is asked, or not read, harms the traffic.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use turnpike_tests::bed::{Lab, available, program, wait};

const VIP: &str = "203.0.113.80";
const CLIENT: &str = "198.51.100.7";

/// The pod that answers a request from this port of the client.
fn curl(lab: &Lab, port: u16) -> String {
    let port = port.to_string();
    let url = format!("http://{VIP}/");
    let words = ["-gsS", "--max-time", "20", "--local-port", &port, &url];
    lab.run_in("client", "curl", &words).unwrap().trim().to_owned()
}

fn json(lab: &Lab, words: &[&str]) -> Value {
    serde_json::from_str(&lab.turnpike_ok(words).unwrap()).unwrap()
}

fn explain(lab: &Lab, packet: &str) -> Value {
    json(lab, &["explain", packet, "-o", "json"])
}

/// An open connection of the client to the web Service.
struct Connection(Child);

impl Connection {
    fn open(lab: &Lab, port: u16) -> Self {
        let to = format!("TCP:{VIP}:80,sourceport={port},reuseaddr");
        let mut command = lab.command("client", "socat");
        command
            .args(["-t", "10", "-", &to])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// The pod that answers; nothing when the connection was reset.
    fn ask(&mut self) -> String {
        let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        let _ = self.0.stdin.as_mut().unwrap().write_all(request);
        let mut answer = Vec::new();
        let mut bytes = [0; 1_024];
        while !answer.windows(5).any(|word| word.starts_with(b"web-") && word[4].is_ascii_digit()) {
            match self.0.stdout.as_mut().unwrap().read(&mut bytes) {
                Ok(0) | Err(_) => return String::new(),
                Ok(n) => answer.extend(&bytes[..n]),
            }
        }
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A flow that is live is told, and ended alone.
fn flows_are_listed_and_ended(
    lab: &Lab,
    port: u16,
    backend: &str,
    seen_as: &str,
    connection: &mut Connection,
) {
    let found =
        json(lab, &["flows", "--service", "web", "--client", CLIENT, "--backend", backend, "-o", "json"]);
    let flows = found["flows"].as_array().unwrap();
    assert_eq!((found["found"].as_u64(), &found["complete"]), (Some(flows.len() as u64), &true.into()));
    let client = format!("{CLIENT}:{port}");
    let ours: Vec<&Value> = flows.iter().filter(|flow| flow["client"] == client.as_str()).collect();
    let [flow] = ours[..] else { panic!("{client} in {found}") };
    assert_eq!((&flow["state"], &flow["seen_as"]), (&"established".into(), &seen_as.into()));
    let count = |words: &[&str]| -> u64 {
        lab.turnpike_ok(&[&["flows", "--count"][..], words].concat()).unwrap().trim().parse().unwrap()
    };
    assert_eq!(count(&["--state", "established", "--client", CLIENT]), 1);
    assert_eq!(
        count(&["--client", "198.51.100.0/25", "--service", "default/web:http", "--state", "established"]),
        1
    );
    assert_eq!(count(&["--service", "echo"]) + count(&["--backend", "10.244.9.9"]), 0);
    assert!(lab.turnpike_ok(&["flows", "--client", CLIENT]).unwrap().contains(&client));
    if port % 5 == 4 {
        let refused = lab.turnpike(&["flows", "--kill"]).unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--all"));
        let ended =
            json(lab, &["flows", "--kill", "--client", CLIENT, "--state", "established", "-o", "json"]);
        assert_eq!((&ended["found"], &ended["ended"]), (&1.into(), &1.into()), "{ended}");
        assert_eq!(count(&["--state", "established"]), 0);
        assert_eq!(connection.ask(), "", "the next segment is answered with a reset");
    }
}

/// The admin CLI in the background.
fn spawn(lab: &Lab, words: &[&str]) -> Child {
    let mut command = Command::new(program("turnpike").unwrap());
    command.arg("--config").arg(lab.dir().join("turnpike.toml")).args(words).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Interrupts it as Ctrl-C does, and gives its exit status and what it printed.
fn interrupt(child: Child) -> (Option<i32>, String, String) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn tshark(file: &PathBuf, words: &[&str]) -> String {
    let output = Command::new("tshark").arg("-r").arg(file).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_the_dataplane_is_asked() {
    if !available() {
        return;
    }
    let lab = Lab::with_workers("x1", "[0, 1]").unwrap();
    lab.serve().unwrap();
    curl(&lab, 40_000);
    what_is_explained_happens(&lab);
    packets_are_traced(&lab);
    packets_are_captured(&lab);
    nobody_who_asks_does_harm(&lab);
    // Without a control plane all of it goes on.
    lab.lab(["kill", "controlplane"]).unwrap();
    what_is_explained_happens(&lab);
}

fn what_is_explained_happens(lab: &Lab) {
    let first = 42_000 + (std::process::id() % 500) as u16 * 10;
    let explained_before = explain(lab, &format!("tcp {CLIENT}:{first} {VIP}:80"));
    let is_repeated = explained_before["flow"].is_object();
    let first = if is_repeated { first + 5 } else { first };
    for port in first..first + 5 {
        let packet = format!("tcp {CLIENT}:{port} {VIP}:80");
        let told = explain(lab, &packet);
        assert_eq!(
            (&told["verdict"], &told["course"]["is_new"]),
            (&"forwarded".into(), &true.into()),
            "{told}"
        );
        assert_eq!(told["frontend"]["service"], "default/web:http/TCP/IPv4");
        assert_eq!(told["flow"], Value::Null);
        assert_eq!(explain(lab, &packet)["course"], told["course"], "asking changes nothing");
        let mut connection = Connection::open(lab, port);
        let pod = connection.ask();
        let backend = told["course"]["backend"].as_str().unwrap();
        assert!(pod.contains(&format!("web-{}", &backend["10.244.0.1".len()..][..1])), "{pod} and {backend}");
        let then = explain(lab, &packet);
        assert_eq!(then["worker"], told["worker"]);
        assert_eq!(
            (&then["flow"]["state"], &then["course"]["is_new"]),
            (&"established".into(), &false.into())
        );
        for what in ["backend", "seen_as", "leaves_as", "mac", "out"] {
            assert_eq!(then["course"][what], told["course"][what], "{what} of {packet}");
        }
        // What the backend sends comes back to the client.
        let seen_as = told["course"]["seen_as"].as_str().unwrap();
        let answer = explain(lab, &format!("tcp {backend} {seen_as}"));
        assert_eq!(answer["flow"]["direction"], "to_client", "{answer}");
        assert_eq!(answer["course"]["leaves_as"]["destination"], format!("{CLIENT}:{port}"));
        flows_are_listed_and_ended(lab, port, backend, seen_as, &mut connection);
    }
    let rows = [
        (format!("tcp {CLIENT}:1 {VIP}:81"), "no_frontend"),
        (format!("udp {CLIENT}:1 10.96.0.80:53"), "rejected"),
        (format!("tcp {CLIENT}:1 192.0.9.9:80"), "not_ours"),
        (format!("tcp {VIP}:1 {VIP}:80"), "bad_source"),
        (format!("icmp {CLIENT} {VIP}"), "echo_replied"),
    ];
    for (packet, verdict) in rows {
        let port = if packet.starts_with(&format!("tcp {VIP}")) { &["--port", "wan"][..] } else { &[] };
        let told = json(lab, &[&["explain", &packet, "-o", "json"][..], port].concat());
        assert_eq!(told["verdict"], verdict, "{told}");
        assert!(told["mend"].is_string() || verdict == "echo_replied", "{told}");
    }
    let text = lab.turnpike_ok(&["explain", &format!("tcp {CLIENT}:1 {VIP}:80")]).unwrap();
    for line in [
        "packet ",
        "worker ",
        "frontend  default/web:http/TCP",
        "maglev    slot ",
        "backend   10.244.0.1",
        "verdict   forwarded",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let refused = lab.turnpike(&["explain", "tcp 1.2.3.4 5.6.7.8:80"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

fn packets_are_traced(lab: &Lab) {
    let trace =
        spawn(lab, &["trace", "-o", "json", "--filter", "service web and port 41000", "--for", "20s"]);
    std::thread::sleep(Duration::from_millis(1_500));
    curl(lab, 41_000);
    std::thread::sleep(Duration::from_millis(1_000));
    let (status, out, err) = interrupt(trace);
    assert_eq!(status, Some(0), "{err}");
    let seen: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(seen.len() >= 6, "a whole connection: {out}");
    assert!(err.contains(&format!("{} packets", seen.len())), "{err}");
    let syn = seen.iter().find(|s| s["packet"] == "tcp SYN" && s["left"][0].is_object()).unwrap();
    assert_eq!((&syn["flow_before"], &syn["flow_after"]), (&Value::Null, &"opening".into()));
    assert_eq!(syn["came"]["ends"]["source"], format!("{CLIENT}:41000"));
    assert_eq!(syn["left"][0]["ends"]["destination"], syn["backend"]);
    assert!(
        seen.iter()
            .any(|s| s["packet"] == "tcp SYN ACK" && s["left"][0]["ends"]["source"] == format!("{VIP}:80"))
    );
    let counted = lab.turnpike_ok(&["trace", "--filter", "host 203.0.113.99", "--for", "300ms"]).unwrap();
    assert_eq!(counted, "", "nobody talks to that address");
}

fn packets_are_captured(lab: &Lab) {
    let file = lab.dir().join("seen.pcapng");
    let name = file.to_string_lossy().into_owned();
    let capture =
        spawn(lab, &["capture", "-w", &name, "--filter", "host 198.51.100.7 and (port 41001 or port 81)"]);
    wait("the capture's first block", Duration::from_secs(10), || Ok(file.metadata()?.len() > 0)).unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    curl(lab, 41_001);
    let refused = lab.run_in("client", "curl", &["-sS", "--max-time", "1", &format!("http://{VIP}:81/")]);
    assert!(refused.is_err());
    std::thread::sleep(Duration::from_millis(1_000));
    let (status, _, err) = interrupt(capture);
    assert_eq!(status, Some(0), "{err}");
    let fields =
        ["-T", "fields", "-e", "frame.interface_name", "-e", "ip.src", "-e", "ip.dst", "-e", "frame.comment"];
    let rows = tshark(&file, &fields);
    let has = |interface: &str, source: &str, comment: &str| {
        rows.lines().any(|row| {
            let cells: Vec<&str> = row.split('\t').collect();
            cells[0] == interface && cells[1].starts_with(source) && cells[3].contains(comment)
        })
    };
    assert!(has("wan before", CLIENT, "verdict forwarded"), "{rows}");
    assert!(has("wan after", VIP, "verdict forwarded"), "{rows}");
    assert!(has("wan before", "10.244.0.1", "service default/web:http/TCP"), "{rows}");
    assert!(has("wan before", CLIENT, "verdict no_frontend"), "{rows}");
    // Frames are whole: every checksum is right before and behind.
    let bad = tshark(
        &file,
        &["-o", "ip.check_checksum:TRUE", "-Y", "ip.checksum.status == \"Bad\" || _ws.malformed"],
    );
    assert_eq!(bad, "", "{bad}");
    let mode = Command::new("stat").args(["-c", "%a", &name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&mode.stdout).trim(), "600");
    // A full disk is said, a closed pipe is no failure.
    let full = spawn(lab, &["capture", "-w", "/dev/full", "--for", "5s"]);
    let output = full.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && err.contains("/dev/full") && err.contains("No space"),
        "{err}"
    );
    let mut piped = spawn(lab, &["capture", "-w", "-", "--for", "20s"]);
    let mut head = [0; 4];
    let mut pipe = piped.stdout.take().unwrap();
    pipe.read_exact(&mut head).unwrap();
    assert_eq!(head, [0x0a, 0x0d, 0x0d, 0x0a]);
    drop(pipe);
    for port in 41_100..41_110 {
        curl(lab, port);
    }
    assert_eq!(piped.wait().unwrap().code(), Some(0));
}

fn nobody_who_asks_does_harm(lab: &Lab) {
    let socket = lab.dir().join("dataplane.sock");
    for (filter, wanted) in [("tcp port 80", "filter, word 2"), ("verdict nothing", "no verdict nothing")] {
        let refused = lab.turnpike(&["trace", "--filter", filter]).unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(wanted), "{said}");
    }
    // Garbage, and somebody who asks for everything and reads nothing.
    let mut garbage = UnixStream::connect(&socket).unwrap();
    garbage.write_all(&[0xff; 100_000]).ok();
    let mut deaf = UnixStream::connect(&socket).unwrap();
    deaf.write_all(b"{\"verb\":\"watch\",\"filter\":\"\",\"count\":null,\"duration_ms\":null,\"sample\":1,\"snap_bytes\":9216}\n")
        .unwrap();
    let outcome = lab.load(&[&format!("http://{VIP}/"), "--requests", "300", "--clients", "3"]).unwrap();
    assert_eq!(outcome.failures, 0, "{outcome:?}");
    drop(deaf);
    wait("another to be let in", Duration::from_secs(20), || {
        Ok(lab.turnpike(&["trace", "--for", "10ms"])?.status.success())
    })
    .unwrap();
}
