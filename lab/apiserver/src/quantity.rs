//! Resource quantities (`100m`, `1Gi`): only what comparing and checking needs.

/// The value in thousandths; `None` when the text is no quantity.
pub(crate) fn parse(text: &str) -> Option<f64> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let digits = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    for (suffix, factor) in SUFFIXES {
        if let Some(number) = text.strip_suffix(suffix).filter(|n| digits(n)) {
            return number.parse::<f64>().ok().map(|n| n * factor * 1000.0);
        }
    }
    if digits(text) {
        text.parse::<f64>().ok().map(|n| n * 1000.0)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn rows() {
        for (text, milli) in [
            ("1", 1000.0),
            ("100m", 100.0),
            ("1Ki", 1_024_000.0),
            ("1e3", 1_000_000.0),
            ("0.5", 500.0),
        ] {
            assert_eq!(parse(text), Some(milli), "{text}");
        }
        for text in ["", "x", "1Q", "m", "1 Gi", "inf", "nan"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
