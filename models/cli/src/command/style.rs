//! Styles of tables and progress bars.

use comfy_table::{LineStyle, TableStyle};
use indicatif::ProgressStyle;

/// Style of tables: a line under the header, none between rows.
pub const TABLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('\u{2500}').junction('\u{2500}'));

/// Style of progress bars.
pub fn progress() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {percent:>3}% {msg} (about {eta} left)").expect("a valid template")
}
