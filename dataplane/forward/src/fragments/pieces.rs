//! Which bytes of a datagram its fragments have brought.

use crate::limits::FRAGMENT_PIECES_MAX;

/// The bytes of a datagram that one fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte in the datagram, counted behind the IP header.
    pub start: u16,
    /// The byte behind its last one.
    pub end: u16,
    /// Whether the datagram goes on behind it.
    pub more: bool,
}

/// Why a piece is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The same bytes have come in one fragment before.
    Duplicate,
    /// Some of its bytes have come before in another cut, or it contradicts where the datagram ends.
    Overlap,
    /// The datagram lies about in more pieces than are kept.
    Scattered,
}

/// The pieces of one datagram, none of which overlap.
///
/// Neighbours are joined only when there is no room for another piece: as long as each is as it came, one that comes twice is known from
/// one that overlaps.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// In order; only the first `count` count.
    spans: [(u16, u16); FRAGMENT_PIECES_MAX],
    count: usize,
    joined: bool,
    /// Where the datagram ends, once its last fragment has come.
    total: Option<u16>,
    /// Bytes that have come.
    bytes: u16,
}

impl Pieces {
    /// Nothing has come.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: [(0, 0); FRAGMENT_PIECES_MAX], count: 0, joined: false, total: None, bytes: 0 }
    }

    /// Nothing has come again.
    pub const fn clear(&mut self) {
        self.count = 0;
        self.joined = false;
        self.total = None;
        self.bytes = 0;
    }

    /// Whether all bytes have come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.bytes)
    }

    /// Takes a piece that is not empty. When it does not fit, everything is as it was.
    pub fn add(&mut self, piece: Piece) -> Result<(), Misfit> {
        let Piece { start, end, more } = piece;
        let spans = &self.spans[..self.count];
        let at = spans.partition_point(|&(_, before)| before <= start);
        if let Some(&next) = spans.get(at)
            && next.0 < end
        {
            let is_last = self.total == Some(end);
            return Err(if next == (start, end) && is_last != more && !self.joined {
                Misfit::Duplicate
            } else {
                Misfit::Overlap
            });
        }
        let contradicts = match self.total {
            Some(total) => !more || end >= total,
            None => !more && at < spans.len(),
        };
        if contradicts {
            return Err(Misfit::Overlap);
        }
        let at = if self.count < FRAGMENT_PIECES_MAX { at } else { self.make_room(start, end)? };
        self.spans.copy_within(at..self.count, at + 1);
        self.spans[at] = (start, end);
        self.count += 1;
        self.bytes += end - start;
        if !more {
            self.total = Some(end);
        }
        Ok(())
    }

    /// Joins neighbours, and says where a piece belongs afterwards.
    #[cold]
    fn make_room(&mut self, start: u16, end: u16) -> Result<usize, Misfit> {
        let mut joined = [(0, 0); FRAGMENT_PIECES_MAX];
        let mut count = 0;
        for &span in &self.spans[..self.count] {
            match joined[..count].last_mut() {
                Some(last) if last.1 == span.0 => last.1 = span.1,
                _ => {
                    joined[count] = span;
                    count += 1;
                }
            }
        }
        debug_assert!(start < end);
        if count >= FRAGMENT_PIECES_MAX {
            return Err(Misfit::Scattered);
        }
        self.spans = joined;
        self.count = count;
        self.joined = true;
        Ok(self.spans[..count].partition_point(|&(_, before)| before <= start))
    }
}

impl Default for Pieces {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn piece(start: u16, end: u16, more: bool) -> Piece {
        Piece { start, end, more }
    }

    #[test]
    fn rfc5722_what_overlaps_does_not_fit() {
        let known = [piece(0, 800, true), piece(1_600, 2_400, true), piece(3_200, 3_300, false)];
        let rows = [
            ("between two", piece(800, 1_600, true), Ok(())),
            ("a part of the gap", piece(808, 1_592, true), Ok(())),
            ("the same again", piece(1_600, 2_400, true), Err(Misfit::Duplicate)),
            ("the last again", piece(3_200, 3_300, false), Err(Misfit::Duplicate)),
            ("the last, which now goes on", piece(3_200, 3_300, true), Err(Misfit::Overlap)),
            ("one of them, which now ends", piece(1_600, 2_400, false), Err(Misfit::Overlap)),
            ("its end in one", piece(800, 1_608, true), Err(Misfit::Overlap)),
            ("its start in one", piece(792, 1_600, true), Err(Misfit::Overlap)),
            ("within one", piece(8, 16, true), Err(Misfit::Overlap)),
            ("around one", piece(1_592, 2_408, true), Err(Misfit::Overlap)),
            ("all of it", piece(0, 3_300, false), Err(Misfit::Overlap)),
            ("behind the end", piece(3_304, 3_400, true), Err(Misfit::Overlap)),
            ("another end behind it", piece(3_304, 3_400, false), Err(Misfit::Overlap)),
            ("another end before it", piece(2_400, 3_200, false), Err(Misfit::Overlap)),
        ];
        for (what, new, wanted) in rows {
            let mut pieces = Pieces::new();
            known.iter().for_each(|&piece| assert_eq!(pieces.add(piece), Ok(())));
            assert_eq!(pieces.add(new), wanted, "{what}");
        }
    }

    #[test]
    fn an_end_before_what_has_come_contradicts_it() {
        let mut pieces = Pieces::new();
        assert_eq!(pieces.add(piece(1_600, 2_400, true)), Ok(()));
        assert_eq!(pieces.add(piece(800, 1_600, false)), Err(Misfit::Overlap));
        assert_eq!(pieces.add(piece(2_400, 2_408, false)), Ok(()));
        assert!(!pieces.is_complete());
    }

    #[test]
    fn any_number_of_pieces_in_order_fits() {
        let mut pieces = Pieces::new();
        for start in (0..65_520).step_by(8) {
            assert_eq!(pieces.add(piece(start, start + 8, true)), Ok(()));
        }
        assert_eq!(pieces.add(piece(8, 16, true)), Err(Misfit::Overlap), "no longer known from an overlap");
        assert!(!pieces.is_complete());
        assert_eq!(pieces.add(piece(65_520, 65_535, false)), Ok(()));
        assert!(pieces.is_complete());
    }

    #[test]
    fn more_holes_than_are_kept_do_not_fit() {
        let mut pieces = Pieces::new();
        for n in 0..FRAGMENT_PIECES_MAX as u16 {
            assert_eq!(pieces.add(piece(n * 16, n * 16 + 8, true)), Ok(()));
        }
        assert_eq!(pieces.add(piece(65_000, 65_008, true)), Err(Misfit::Scattered));
        assert_eq!(pieces.add(piece(16, 24, true)), Err(Misfit::Duplicate), "nothing was joined in vain");
    }

    /// The same by a map of bytes.
    #[derive(Default)]
    struct Model {
        taken: Vec<Piece>,
    }

    impl Model {
        fn add(&mut self, piece: Piece) -> Result<(), Misfit> {
            if self.taken.contains(&piece) {
                return Err(Misfit::Duplicate);
            }
            let end = self.taken.iter().find(|p| !p.more).map(|p| p.end);
            let furthest = self.taken.iter().map(|p| p.end).max().unwrap_or(0);
            let overlaps = self.taken.iter().any(|p| p.start < piece.end && piece.start < p.end);
            let contradicts =
                end.is_some_and(|end| !piece.more || piece.end >= end) || !piece.more && piece.end < furthest;
            if overlaps || contradicts {
                return Err(Misfit::Overlap);
            }
            self.taken.push(piece);
            Ok(())
        }

        fn is_complete(&self) -> bool {
            let end = self.taken.iter().find(|p| !p.more).map(|p| p.end);
            end == Some(self.taken.iter().map(|p| p.end - p.start).sum())
        }
    }

    proptest! {
        #[test]
        fn pieces_are_as_a_plain_model_has_them(cuts in prop::collection::vec((0u16..40, 1u16..8, prop::bool::weighted(0.9)), 1..100)) {
            let (mut pieces, mut model) = (Pieces::new(), Model::default());
            for (start, length, more) in cuts {
                let piece = piece(start * 8, (start + length) * 8, more);
                prop_assert_eq!(pieces.add(piece), model.add(piece));
                prop_assert_eq!(pieces.is_complete(), model.is_complete());
            }
        }

        #[test]
        fn every_order_completes(sizes in prop::collection::vec(1u16..60, 1..FRAGMENT_PIECES_MAX), seed: u64) {
            let mut cut = Vec::new();
            let mut start = 0;
            for (n, size) in sizes.iter().enumerate() {
                cut.push(piece(start, start + size * 8, n + 1 < sizes.len()));
                start += size * 8;
            }
            let mut state = seed;
            cut.sort_by_cached_key(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state >> 33 });
            let mut pieces = Pieces::new();
            for (n, &piece) in cut.iter().enumerate() {
                prop_assert!(!pieces.is_complete());
                prop_assert_eq!(pieces.add(piece), Ok(()), "{}", n);
            }
            prop_assert!(pieces.is_complete());
        }
    }
}
