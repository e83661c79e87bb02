//! The clock chip of a PC (MC146818), as far as kernels read it: the time,
//! and status registers that say it is valid. Without it a kernel waits for
//! an update that never ends. Alarms and memory are not there.

use std::time::{SystemTime, UNIX_EPOCH};

/// The chip.
#[derive(Debug, Default, Clone)]
pub struct Cmos {
    index: u8,
}

impl Cmos {
    /// Writes index (offset 0) or data (offset 1; ignored).
    pub fn write(&mut self, offset: u8, value: u8) {
        if offset == 0 {
            self.index = value & 0x7f;
        }
    }

    /// Reads index or data.
    pub fn read(&self, offset: u8) -> u8 {
        if offset == 0 {
            return self.index;
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        register(self.index, seconds)
    }

    /// The selected register, for saving.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// A chip with a register selected.
    pub fn with_index(index: u8) -> Cmos {
        Cmos { index: index & 0x7f }
    }
}

/// The value of a register at a time given in seconds since 1970.
fn register(index: u8, seconds: u64) -> u8 {
    let (year, month, day) = civil(seconds / 86400);
    match index {
        0x00 => bcd(seconds % 60),
        0x02 => bcd(seconds / 60 % 60),
        0x04 => bcd(seconds / 3600 % 24),
        // 1970-01-01 was a Thursday; Sunday is 1.
        0x06 => bcd((seconds / 86400 + 4) % 7 + 1),
        0x07 => bcd(day),
        0x08 => bcd(month),
        0x09 => bcd(year % 100),
        // 32768 Hz time base, no update in progress.
        0x0a => 0x26,
        // 24 hours, BCD.
        0x0b => 0x02,
        // The battery is good.
        0x0d => 0x80,
        0x32 => bcd(year / 100),
        _ => 0,
    }
}

fn bcd(value: u64) -> u8 {
    (value / 10 % 10 * 16 + value % 10) as u8
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted
/// from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_told_in_decimal_digits() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let at = |index| register(index, 1_709_251_198);
        let read: Vec<u8> = [0x32, 9, 8, 7, 6, 4, 2, 0].map(at).into();
        assert_eq!(read, [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
    }

    #[test]
    fn no_update_is_ever_in_progress() {
        let mut cmos = Cmos::default();
        cmos.write(0, 0x8a);
        assert_eq!(cmos.read(1) & 0x80, 0);
    }
}
