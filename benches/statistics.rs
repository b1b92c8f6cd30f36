//! Minimum, median and pairwise ratios of short runs.

/// The least and the middle of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least: what the code costs when nothing disturbs it.
    pub min: f64,
    /// The middle one; of an even number, the mean of the two middle ones.
    pub median: f64,
}

/// Summary of some figures; none of no figures, or when one is not a number.
#[must_use]
pub fn summary(figures: &[f64]) -> Option<Summary> {
    if figures.iter().any(|f| f.is_nan()) {
        return None;
    }
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, middle) = (sorted.first()?, sorted.len() / 2);
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some(Summary { min, median })
}

/// Ratio of each subject to the floor measured beside it, summarised. None when there are not as many of both, or a floor is not positive.
#[must_use]
pub fn pairwise(subjects: &[f64], floors: &[f64]) -> Option<Summary> {
    if subjects.len() != floors.len() || floors.iter().any(|&f| f <= 0.0) {
        return None;
    }
    let ratios: Vec<f64> = subjects.iter().zip(floors).map(|(s, f)| s / f).collect();
    summary(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_and_middle() {
        type Row = (&'static [f64], Option<(f64, f64)>);
        let rows: &[Row] = &[
            (&[], None),
            (&[3.0], Some((3.0, 3.0))),
            (&[5.0, 1.0, 9.0], Some((1.0, 5.0))),
            (&[4.0, 1.0, 3.0, 2.0], Some((1.0, 2.5))),
            (&[1.0, f64::NAN], None),
        ];
        for (figures, want) in rows {
            assert_eq!(summary(figures).map(|s| (s.min, s.median)), *want, "{figures:?}");
        }
    }

    #[test]
    fn ratios_are_of_neighbours_not_of_summaries() {
        // The second pair met a neighbour's load: both doubled, the ratio stayed.
        let ratios = pairwise(&[20.0, 40.0, 22.0], &[10.0, 20.0, 10.0]);
        assert_eq!(ratios, Some(Summary { min: 2.0, median: 2.0 }));
        assert_eq!(pairwise(&[1.0], &[]), None);
        assert_eq!(pairwise(&[1.0], &[0.0]), None);
    }
}
