//! A TCP proxy on the loopback whose target can be changed and whose connections can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// See the module. Its threads end with the test process.
pub struct Proxy {
    address: SocketAddr,
    route: Arc<Mutex<Route>>,
}

struct Route {
    target: Option<SocketAddr>,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// A proxy that leads to `target`.
    pub fn new(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let route = Arc::new(Mutex::new(Route { target: Some(target), open: Vec::new() }));
        let shared = route.clone();
        thread::spawn(move || {
            for inside in listener.incoming().flatten() {
                let mut route = shared.lock().unwrap();
                let Some(outside) = route.target.and_then(|t| TcpStream::connect(t).ok()) else { continue };
                for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                    route.open.push(from.try_clone().unwrap());
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || copy(from, to));
                }
            }
        });
        Self { address, route }
    }

    /// Where it listens, as an etcd endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends every connection, and takes new ones to `target`, or nowhere.
    pub fn turn(&self, target: Option<SocketAddr>) {
        let mut route = self.route.lock().unwrap();
        route.target = target;
        for stream in route.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
