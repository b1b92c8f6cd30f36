//! What a gateway knows of one SCTP association, written for reading (RFC 9260 sections 5 and 8.5.1). States are words.

use crate::harness::talk::Side;
use turnpike_packet::sctp::chunk;

/// An association as the gateway sees it.
#[derive(Clone, Copy, Debug)]
pub struct Association {
    pub state: &'static str,
    /// The tag that packets of the client, and of the backend, must carry; 0 while it is not known.
    pub of_client: u32,
    pub of_backend: u32,
    /// Who has sent the latest COOKIE ECHO that nobody acknowledged, and its tag.
    echo: Option<(Side, u32)>,
}

/// The decisive chunk of a packet: its type and flags, the packet's tag, and of an INIT the tag that it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    pub kind: u8,
    pub flags: u8,
    pub tag: u32,
    pub asks_for: u32,
}

impl Association {
    pub fn new() -> Self {
        Self { state: "opening", of_client: 0, of_backend: 0, echo: None }
    }

    /// The tag that packets of this side must carry.
    pub fn tag(&mut self, side: Side) -> &mut u32 {
        match side {
            Side::Client => &mut self.of_client,
            Side::Backend => &mut self.of_backend,
        }
    }

    /// Takes note of a packet; whether it proves to be of the association, or begins its time to prove that it lives.
    pub fn see(&mut self, side: Side, chunk: Chunk) -> bool {
        let is_opening = ["opening", "restarting"].contains(&self.state);
        match chunk.kind {
            chunk::INIT => {
                let unknown = *self.tag(side.other()) == 0;
                if self.state == "opening" {
                    if unknown {
                        *self.tag(side.other()) = chunk.asks_for;
                    }
                } else if self.state != "restarting" {
                    self.state = "restarting";
                    self.echo = None;
                    return true;
                }
                return false;
            }
            chunk::COOKIE_ECHO if is_opening && chunk.tag != *self.tag(side) => {
                self.echo = Some((side, chunk.tag));
                return false;
            }
            chunk::COOKIE_ACK if is_opening => {
                if let Some((echoed_by, echoed)) = self.echo.filter(|(by, _)| *by == side.other()) {
                    *self.tag(side) = chunk.tag;
                    *self.tag(echoed_by) = echoed;
                }
            }
            _ => {}
        }
        let may_reflect = [chunk::ABORT, chunk::SHUTDOWN_COMPLETE].contains(&chunk.kind);
        let whose = if may_reflect && chunk.flags & 1 == 1 { side.other() } else { side };
        let proves = chunk.tag != 0 && chunk.tag == *self.tag(whose);
        if proves {
            self.state = self.after(side, chunk.kind);
        }
        proves
    }

    fn after(&self, side: Side, kind: u8) -> &'static str {
        match (kind, self.state, side) {
            (chunk::ABORT | chunk::SHUTDOWN_COMPLETE, ..) => "closed",
            (
                chunk::SHUTDOWN | chunk::SHUTDOWN_ACK,
                "opening" | "established" | "restarting",
                Side::Client,
            ) => "client_closed",
            (
                chunk::SHUTDOWN | chunk::SHUTDOWN_ACK,
                "opening" | "established" | "restarting",
                Side::Backend,
            ) => "backend_closed",
            (chunk::SHUTDOWN | chunk::SHUTDOWN_ACK, "client_closed", Side::Backend)
            | (chunk::SHUTDOWN | chunk::SHUTDOWN_ACK, "backend_closed", Side::Client) => "closed",
            (chunk::SHUTDOWN | chunk::SHUTDOWN_ACK, same, _) => same,
            (chunk::COOKIE_ACK, "opening", _) | (_, "restarting", _) => "established",
            (_, same, _) => same,
        }
    }

    pub fn may_idle_s(&self) -> u32 {
        if self.state == "established" { 7_440 } else { 240 }
    }
}
