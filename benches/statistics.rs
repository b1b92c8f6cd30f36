//! Minimum, median, quartiles and pairwise ratios of short runs.

/// The least and the middle of some figures, and how far the others are from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least: what the code costs when nothing disturbs it.
    pub min: f64,
    /// The middle one; of an even number, the mean of the two middle ones.
    pub median: f64,
    /// A quarter is below the first, a quarter above the second.
    pub quartiles: [f64; 2],
}

impl Summary {
    /// Half of the figures are no further apart than this.
    #[must_use]
    pub const fn spread(&self) -> f64 {
        self.quartiles[1] - self.quartiles[0]
    }
}

/// Summary of some figures; none of no figures, or when one is not a number.
#[must_use]
pub fn summary(figures: &[f64]) -> Option<Summary> {
    if figures.iter().any(|f| f.is_nan()) {
        return None;
    }
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let &min = sorted.first()?;
    let [first, median, third] = [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share));
    Some(Summary { min, median, quartiles: [first, third] })
}

/// The figure that a share of all is below, between two neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Ratio of each subject to what was measured beside it, summarised. None when there are not as many of both, or one of these is not positive.
#[must_use]
pub fn pairwise(subjects: &[f64], others: &[f64]) -> Option<Summary> {
    if subjects.len() != others.len() || others.iter().any(|&f| f <= 0.0) {
        return None;
    }
    let ratios: Vec<f64> = subjects.iter().zip(others).map(|(s, f)| s / f).collect();
    summary(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_middle_and_quartiles() {
        type Row = (&'static [f64], Option<(f64, f64, [f64; 2])>);
        let rows: &[Row] = &[
            (&[], None),
            (&[3.0], Some((3.0, 3.0, [3.0, 3.0]))),
            (&[5.0, 1.0, 9.0], Some((1.0, 5.0, [3.0, 7.0]))),
            (&[4.0, 1.0, 3.0, 2.0], Some((1.0, 2.5, [1.75, 3.25]))),
            (&[5.0, 4.0, 3.0, 2.0, 1.0], Some((1.0, 3.0, [2.0, 4.0]))),
            (&[1.0, f64::NAN], None),
        ];
        for (figures, want) in rows {
            assert_eq!(summary(figures).map(|s| (s.min, s.median, s.quartiles)), *want, "{figures:?}");
        }
        assert_eq!(summary(&[5.0, 4.0, 3.0, 2.0, 1.0]).map(|s| s.spread()), Some(2.0));
    }

    #[test]
    fn ratios_are_of_neighbours_not_of_summaries() {
        // The second pair met a neighbour's load: both doubled, the ratio stayed.
        let ratios = pairwise(&[20.0, 40.0, 22.0], &[10.0, 20.0, 10.0]);
        assert_eq!(ratios.map(|r| (r.min, r.median)), Some((2.0, 2.0)));
        assert_eq!(pairwise(&[1.0], &[]), None);
        assert_eq!(pairwise(&[1.0], &[0.0]), None);
    }
}
