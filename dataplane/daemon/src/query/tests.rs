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
    let sources =
        Sources { shared, secret: Secret::new([1, 2, 3, 4]), ports: vec!["wan".into()], cores: vec![] };
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
