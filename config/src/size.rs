//! Sizes as people write them: `512M`, `2GiB`, `1073741824`.

/// Why a size was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not digits with at most a unit.
    #[error("{0:?} is not a size (digits, then K, M, G or T)")]
    Form(String),
    /// More than 64 bits hold.
    #[error("{0:?} is too large")]
    Overflow(String),
}

/// Bytes of `512M`, `512MiB`, `512mb` (all powers of two) or plain digits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Form(text.to_owned()));
    }
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(SizeError::Form(text.to_owned())),
    };
    let overflow = || SizeError::Overflow(text.to_owned());
    let number: u64 = number.parse().map_err(|_| overflow())?;
    number.checked_mul(1 << shift).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1 << 10),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("2gb", 2 << 30),
            (" 1T ", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "1.5G", "12 parsecs", "0x10", "1MM"] {
            assert_eq!(parse_size(text), Err(SizeError::Form(text.into())), "{text}");
        }
        for text in ["18446744073709551616", "16777216T"] {
            assert_eq!(parse_size(text), Err(SizeError::Overflow(text.into())), "{text}");
        }
    }
}
