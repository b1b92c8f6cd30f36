//! A TCP proxy on the loopback whose target can be changed, whose connections can be cut, and which can fall silent as a broken network does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// See the module. Its threads end with the test process.
pub struct Proxy {
    address: SocketAddr,
    route: Arc<Mutex<Route>>,
    is_silent: Arc<AtomicBool>,
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
        let is_silent = Arc::new(AtomicBool::new(false));
        let (shared, silent) = (route.clone(), is_silent.clone());
        thread::spawn(move || {
            for inside in listener.incoming().flatten() {
                let mut route = shared.lock().unwrap();
                let Some(outside) = route.target.and_then(|t| TcpStream::connect(t).ok()) else { continue };
                for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                    route.open.push(from.try_clone().unwrap());
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let silent = silent.clone();
                    thread::spawn(move || copy(from, to, &silent));
                }
            }
        });
        Self { address, route, is_silent }
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

    /// Brings nothing any more, in either direction, and ends nothing: what a partition looks like from both sides. Or brings again what
    /// waited.
    pub fn silence(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::Relaxed);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while is_silent.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
