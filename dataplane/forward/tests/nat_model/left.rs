//! The frames that left and nobody has accounted for yet.

use crate::frames::{is_v6, number};

/// In the order in which they left.
#[derive(Debug)]
pub struct Left {
    frames: Vec<Vec<u8>>,
    /// One worker alone keeps the order of each family; of several, each has its own.
    in_order: bool,
}

impl Left {
    pub fn new(frames: Vec<Vec<u8>>, in_order: bool) -> Self {
        Self { frames, in_order }
    }

    /// The frame with a number that somebody gave it before it came.
    pub fn numbered(&self, wanted: (bool, u16)) -> Option<&[u8]> {
        self.frames.iter().map(Vec::as_slice).find(|frame| number(frame) == wanted)
    }

    /// Takes the first frame of a family that is the right one, which must be the first of all where they leave in order.
    pub fn take(&mut self, of_v6: bool, is_right: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut family = self.frames.iter().enumerate().filter(|(_, frame)| is_v6(frame) == of_v6);
        let at = match self.in_order {
            true => family.next().filter(|(_, frame)| is_right(frame)),
            false => family.find(|(_, frame)| is_right(frame)),
        };
        let (at, _) = at?;
        Some(self.frames.remove(at))
    }

    /// One that is left over.
    pub fn first(&self) -> Option<&[u8]> {
        self.frames.first().map(Vec::as_slice)
    }

    /// What may have left instead of a frame that did not: the one with its number, or the first.
    pub fn instead(&self, wanted: &[u8]) -> Option<&[u8]> {
        self.numbered(number(wanted)).or_else(|| self.first())
    }
}
