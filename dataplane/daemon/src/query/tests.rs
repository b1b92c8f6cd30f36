use super::*;
use std::net::IpAddr;
use turnpike_forward::gateway::{Gateway, GatewayPort};
use turnpike_forward::steering::Steering;

fn thread() -> (tempfile::TempDir, QueryThread, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let port = GatewayPort {
        mac: [2; 6],
        addresses: vec![(IpAddr::from([192, 0, 2, 1]), 24)],
        gateway: None,
        gateway6: None,
        hears_routers: false,
        routes: vec![],
        steering: Steering::Owner,
        mtu: 1500,
    };
    let shared = Shared::new(Gateway::new(vec![port], &[[192, 0, 2, 9].into()], 1).unwrap());
    let secret = Secret::new([1, 2, 3, 4]);
    let (ports, cores, now_ms) = (vec!["wan".into()], vec![], Box::new(|| 7));
    let sources = Sources { shared, secret, ports, cores, folder: folder.path().into(), now_ms };
    let path = folder.path().join("run/dataplane.sock");
    let thread = QueryThread::start(&path, sources).unwrap();
    (folder, thread, path)
}

fn ask(stream: &UnixStream, line: &[u8]) -> String {
    (&mut &*stream).write_all(line).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_thread() {
    let (_folder, thread, path) = thread();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // A successor's socket takes the place of ours, and stays.
    let (listener, _) = open(&path).unwrap();
    drop(thread);
    assert!(UnixStream::connect(&path).is_ok());
    drop(listener);
    assert!(fs::read_dir(path.parent().unwrap()).unwrap().count() == 1, "nothing else is left");
}

#[test]
fn garbage_is_answered_and_the_next_request_too() {
    let (_folder, _thread, path) = thread();
    let stream = UnixStream::connect(&path).unwrap();
    for garbage in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\x00\n",
        b"[1,2\n",
        b"{\"verb\":\"explain\",\"packet\":\"x\",\"port\":null}\n",
    ] {
        let answer = ask(&stream, garbage);
        assert!(answer.contains("this is no request"), "{answer}");
    }
    let asked = br#"{"verb":"explain","packet":"tcp 198.51.100.7:1 203.0.113.1:80","port":null}"#;
    let answer = ask(&stream, &[&asked[..], b"\n"].concat());
    assert!(answer.contains("no port leads to 198.51.100.7; say on which one"), "{answer}");
    let asked = br#"{"verb":"explain","packet":"tcp 192.0.2.7:1 203.0.113.1:80","port":"lan"}"#;
    let answer = ask(&stream, &[&asked[..], b"\n"].concat());
    assert!(answer.contains("there is no port lan; those of this gateway are wan"), "{answer}");
    // No worker runs here.
    let asked = br#"{"verb":"explain","packet":"tcp 192.0.2.7:1 203.0.113.1:80","port":"wan"}"#;
    let answer = ask(&stream, &[&asked[..], b"\n"].concat());
    assert!(answer.contains("worker 0 has not answered"), "{answer}");
}

#[test]
fn a_line_without_end_ends_the_conversation() {
    let (_folder, _thread, path) = thread();
    let stream = UnixStream::connect(&path).unwrap();
    let answer = ask(&stream, &vec![b'x'; REQUEST_BYTES_MAX + 1]);
    assert!(answer.contains("at most"), "{answer}");
    let mut rest = Vec::new();
    assert_eq!((&stream).read_to_end(&mut rest).unwrap_or(0), 0);
}

#[test]
fn only_so_many_ask_at_once_and_places_are_given_back() {
    let (_folder, _thread, path) = thread();
    let streams: Vec<_> = (0..CONVERSATIONS_MAX).map(|_| UnixStream::connect(&path).unwrap()).collect();
    streams.iter().for_each(|stream| assert!(ask(stream, b"{}\n").contains("no request")));
    let late = UnixStream::connect(&path).unwrap();
    let mut answer = String::new();
    BufReader::new(&late).read_line(&mut answer).unwrap();
    assert!(answer.contains("ask this dataplane already"), "{answer}");
    drop((streams, late));
    for _ in 0..200 {
        let stream = UnixStream::connect(&path).unwrap();
        if ask(&stream, b"{}\n").contains("no request") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no place was given back");
}

fn watch(filter: &str, sample: u32, snap_bytes: u32) -> Vec<u8> {
    let watch = turnpike_wire::dataplane::Watch {
        filter: filter.into(),
        count: None,
        duration_ms: Some(20),
        sample,
        snap_bytes,
    };
    let mut line = serde_json::to_vec(&Request::Watch(watch)).unwrap();
    line.push(b'\n');
    line
}

#[test]
fn what_cannot_be_watched_is_said_and_only_one_watches() {
    let (_folder, thread, path) = thread();
    let stream = UnixStream::connect(&path).unwrap();
    let rows = [
        (watch("hostt 1.2.3.4", 1, 128), "filter, word 1"),
        (watch("verdict lost_somewhere", 1, 128), "there is no verdict lost_somewhere"),
        (watch("tcp", 0, 128), "not every 0th"),
        (watch("tcp", 1, 100_000), "at most 9216 bytes"),
        (watch("tcp", 1, 128), r#""why":"time""#),
    ];
    for (line, wanted) in rows {
        let answer = ask(&stream, &line);
        assert!(answer.contains(wanted), "{answer}");
    }
    assert!(!thread.desk.is_watched.load(Ordering::Acquire), "given back");
    thread.desk.is_watched.store(true, Ordering::Release);
    assert!(ask(&stream, &watch("tcp", 1, 128)).contains("traces or captures already"));
    thread.desk.is_watched.store(false, Ordering::Release);
    // Who hangs up in the middle ends its watch.
    let endless =
        br#"{"verb":"watch","filter":"","count":null,"duration_ms":null,"sample":1,"snap_bytes":128}"#;
    (&stream).write_all(&[&endless[..], b"\n"].concat()).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !thread.desk.is_watched.load(Ordering::Acquire) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(stream);
    while thread.desk.is_watched.load(Ordering::Acquire) {
        assert!(Instant::now() < until, "the watch goes on for nobody");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn flows_that_cannot_be_listed_are_said() {
    let (_folder, _thread, path) = thread();
    let stream = UnixStream::connect(&path).unwrap();
    let asked = |state: &str| {
        let query = turnpike_wire::dataplane::FlowQuery { state: Some(state.into()), ..Default::default() };
        let mut line = serde_json::to_vec(&Request::Flows(query)).unwrap();
        line.push(b'\n');
        line
    };
    assert!(ask(&stream, &asked("asleep")).contains("there is no state asleep; there are udp, opening, "));
    assert!(ask(&stream, &asked("established")).contains("the flow table of worker 0 is not in"));
}
