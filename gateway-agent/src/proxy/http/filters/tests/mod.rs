//! Filters on whole requests.
