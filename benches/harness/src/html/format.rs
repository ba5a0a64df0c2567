//! Numbers, times and dates as text.

use crate::record::{Level, Row};

/// The value if a picture can show it: finite, above zero, clamped to the span of a logarithmic axis. `None` if the
/// picture omits it.
pub(crate) fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then(|| value.clamp(1e-9, 1e15))
}

/// Rounds to `digits` significant digits, but never in the integer part: `1234`, `12.30`, `0.001230`.
pub(crate) fn significant(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    if value == 0.0 {
        return "0".into();
    }
    if !(1e-4..1e9).contains(&value.abs()) {
        return format!("{value:.*e}", digits.max(1) as usize - 1);
    }
    let decimals = digits - 1 - value.abs().log10().floor() as i32;
    format!("{value:.*}", decimals.max(0) as usize)
}

/// As [`significant`], without trailing zeros: `0.5`, `2`, `1.25`.
pub(crate) fn plain(value: f64, digits: i32) -> String {
    let text = significant(value, digits);
    if !text.contains('.') || text.contains('e') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A time in the unit of its magnitude: `12.3 µs`.
pub(crate) fn seconds(value: f64) -> String {
    let (scale, unit) = match value {
        _ if !value.is_finite() => return "–".into(),
        v if v < 1e-6 => (1e9, "ns"),
        v if v < 1e-3 => (1e6, "µs"),
        v if v < 1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{} {unit}", significant(value * scale, 3))
}

/// A share in whole percents.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", share * 100.0) } else { "–".into() }
}

/// A size in the largest binary unit that does not exceed it.
pub(crate) fn bytes(size: usize) -> String {
    let size = size as f64;
    let (scale, unit) = match size {
        s if s >= 1073741824.0 => (1073741824.0, "GiB"),
        s if s >= 1048576.0 => (1048576.0, "MiB"),
        s if s >= 1024.0 => (1024.0, "KiB"),
        _ => (1.0, "B"),
    };
    format!("{} {unit}", plain(size / scale, 3))
}

/// A confidence interval.
pub(crate) fn interval([low, high]: [f64; 2]) -> String {
    format!("{} to {}", significant(low, 3), significant(high, 3))
}

/// A number with its noun, in the regular plural: `1 thread`, `8 threads`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Date and time in UTC by ISO 8601, from seconds since 1970: `2026-03-01T12:00:00Z`.
pub(crate) fn date(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day is the last of its year; eras
    // of 400 years all have the same number of days (Howard Hinnant, "chrono-compatible low-level
    // date algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The name of a level in tables and pictures.
pub(crate) fn level(level: Level) -> &'static str {
    match level {
        Level::L1 => "L1",
        Level::L2 => "L2",
        Level::L3 => "L3",
        Level::Memory => "memory",
    }
}

/// Recorded rate in 10^9 operations per second, or the rate computed from the time.
pub(crate) fn gflops(row: &Row) -> Option<f64> {
    positive(row.flops)?;
    row.gflops.and_then(positive).or_else(|| positive(row.flops / row.median_s? / 1e9))
}

/// Recorded rate in 10^9 bytes per second, or the rate computed from the time.
pub(crate) fn gbps(row: &Row) -> Option<f64> {
    row.gbps.and_then(positive).or_else(|| positive(row.bytes / row.median_s? / 1e9))
}

/// A sentence about a row, for the titles of marks.
pub(crate) fn describe(row: &Row) -> String {
    let mut text = row.name();
    match row.median_s.and_then(positive) {
        None => text.push_str(": no such kernel yet"),
        Some(time) => {
            text.push_str(&format!(": {}", seconds(time)));
            match gflops(row) {
                Some(rate) => text.push_str(&format!(", {} GFLOP/s", significant(rate, 3))),
                None => {
                    if let Some(rate) = gbps(row) {
                        text.push_str(&format!(", {} GB/s", significant(rate, 3)));
                    }
                }
            }
        }
    }
    if let Some(share) = row.bound_fraction.filter(|share| share.is_finite()) {
        text.push_str(&format!(", {} of the bound, {}", percent(share), level(row.level)));
    }
    if row.unstable {
        text.push_str(", unstable");
    }
    text
}
