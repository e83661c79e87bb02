//! Samples to figures. Ranks, no interpolation: every figure is a value that
//! was measured.

use serde::Serialize;

/// Samples of one quantity, in one unit.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

/// The figures of a set of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    pub median: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    pub samples: usize,
}

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// None without a sample.
    pub fn figures(&self) -> Option<Figures> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Figures {
            median: rank(&sorted, 50),
            p99: rank(&sorted, 99),
            min,
            max,
            samples: sorted.len(),
        })
    }
}

/// The nearest-rank percentile: the smallest value that at least `percent` of
/// the samples do not exceed.
fn rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u32>) -> Samples {
        Samples(values.into_iter().map(f64::from).collect())
    }

    #[test]
    fn no_samples_have_no_figures() {
        assert_eq!(Samples::default().figures(), None);
    }

    #[test]
    fn one_sample_is_all_of_its_figures() {
        let figures = of([7]).figures().unwrap();
        assert_eq!((figures.median, figures.p99, figures.min, figures.max), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn ranks_do_not_depend_on_the_order() {
        let figures = of((1..=200).rev()).figures().unwrap();
        assert_eq!(
            (figures.median, figures.p99, figures.min, figures.max),
            (100.0, 198.0, 1.0, 200.0)
        );
    }

    #[test]
    fn p99_of_few_samples_is_the_largest() {
        assert_eq!(of([3, 1, 2]).figures().unwrap().p99, 3.0);
    }
}
