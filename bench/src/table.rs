//! Medians and ratios.

/// One variant's samples, and those of the variants it is compared with, round by round.
pub(crate) struct Row<'a> {
    pub(crate) name: &'static str,
    pub(crate) samples: &'a [f64],
    pub(crate) bases: [&'a [f64]; 2],
}

pub(crate) fn print(title: &str, ratios: &[&str], rows: &[Row<'_>]) {
    println!("\n{title}");
    print!("{:<8} {:>14}", "", "median");
    for ratio in ratios {
        print!(" {ratio:>24}");
    }
    println!();
    for row in rows {
        print!("{:<8} {:>14.2}", row.name, median(row.samples));
        for base in row.bases {
            print!(" {:>24}", ratio(row.samples, base));
        }
        println!();
    }
}

/// How one variant compares with another: median, smallest and largest ratio of the rounds.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = ratios.iter().copied().fold(0.0, f64::max);
    format!("{:.3} [{smallest:.3}..{largest:.3}]", median(&ratios))
}

/// The middle sample; of an even number, the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (_, middle) => sorted[middle],
    }
}

/// The smallest sample that is not smaller than this share of all of them.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::{median, percentile};

    #[test]
    fn percentiles() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((percentile(&samples, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(&samples, 1.0) - 100.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
