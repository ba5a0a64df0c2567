//! Strategies, error bounds and comparisons that the property tests share.
