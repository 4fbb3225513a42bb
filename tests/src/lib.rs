//! Tests of Sluice.
