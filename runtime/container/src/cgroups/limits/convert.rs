//! Values of v1 turned into values of v2.
//!
//! Shares become a weight by the curve through (2, 1), (1024, 100) and (262144, 10000) that runc has
//! since 1.3.2, crun since 1.23 and youki: both defaults meet. Before, all had a straight line from
//! 2 to 262144, on which the default of v1 was less than half of that of v2.

use crate::cgroups::error::{Error, Result};

/// `cpu.shares` to `cpu.weight`; 0 stays 0 (unset).
pub(crate) fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1 | 2 => 1,
        262_144.. => 10_000,
        shares => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// `blkio.weight` (10..1000) to `io.weight` (1..10000); 0 stays 0 (unset).
pub(crate) fn blkio_to_io_weight(weight: u16) -> u64 {
    match u64::from(weight) {
        0 => 0,
        weight @ 1..10 => weight,
        weight => 1 + (weight.min(1000) - 10) * 9999 / 990,
    }
}

/// Memory plus swap to swap alone. `None`: leave it.
pub(crate) fn swap(total: Option<i64>, memory: Option<i64>) -> Result<Option<i64>> {
    let bad = |reason: &str| Err(Error::value("memory.swap", reason));
    match (total, memory) {
        // On v1, memory without limit means swap without limit.
        (None, Some(-1)) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(-1), _) => Ok(Some(-1)),
        (Some(_), None | Some(-1)) => bad("cannot be limited without memory.limit"),
        (Some(total), Some(memory)) if total < memory => {
            bad("is less than memory.limit, which it includes")
        }
        (Some(total), Some(memory)) => Ok(Some(total - memory)),
    }
}

/// A number, or `max` for -1.
pub(crate) fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_onto_weights() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (100, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (22_000, 1204),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(shares_to_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn block_weights_map_onto_io_weights() {
        for (weight, io) in [(0, 0), (10, 1), (500, 4950), (1000, 10_000), (u16::MAX, 10_000)] {
            assert_eq!(blkio_to_io_weight(weight), io, "{weight}");
        }
    }

    #[test]
    fn swap_is_the_difference() {
        assert_eq!(swap(Some(300), Some(100)).unwrap(), Some(200));
        assert_eq!(swap(Some(100), Some(100)).unwrap(), Some(0));
        assert_eq!(swap(Some(-1), Some(100)).unwrap(), Some(-1));
        assert_eq!(swap(None, Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap(None, Some(5)).unwrap(), None);
        assert_eq!(swap(None, None).unwrap(), None);
        assert!(swap(Some(50), Some(100)).is_err());
        assert!(swap(Some(50), None).is_err());
    }
}
