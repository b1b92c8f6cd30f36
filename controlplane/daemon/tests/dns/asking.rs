//! Who asks, and who is asked in turn: `dig`, plain sockets, and a small server for other names.
#![allow(clippy::unwrap_used)]

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A port that is free for both transports on both loopbacks.
pub fn free_port() -> u16 {
    // Below the ports that the kernel gives to clients: none of them takes it before it is used.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() as u16).wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Relaxed));
        let port = 16_384 + offset % 8_192;
        let tcp = [TcpListener::bind(("127.0.0.1", port)), TcpListener::bind(("::1", port))];
        if tcp.iter().all(Result::is_ok) && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What `dig` said.
#[derive(Debug)]
pub struct Dig {
    pub text: String,
}

/// Asks the server on the loopback.
pub fn dig(port: u16, words: &[&str]) -> Dig {
    Dig::at("127.0.0.1", port, words)
}

impl Dig {
    pub fn at(server: &str, port: u16, words: &[&str]) -> Self {
        let output = Command::new("dig")
            .args([&format!("@{server}"), "-p", &port.to_string(), "+time=5", "+tries=1"])
            .args(words)
            .output()
            .expect("dig must be installed (Debian: dnsutils)");
        Self { text: String::from_utf8_lossy(&output.stdout).into_owned() }
    }

    fn after(&self, mark: &str) -> Option<&str> {
        Some(self.text.split_once(mark)?.1)
    }

    /// `NOERROR`, …
    pub fn status(&self) -> String {
        self.after("status: ").and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned()
    }

    /// `qr`, `aa`, …
    pub fn flags(&self) -> Vec<String> {
        let flags = self.after(";; flags: ").and_then(|rest| rest.split(';').next()).unwrap_or_default();
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Bytes of the answer.
    pub fn size(&self) -> usize {
        self.after("MSG SIZE  rcvd: ").unwrap().trim().parse().unwrap()
    }

    fn section(&self, name: &str) -> Vec<String> {
        let Some(rest) = self.after(&format!(";; {name} SECTION:\n")) else { return Vec::new() };
        let lines = rest.lines().take_while(|line| !line.is_empty() && !line.starts_with(";;"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    pub fn answers(&self) -> Vec<String> {
        self.section("ANSWER")
    }

    pub fn authorities(&self) -> Vec<String> {
        self.section("AUTHORITY")
    }

    pub fn additionals(&self) -> Vec<String> {
        self.section("ADDITIONAL")
    }
}

/// The bytes of a question for an A record.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

/// Sends a datagram, and gives what has come back by now.
pub fn send_udp(socket: &UdpSocket, port: u16, bytes: &[u8]) -> Vec<Vec<u8>> {
    socket.set_nonblocking(true).unwrap();
    socket.send_to(bytes, ("127.0.0.1", port)).unwrap();
    let mut answers = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = socket.recv(&mut buffer) {
        answers.push(buffer[..length].to_vec());
    }
    answers
}

/// Connections, by hand.
pub mod tcp {
    use super::*;

    pub fn open(port: u16) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
    }

    /// Several messages in one piece.
    pub fn send(stream: &mut TcpStream, messages: &[Vec<u8>]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        stream.write_all(&bytes).unwrap();
    }

    /// One message, byte by byte.
    pub fn trickle(stream: &mut TcpStream, message: &[u8]) {
        for byte in framed(message) {
            stream.write_all(&[byte]).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next message; none: the other side has closed.
    pub fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).ok()?;
        Some(message)
    }

    /// Whether the other side closes a connection within that time.
    pub fn closed_within(mut stream: TcpStream, time: Duration) -> bool {
        stream.set_read_timeout(Some(time)).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    }
}

/// A server for other names, over UDP and TCP.
pub struct Fake {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    /// Where it sends questions itself.
    forward: Arc<Mutex<Option<u16>>>,
}

impl Fake {
    /// It knows these addresses, and a large text.
    pub fn start(known: &[(&str, &str)]) -> Self {
        let port = free_port();
        let known: Vec<(String, String)> = known.iter().map(|(n, a)| ((*n).into(), (*a).into())).collect();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let forward = Arc::new(Mutex::new(None));
        let (udp, tcp) =
            (UdpSocket::bind(("127.0.0.1", port)).unwrap(), TcpListener::bind(("127.0.0.1", port)).unwrap());
        let (seen, onward, names) = (asked.clone(), forward.clone(), known.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                let bytes = &buffer[..length];
                seen.lock().unwrap().push(name_of(bytes));
                let next: Option<u16> = *onward.lock().unwrap();
                let answer = match next {
                    Some(port) => {
                        // What comes back is of no interest: the circle is.
                        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                        socket.send_to(bytes, SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
                        let mut answer = [0; 4096];
                        let Ok(length) = socket.recv(&mut answer) else { continue };
                        answer[..length].to_vec()
                    }
                    None => answer(&names, bytes, 1_232),
                };
                let _ = udp.send_to(&answer, client);
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                while let Some(bytes) = tcp::receive(&mut stream) {
                    tcp::send(&mut stream, &[answer(&known, &bytes, 65_535)]);
                }
            }
        });
        Self { port, asked, forward }
    }

    /// From now on it only passes questions on.
    pub fn forward_to(&self, port: u16) {
        *self.forward.lock().unwrap() = Some(port);
    }

    /// Names it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn name_of(bytes: &[u8]) -> String {
    Message::from_vec(bytes).unwrap().queries[0].name().to_ascii()
}

fn answer(known: &[(String, String)], bytes: &[u8], most: usize) -> Vec<u8> {
    let asked = Message::from_vec(bytes).unwrap();
    let query = asked.queries[0].clone();
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.add_query(query.clone());
    let name = query.name().to_ascii();
    if let Some((_, address)) = known.iter().find(|(known, _)| *known == name) {
        let data = RData::A(A(address.parse().unwrap()));
        message.add_answer(Record::from_rdata(query.name().clone(), 300, data));
    } else if name == "large.example.com." {
        let data = RData::TXT(TXT::new(vec!["x".repeat(200); 10]));
        message.add_answer(Record::from_rdata(query.name().clone(), 300, data));
    } else {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    let bytes = message.to_vec().unwrap();
    if bytes.len() <= most { bytes } else { message.truncate().to_vec().unwrap() }
}
